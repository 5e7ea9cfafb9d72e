// A cache plan as the engine reads it: one block of memory, written by TypeScript
// (src/engine/plan/binary.ts) and used in place, without parsing. docs/plan-format.md says what
// the fields mean and which plans are legal; docs/page-format.md what they do to a page.
//
// The block holds the plan and the page layout that follows from it, so that a kernel needs
// nothing else: CachePlan, PageLayer (layers), PageHead (layers, kv_heads), then channels
// (channel_count) u16: the kept channels of layer 0 head 0, layer 0 head 1, ... All little endian,
// no pointers: a copy on a device is as good.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "leanedge/model.h"
#include "leanedge/sequence.h"
#include "leanedge/status.h"

namespace leanedge {

inline constexpr uint32_t kPlanMagic = 0x504b454c;  // "LEKP" as bytes
inline constexpr uint32_t kPlanVersion = 1;
inline constexpr int32_t kKvHeadsMax = 256;
inline constexpr int32_t kSinkMax = 32768;
inline constexpr int32_t kRecentMax = 32768;
inline constexpr int32_t kPagesPerStepMax = 32768;     // kContextMax / kPageSlots
inline constexpr int32_t kWidthStep = 16;              // widths are multiples of this, or head_dim
inline constexpr int32_t kGroupChannels = 32;          // V channels that share a scale and a min
inline constexpr uint32_t kSectionAlign = 16;          // bytes
inline constexpr uint32_t kNoSection = 0xffffffff;     // offset of a section that a plan lacks
inline constexpr uint32_t kPageBytesMax = 0x7fffffff;  // of a page, all layers together

// How archive pages store K or V. The numbers stand in plan blocks: never renumber.
enum class PageStorage : int32_t { kF16 = 0, kInt8 = 1, kInt4 = 2, kInt2 = 3 };

// Bits of one stored value: 16, 8, 4 or 2.
constexpr int32_t storage_bits(PageStorage storage) { return 16 >> static_cast<int32_t>(storage); }

// Largest code of a quantised value: 255, 15 or 3. Not for f16.
constexpr int32_t storage_levels(PageStorage storage) { return (1 << storage_bits(storage)) - 1; }

struct CachePlan {
  uint32_t magic;              // kPlanMagic
  uint32_t version;            // kPlanVersion
  uint32_t bytes;              // of the whole block: plan_bytes(layers, kv_heads, channel_count)
  int32_t layers;              // 1 .. kLayersMax
  int32_t kv_heads;            // 1 .. kKvHeadsMax
  int32_t head_dim;            // even, 2 .. kHeadDimMax; a multiple of 8 where V is int4 or int2
  int32_t sink;                // tokens, 0 .. kSinkMax
  int32_t recent;              // tokens, 1 .. kRecentMax; the region holds up to recent + 31
  PageStorage k_storage;
  PageStorage v_storage;
  int32_t pages_per_step;      // pages a KV head reads in a decode step; 0: no selection
  int32_t pages_floor;         // an archive of at most this many pages is read whole; 0: no selection
  int32_t context_tokens_min;  // shortest context that the plan is for, 0 .. kContextMax
  int32_t context_tokens_max;  // longest, context_tokens_min .. kContextMax
  int32_t evicting;            // 1: pages carry a count and positions per layer and head
  uint32_t channel_count;      // the sum of all widths
  // What follows from the above.
  uint32_t page_bytes;         // all layer blocks, at most kPageBytesMax
  uint32_t k_channel_bytes;    // K values of one channel of a page: 64, 32, 16 or 8
  uint32_t v_row_bytes;        // V values of one slot: head_dim * bits / 8, not padded
  int32_t v_groups;            // groups of 32 channels in a V row; the last may be shorter
};
static_assert(sizeof(CachePlan) == 80, "CachePlan is written by TypeScript at fixed offsets");
static_assert(offsetof(CachePlan, k_storage) == 32, "CachePlan is written by TypeScript");
static_assert(offsetof(CachePlan, channel_count) == 60, "CachePlan is written by TypeScript");

// One layer of a page.
struct PageLayer {
  uint32_t offset;  // of the layer block in a serialised page
  uint32_t bytes;   // of the layer block, a multiple of 16; 0 where all heads have width 0
};
static_assert(sizeof(PageLayer) == 8, "PageLayer is written by TypeScript");

// The sections of one head, as offsets from the start of its LAYER block; kNoSection where the
// plan has none. docs/page-format.md has their shapes.
struct PageHead {
  uint32_t width;      // K channels kept; 0: the head keeps neither K nor V, and has no section
  uint32_t channels;   // index of the head's first entry in plan_channels()
  uint32_t offset;     // of the head block; for width 0 where the next head's begins
  uint32_t bytes;      // of the head block, a multiple of 16; 0 for width 0
  uint32_t k_values;   // (width, 32) f16 or codes, channel-major
  uint32_t k_scale;    // (width) f16; quantised K only
  uint32_t k_min;      // (width) f16; quantised K, or f16 K with page selection
  uint32_t k_max;      // (width) f16; f16 K with page selection only
  uint32_t v_values;   // (32, head_dim) f16 or codes, slot-major
  uint32_t v_scale;    // (v_groups, 32) f16; quantised V only
  uint32_t v_min;      // (v_groups, 32) f16; quantised V only
  uint32_t count;      // u32; evicting plans only
  uint32_t positions;  // (32) u32; evicting plans only
  uint32_t reserved;   // 0
};
static_assert(sizeof(PageHead) == 56, "PageHead is written by TypeScript");

// Whether decode steps choose pages; f16 K then stores each channel's minimum and maximum.
constexpr bool plan_selects(const CachePlan& plan) { return plan.pages_per_step != 0; }

// Bytes of a plan's block for `channel_count` kept channels in all; a multiple of 4.
constexpr size_t plan_bytes(int32_t layers, int32_t kv_heads, size_t channel_count) {
  return sizeof(CachePlan) + static_cast<size_t>(layers) * sizeof(PageLayer) +
         static_cast<size_t>(layers) * static_cast<size_t>(kv_heads) * sizeof(PageHead) +
         (channel_count * 2 + 3) / 4 * 4;
}

// Layer `layer` of a page.
inline const PageLayer& plan_layer(const CachePlan& plan, int32_t layer) {
  return reinterpret_cast<const PageLayer*>(&plan + 1)[layer];
}

// Head `head` of layer `layer` of a page.
inline const PageHead& plan_head(const CachePlan& plan, int32_t layer, int32_t head) {
  const PageLayer* layers = reinterpret_cast<const PageLayer*>(&plan + 1);
  const PageHead* heads = reinterpret_cast<const PageHead*>(layers + plan.layers);
  return heads[static_cast<size_t>(layer) * static_cast<size_t>(plan.kv_heads) +
               static_cast<size_t>(head)];
}

// (channel_count) u16: kept channels, strictly increasing within each head, below head_dim, in
// half-rotation order. Those of a head: plan_channels(plan) + plan_head(...).channels, (width).
inline const uint16_t* plan_channels(const CachePlan& plan) {
  return reinterpret_cast<const uint16_t*>(&plan_head(plan, plan.layers, 0));
}

// Channels of V group `group`: 32, or fewer in the last one.
constexpr int32_t v_group_channels(int32_t head_dim, int32_t group) {
  const int32_t rest = head_dim - group * kGroupChannels;
  return rest < kGroupChannels ? rest : kGroupChannels;
}

// Bytes of the sink and recent regions of one sequence: (sink + recent + 32) rows of K and of V,
// f16, of every layer and KV head.
constexpr uint64_t plan_zone_bytes(const CachePlan& plan) {
  return static_cast<uint64_t>(plan.sink + plan.recent + kPageSlots) *
         static_cast<uint64_t>(plan.layers) * static_cast<uint64_t>(plan.kv_heads) *
         static_cast<uint64_t>(plan.head_dim) * 4;
}

// Bytes of cache of a sequence of `tokens` tokens, page tables aside; the archive has nothing
// evicted.
constexpr uint64_t plan_cache_bytes(const CachePlan& plan, int32_t tokens) {
  return plan_zone_bytes(plan) +
         static_cast<uint64_t>(archive_pages(tokens, plan.sink, plan.recent)) * plan.page_bytes;
}

// Whether a block is a legal plan with the layout that this engine computes for it, whatever the
// model. Reads at most `bytes_max` bytes; `plan` is 4-byte aligned. kInvalidPlan otherwise, and
// `detail` (may be null) says why.
Status plan_check(const CachePlan* plan, size_t bytes_max, ErrorDetail* detail);

// Whether a legal plan fits a model: same layers, KV heads and head_dim. kInvalidPlan otherwise.
Status plan_fits(const CachePlan& plan, const ModelConfig& config, ErrorDetail* detail);

// Fills in all that follows from the header's fields and each head's width: `bytes`, the last four
// fields, PageLayer and PageHead. Returns the page's bytes, which may exceed kPageBytesMax;
// page_bytes and the offsets then mean nothing.
uint64_t plan_layout_write(CachePlan* plan);

// The identity plan, 'keep everything': width head_dim everywhere, f16, no selection, not
// evicting, any context. `memory` takes plan_bytes(layers, kv_heads, layers * kv_heads * head_dim)
// bytes and is 4-byte aligned; the arguments are in the ranges above.
void plan_identity_write(void* memory, int32_t layers, int32_t kv_heads, int32_t head_dim,
                         int32_t sink, int32_t recent);

}  // namespace leanedge
