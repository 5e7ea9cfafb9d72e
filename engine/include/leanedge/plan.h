// A cache plan as the engine reads it: one block of memory, written by TypeScript
// (src/engine/plan/binary.ts) and used in place, without parsing. docs/plan-format.md says what
// the fields mean and which plans are legal; docs/page-format.md what they do to a page.
//
// The block: CachePlan, then widths (layers, kv_heads) u16, then, from the next multiple of 4,
// channels (channel_count) u16: the kept channels of layer 0 head 0, layer 0 head 1, ... in
// order, `width` of each. All little endian.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "leanedge/model.h"
#include "leanedge/status.h"

namespace leanedge {

inline constexpr uint32_t kPlanMagic = 0x504b454c;  // "LEKP" as bytes
inline constexpr uint32_t kPlanVersion = 1;
inline constexpr int32_t kKvHeadsMax = 256;
inline constexpr int32_t kSinkMax = 32768;
inline constexpr int32_t kRecentMax = 32768;
inline constexpr int32_t kPagesPerStepMax = 32768;  // kContextMax / 32 slots
inline constexpr int32_t kWidthStep = 16;           // widths are multiples of this, or head_dim
inline constexpr size_t kPlanBytesMax = 16u << 20;  // ends sizes that no model needs

// How archive pages store K or V. The numbers stand in plan blocks: never renumber.
enum class PageStorage : int32_t { kF16 = 0, kInt8 = 1, kInt4 = 2, kInt2 = 3 };

// Bits of one stored value: 16, 8, 4 or 2.
constexpr int32_t storage_bits(PageStorage storage) { return 16 >> static_cast<int32_t>(storage); }

// Largest code of a quantised value: 255, 15 or 3. Not for f16.
constexpr int32_t storage_levels(PageStorage storage) { return (1 << storage_bits(storage)) - 1; }

struct CachePlan {
  uint32_t magic;              // kPlanMagic
  uint32_t version;            // kPlanVersion
  uint32_t bytes;              // of the whole block, tables included; a multiple of 4
  int32_t layers;              // 1 .. kLayersMax
  int32_t kv_heads;            // 1 .. kKvHeadsMax
  int32_t head_dim;            // even, 2 .. kHeadDimMax; a multiple of 8 where V is int4 or int2
  int32_t sink;                // tokens, 0 .. kSinkMax
  int32_t recent;              // tokens, 1 .. kRecentMax; the region holds up to recent + 31
  PageStorage k_storage;
  PageStorage v_storage;
  int32_t pages_per_step;      // pages a KV head reads in a decode step; 0: no selection
  int32_t pages_floor;         // an archive of at most this many pages is read whole; 0: no selection
  int32_t context_tokens_min;  // shortest context the plan was made for, 0 .. kContextMax
  int32_t context_tokens_max;  // longest, context_tokens_min .. kContextMax
  int32_t evicting;            // 1: pages carry a count and positions per layer and head
  uint32_t channel_count;      // the sum of all widths
};
static_assert(sizeof(CachePlan) == 64, "CachePlan is written by TypeScript at fixed offsets");
static_assert(offsetof(CachePlan, k_storage) == 32, "CachePlan is written by TypeScript");
static_assert(offsetof(CachePlan, channel_count) == 60, "CachePlan is written by TypeScript");

// Whether decode steps choose pages; f16 K then stores each channel's minimum and maximum.
constexpr bool plan_selects(const CachePlan& plan) { return plan.pages_per_step != 0; }

// Bytes of the plan's block for `channel_count` kept channels in all.
constexpr size_t plan_bytes(int32_t layers, int32_t kv_heads, size_t channel_count) {
  const size_t widths = static_cast<size_t>(layers) * static_cast<size_t>(kv_heads) * 2;
  const size_t channels = (sizeof(CachePlan) + widths + 3) / 4 * 4;
  return (channels + channel_count * 2 + 3) / 4 * 4;
}

// (layers, kv_heads) u16: K channels that each head keeps in the archive. 0: it keeps no V either.
inline const uint16_t* plan_widths(const CachePlan* plan) {
  return reinterpret_cast<const uint16_t*>(plan + 1);
}

// (channel_count) u16: kept channels, strictly increasing within each head, below head_dim, in
// half-rotation order. PageHead::channels (page.h) says where a head's list begins.
inline const uint16_t* plan_channels(const CachePlan* plan) {
  const size_t widths = static_cast<size_t>(plan->layers) * static_cast<size_t>(plan->kv_heads) * 2;
  return reinterpret_cast<const uint16_t*>(reinterpret_cast<const uint8_t*>(plan) +
                                           (sizeof(CachePlan) + widths + 3) / 4 * 4);
}

// Whether a block is a legal plan, whatever the model. Reads at most `bytes_max` bytes from
// `plan`, which is 4-byte aligned. kInvalidPlan otherwise, and `detail` (may be null) says why.
Status plan_check(const CachePlan* plan, size_t bytes_max, ErrorDetail* detail);

// Whether a legal plan fits a model: same layers, KV heads and head_dim. kInvalidPlan otherwise.
Status plan_fits(const CachePlan* plan, const ModelConfig& config, ErrorDetail* detail);

// The identity plan, 'keep everything': width head_dim everywhere, f16, no selection, not
// evicting, any context. `memory` takes plan_bytes(layers, kv_heads, layers * kv_heads *
// head_dim) bytes and is 4-byte aligned; arguments are in the ranges above.
void plan_identity_write(void* memory, int32_t layers, int32_t kv_heads, int32_t head_dim,
                         int32_t sink, int32_t recent);

}  // namespace leanedge
