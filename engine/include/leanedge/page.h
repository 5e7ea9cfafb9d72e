// The scalar reference of archive pages: packing, unpacking, bounds. docs/page-format.md is the
// contract, byte by byte; src/engine/page/ is its executable form; plan.h has the offsets. Every
// backend's page_flush (kernels.h) writes exactly these bytes.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "leanedge/plan.h"
#include "leanedge/sequence.h"
#include "leanedge/status.h"

namespace leanedge {

// Packs one head's 32 slots into its place in a layer block, padding included.
//   k, v       (32, head_dim) f16, K after RoPE, in half-rotation order; rows are `row_stride`
//              elements apart
//   count      slots in use, 1 .. 32; only evicting plans may have fewer than 32. Rows from
//              `count` on are not read, and become zero bytes.
//   positions  (count) u32, strictly increasing, of evicting plans; null otherwise
//   block      the layer block, plan_layer(...).bytes
// kNotFinite if a value that would be stored is NaN or infinite: the head block is then undefined.
// kInvalidArgument for wrong counts or positions. Width 0 writes nothing and looks at nothing.
Status page_pack_ref(const CachePlan& plan, int32_t layer, int32_t head, const uint16_t* k,
                     const uint16_t* v, size_t row_stride, int32_t count, const uint32_t* positions,
                     uint8_t* block, ErrorDetail* detail);

// The inverse, to f32: the values that kernels compute with, min + scale * code.
//   k  (32, width) f32, channels in the order of the head's list
//   v  (32, head_dim) f32
// Returns the slots in use; rows from there on are 0. Width 0 writes nothing and returns 0. An
// evicting page's count is at most 32 (ENGINE_ASSERT): restoring a snapshot checks it.
int32_t page_unpack_ref(const CachePlan& plan, int32_t layer, int32_t head, const uint8_t* block,
                        float* k, float* v);

// Bounds of each kept channel over the page's slots, for page selection: lo <= K <= hi, both
// rounded outward. The plan has quantised K or page selection (ENGINE_ASSERT).
//   lo, hi  (width) f32
void page_bounds_ref(const CachePlan& plan, int32_t layer, int32_t head, const uint8_t* block,
                     float* lo, float* hi);

// Chooses the pages that one KV head reads (kernels.h): the last one, and the `wanted` - 1 others of
// the highest scores, the older one where scores are equal. NaN counts as minus infinity. Not a
// reference but the one way to choose, for every backend on a CPU.
//   scores  (page_count) f32
//   wanted  1 .. page_count
//   chosen  (wanted) page numbers, increasing
void page_choose(const float* scores, int32_t page_count, int32_t wanted, int32_t* chosen);

// The quantiser's scale: the smallest f16 s >= 0 with s * levels >= max - min in exact arithmetic,
// 0 where they are equal. min <= max, both finite f16 values; levels is 255, 15 or 3.
uint16_t page_scale_f16(float min, float max, int32_t levels);

}  // namespace leanedge
