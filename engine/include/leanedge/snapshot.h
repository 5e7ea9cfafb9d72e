// The header of a serialised cache: docs/page-format.md section 3. Engines write and read snapshots
// without the checksum, and leave the fingerprints to the host.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "leanedge/plan.h"
#include "leanedge/status.h"

namespace leanedge {

inline constexpr uint32_t kSnapshotMagic = 0x564b454c;  // "LEKV" as bytes
inline constexpr uint32_t kSnapshotVersion = 1;
inline constexpr uint32_t kSnapshotEvicting = 1;        // bit of SnapshotHeader::flags
inline constexpr uint32_t kSnapshotChecksumBytes = 32;  // SHA-256 after everything else

struct SnapshotHeader {
  uint32_t magic;
  uint32_t version;
  uint64_t bytes;          // of the whole snapshot, the checksum included
  uint32_t layers;
  uint32_t kv_heads;
  uint32_t head_dim;
  uint32_t page_bytes;
  uint8_t model[32];       // zero when an engine writes it
  uint8_t chat_template[32];
  uint8_t plan[32];
  uint32_t log_tokens;
  uint32_t cache_tokens;   // the first tokens of the log, whose K and V follow
  uint32_t segments;
  uint32_t sink_rows;
  uint32_t recent_rows;
  uint32_t pages;
  uint32_t next_position;  // cache_tokens unless the plan is evicting
  uint32_t flags;
  uint64_t rows_offset;
  uint64_t pages_offset;
  uint64_t checksum_offset;
  uint64_t reserved;       // 0
};
static_assert(sizeof(SnapshotHeader) == 192, "the header of page-format.md 3.1");
static_assert(offsetof(SnapshotHeader, log_tokens) == 128, "the header of page-format.md 3.1");
static_assert(offsetof(SnapshotHeader, rows_offset) == 160, "the header of page-format.md 3.1");

// One entry of the log: kind and count, then `count` ids, u32 each.
struct SnapshotSegment {
  uint32_t kind;   // SegmentKind
  uint32_t count;  // at least 1
};

// Writes the header of a sequence with nothing evicted, all of whose zones follow from
// `cache_tokens`; fingerprints are zero.
void snapshot_header_write(const CachePlan& plan, uint32_t log_tokens, uint32_t cache_tokens,
                           uint32_t segments, SnapshotHeader* out);

// Whether `header` begins a snapshot of `bytes` bytes (without the checksum) under a legal plan,
// with a log of at most `context_tokens_max` tokens. After kOk all counts and offsets of the header
// can be trusted: they follow from each other and from the plan. kInvalidSnapshot otherwise.
Status snapshot_header_check(const SnapshotHeader& header, const CachePlan& plan, uint64_t bytes,
                             int32_t context_tokens_max, ErrorDetail* detail);

// Byte offset in a snapshot of the rows of one layer and KV head: K of the sink rows, K of the
// recent rows, V of the sink rows, V of the recent rows.
uint64_t snapshot_rows_offset(const SnapshotHeader& header, int32_t layer, int32_t head);

// Whether counts and positions of a page of an evicting plan are legal: what page_unpack_ref and
// kernels rely on. `block` is a layer block. kInvalidSnapshot otherwise.
Status snapshot_positions_check(const CachePlan& plan, int32_t layer, const uint8_t* block,
                                ErrorDetail* detail);

}  // namespace leanedge
