#include "leanedge/snapshot.h"

#include <string.h>

#include "error.h"
#include "leanedge/sequence.h"

namespace leanedge {
namespace {

uint64_t align16(uint64_t bytes) { return (bytes + 15) / 16 * 16; }

uint64_t head_rows_bytes(const SnapshotHeader& header) {
  return (static_cast<uint64_t>(header.sink_rows) + header.recent_rows) * header.head_dim * 4;
}

// Fills in the offsets and sizes that follow from the counts.
void set_offsets(const CachePlan& plan, SnapshotHeader* header) {
  const uint64_t log = 8ull * header->segments + 4ull * header->log_tokens;
  const uint64_t heads =
      static_cast<uint64_t>(plan.layers) * static_cast<uint64_t>(plan.kv_heads);
  header->rows_offset = sizeof(SnapshotHeader) + align16(log);
  header->pages_offset = header->rows_offset + align16(heads * head_rows_bytes(*header));
  header->checksum_offset =
      header->pages_offset + static_cast<uint64_t>(header->pages) * plan.page_bytes;
  header->bytes = header->checksum_offset + kSnapshotChecksumBytes;
}

struct Field {
  const char* message;
  uint64_t value;
  uint64_t bound;
};

template <size_t N>
Status check_each(const Field (&fields)[N], bool equal, ErrorDetail* detail) {
  for (const Field& field : fields) {
    if (equal ? field.value == field.bound : field.value <= field.bound) continue;
    const int64_t args[] = {static_cast<int64_t>(field.value), static_cast<int64_t>(field.bound)};
    return error_set(detail, Status::kInvalidSnapshot, args[0], args[1], field.message, args);
  }
  return Status::kOk;
}

}  // namespace

void snapshot_header_write(const CachePlan& plan, uint32_t log_tokens, uint32_t cache_tokens,
                           uint32_t segments, SnapshotHeader* out) {
  const uint32_t sink = static_cast<uint32_t>(plan.sink);
  memset(out, 0, sizeof(*out));
  out->magic = kSnapshotMagic;
  out->version = kSnapshotVersion;
  out->layers = static_cast<uint32_t>(plan.layers);
  out->kv_heads = static_cast<uint32_t>(plan.kv_heads);
  out->head_dim = static_cast<uint32_t>(plan.head_dim);
  out->page_bytes = plan.page_bytes;
  out->log_tokens = log_tokens;
  out->cache_tokens = cache_tokens;
  out->segments = segments;
  out->sink_rows = cache_tokens < sink ? cache_tokens : sink;
  out->pages = static_cast<uint32_t>(
      archive_pages(static_cast<int32_t>(cache_tokens), plan.sink, plan.recent));
  out->recent_rows =
      cache_tokens - out->sink_rows - out->pages * static_cast<uint32_t>(kPageSlots);
  out->next_position = cache_tokens;
  out->flags = plan.evicting ? kSnapshotEvicting : 0;
  set_offsets(plan, out);
}

Status snapshot_header_check(const SnapshotHeader& header, const CachePlan& plan, uint64_t bytes,
                             int32_t context_tokens_max, ErrorDetail* detail) {
  const Field fixed[] = {
      {"snapshot: magic is #, must be #", header.magic, kSnapshotMagic},
      {"snapshot: version is #, must be #", header.version, kSnapshotVersion},
      {"snapshot: layers is #, the plan has #", header.layers, static_cast<uint64_t>(plan.layers)},
      {"snapshot: kv_heads is #, the plan has #", header.kv_heads,
       static_cast<uint64_t>(plan.kv_heads)},
      {"snapshot: head_dim is #, the plan has #", header.head_dim,
       static_cast<uint64_t>(plan.head_dim)},
      {"snapshot: page_bytes is #, the plan has #", header.page_bytes, plan.page_bytes},
      {"snapshot: flags are #, must be #", header.flags, plan.evicting ? kSnapshotEvicting : 0u},
      {"snapshot: reserved field is #, must be #", header.reserved, 0},
  };
  Status status = check_each(fixed, true, detail);
  if (status != Status::kOk) return status;
  const Field limits[] = {
      {"snapshot: log_tokens is #, at most #", header.log_tokens,
       static_cast<uint64_t>(context_tokens_max)},
      {"snapshot: cache_tokens is #, at most log_tokens, #", header.cache_tokens,
       header.log_tokens},
      {"snapshot: segments is #, at most #", header.segments, kSegmentsMax},
      {"snapshot: more segments than tokens: #, at most #", header.segments, header.log_tokens},
  };
  status = check_each(limits, false, detail);
  if (status != Status::kOk) return status;

  SnapshotHeader expected;
  snapshot_header_write(plan, header.log_tokens, header.cache_tokens, header.segments, &expected);
  if (plan.evicting) {
    const uint64_t region = static_cast<uint64_t>(plan.recent) + kPageSlots - 1;
    const Field evicted[] = {
        {"snapshot: sink_rows is #, at most #", header.sink_rows, expected.sink_rows},
        {"snapshot: recent_rows is #, at most #", header.recent_rows,
         header.cache_tokens < region ? header.cache_tokens : region},
        {"snapshot: pages is #, at most #", header.pages, expected.pages},
        {"snapshot: next_position is #, at most #", header.next_position, kContextMax},
    };
    status = check_each(evicted, false, detail);
    if (status != Status::kOk) return status;
    expected.sink_rows = header.sink_rows;
    expected.recent_rows = header.recent_rows;
    expected.pages = header.pages;
    expected.next_position = header.next_position;
    set_offsets(plan, &expected);
  }
  const Field derived[] = {
      {"snapshot: sink_rows is #, must be #", header.sink_rows, expected.sink_rows},
      {"snapshot: recent_rows is #, must be #", header.recent_rows, expected.recent_rows},
      {"snapshot: pages is #, must be #", header.pages, expected.pages},
      {"snapshot: next_position is #, must be #", header.next_position, expected.next_position},
      {"snapshot: rows_offset is #, must be #", header.rows_offset, expected.rows_offset},
      {"snapshot: pages_offset is #, must be #", header.pages_offset, expected.pages_offset},
      {"snapshot: checksum_offset is #, must be #", header.checksum_offset,
       expected.checksum_offset},
      {"snapshot: bytes is #, must be #", header.bytes, expected.bytes},
      {"snapshot: # bytes are there, without the checksum it has #", bytes,
       expected.checksum_offset},
  };
  return check_each(derived, true, detail);
}

uint64_t snapshot_rows_offset(const SnapshotHeader& header, int32_t layer, int32_t head) {
  const uint64_t index =
      static_cast<uint64_t>(layer) * header.kv_heads + static_cast<uint64_t>(head);
  return header.rows_offset + index * head_rows_bytes(header);
}

Status snapshot_positions_check(const CachePlan& plan, int32_t layer, const uint8_t* block,
                                ErrorDetail* detail) {
  for (int32_t head = 0; head < plan.kv_heads; ++head) {
    const PageHead& at = plan_head(plan, layer, head);
    if (at.count == kNoSection) continue;
    uint32_t count;
    uint32_t positions[kPageSlots];
    memcpy(&count, block + at.count, sizeof(count));
    memcpy(positions, block + at.positions, sizeof(positions));
    if (count < 1 || count > static_cast<uint32_t>(kPageSlots)) {
      const int64_t args[] = {layer, head, count, kPageSlots};
      return error_set(detail, Status::kInvalidSnapshot, count, kPageSlots,
                       "snapshot: count of layer #, KV head # is #, must be 1 .. #", args);
    }
    for (uint32_t slot = 1; slot < count; ++slot) {
      if (positions[slot] > positions[slot - 1]) continue;
      const int64_t args[] = {slot, layer, head, positions[slot], positions[slot - 1]};
      return error_set(detail, Status::kInvalidSnapshot, positions[slot], positions[slot - 1],
                       "snapshot: position of slot # of layer #, KV head # is #, must be above #",
                       args);
    }
  }
  return Status::kOk;
}

}  // namespace leanedge
