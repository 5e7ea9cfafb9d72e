// Where everything stands inside an archive page, and the scalar reference of packing one.
// docs/page-format.md is the contract, byte by byte; src/engine/page/ is its executable form.
//
// A layer block is what one page holds of one layer: head blocks in order, each
//   K values     (width, 32) channel-major: the 32 slots of a kept channel side by side
//   K scale      (width) f16, quantised K only
//   K min        (width) f16, quantised K, or f16 K with page selection
//   K max        (width) f16, f16 K with page selection only
//   V values     (32, head_dim) slot-major
//   V scale      (v_groups, 32) f16, quantised V only; a group is 32 channels of a slot
//   V min        (v_groups, 32) f16, quantised V only
//   count        u32, evicting plans only
//   positions    (32) u32, evicting plans only
// Sections begin at multiples of 16; padding is zero. A head of width 0 has no block.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "leanedge/plan.h"
#include "leanedge/sequence.h"
#include "leanedge/status.h"

namespace leanedge {

inline constexpr int32_t kGroupChannels = 32;       // V channels that share a scale and a min
inline constexpr uint32_t kSectionAlign = 16;       // bytes
inline constexpr uint32_t kNoSection = 0xffffffff;  // offset of a section that a plan lacks
inline constexpr uint64_t kPageBytesMax = 0x7fffffff;  // of a page, all layers together

// The sections of one head, as offsets from the start of its LAYER block; kNoSection where the
// plan has none, and everywhere but in `channels` where width is 0.
struct PageHead {
  uint32_t offset;     // head block; for width 0 where the next head's begins
  uint32_t bytes;      // of the head block, a multiple of 16; 0 for width 0
  uint32_t k_values;
  uint32_t k_scale;
  uint32_t k_min;
  uint32_t k_max;
  uint32_t v_values;
  uint32_t v_scale;
  uint32_t v_min;
  uint32_t count;
  uint32_t positions;
  uint32_t channels;   // index of the head's first entry in plan_channels()
  uint32_t width;      // K channels kept; 0: the head keeps nothing
  uint32_t reserved;   // 0
};
static_assert(sizeof(PageHead) == 56, "PageHead is read by kernels of every backend");

struct PageLayer {
  uint32_t offset;  // of the layer block in a serialised page
  uint32_t bytes;   // of the layer block, a multiple of 16; 0 where all heads have width 0
};

// The layout of a plan's pages: this header, then PageLayer (layers), then PageHead (layers,
// kv_heads). Plain data without pointers: a copy on a device is as good.
struct PageLayout {
  int32_t layers;
  int32_t kv_heads;
  int32_t head_dim;
  int32_t v_groups;        // groups of 32 channels in a V row, the last may be shorter
  PageStorage k_storage;
  PageStorage v_storage;
  uint32_t k_channel_bytes;  // K values of one channel: 64, 32, 16 or 8
  uint32_t v_row_bytes;      // V values of one slot: head_dim * bits / 8, not padded
  uint32_t page_bytes;     // all layer blocks
  int32_t selects;         // 1: pages are chosen per step
  int32_t evicting;        // 1: blocks carry counts and positions
  uint32_t bytes;          // of this table
};
static_assert(sizeof(PageLayout) == 48, "PageLayout is read by kernels of every backend");

// Bytes of the table for a plan that passed plan_check.
size_t page_layout_bytes(const CachePlan* plan);

// Writes the table of a plan that passed plan_check to `memory` (4-byte aligned, `bytes` of it).
// kInvalidPlan if a page would be larger than kPageBytesMax, kInvalidArgument if `bytes` is too
// small.
Status page_layout_build(const CachePlan* plan, void* memory, size_t bytes, ErrorDetail* detail);

inline const PageLayer& page_layer(const PageLayout* layout, int32_t layer) {
  return reinterpret_cast<const PageLayer*>(layout + 1)[layer];
}

inline const PageHead& page_head(const PageLayout* layout, int32_t layer, int32_t head) {
  const PageLayer* layers = reinterpret_cast<const PageLayer*>(layout + 1);
  return reinterpret_cast<const PageHead*>(layers + layout->layers)[layer * layout->kv_heads + head];
}

// Channels of V group `group`: 32, or fewer in the last one.
constexpr int32_t v_group_channels(int32_t head_dim, int32_t group) {
  const int32_t rest = head_dim - group * kGroupChannels;
  return rest < kGroupChannels ? rest : kGroupChannels;
}

// Packs one head's 32 slots into its place in a layer block, padding included.
//   k, v       (32, head_dim) f16, K after RoPE, in half-rotation order; rows are `row_stride`
//              elements apart
//   count      slots in use, 1 .. 32; only evicting plans may have fewer than 32. Rows from
//              `count` on are not read and become zero bytes.
//   positions  (count) u32, strictly increasing, of evicting plans; null otherwise
//   block      the layer block (page_layer(...).bytes)
// kNotFinite if a value that would be stored is NaN or infinite: the block is then undefined.
// kInvalidArgument for a wrong count or positions. Width 0 writes nothing.
Status page_pack_ref(const CachePlan* plan, const PageLayout* layout, int32_t layer, int32_t head,
                     const uint16_t* k, const uint16_t* v, size_t row_stride, int32_t count,
                     const uint32_t* positions, uint8_t* block, ErrorDetail* detail);

// The inverse, to f32: what kernels must compute with.
//   k  (32, width) f32 in the order of the head's channel list
//   v  (32, head_dim) f32
// Slots from `count` on are 0.
void page_unpack_ref(const PageLayout* layout, int32_t layer, int32_t head, const uint8_t* block,
                     float* k, float* v);

// Bounds of each kept channel over the page's slots, for page selection: lo <= K <= hi.
//   lo, hi  (width) f32
// The plan has quantised K, or page selection.
void page_bounds_ref(const PageLayout* layout, int32_t layer, int32_t head, const uint8_t* block,
                     float* lo, float* hi);

}  // namespace leanedge
