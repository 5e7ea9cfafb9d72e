// Scores of pages: one pass over the minima and maxima of each, which is a small part of its bytes.
#include "attention_scores.h"

#include <math.h>

#include "simd.h"

namespace leanedge::kernels {
namespace {

// Bounds of four channels.
struct Bounds {
  v128_t lo;
  v128_t hi;
};

// f16 K: the bounds lie in the page. `Lifted`: read times 1 / kF16Lift.
template <bool Lifted>
struct StoredBounds {
  const uint8_t* min;
  const uint8_t* max;

  Bounds at(int32_t channel) const {
    if constexpr (Lifted) {
      const v128_t mask = simd::held_i32x4(simd::kF16Mask);
      return {simd::f16x4_load_low(min + 2 * channel, mask),
              simd::f16x4_load_low(max + 2 * channel, mask)};
    }
    return {simd::f16x4_load(min + 2 * channel), simd::f16x4_load(max + 2 * channel)};
  }
};

// Codes: min and min + scale * levels, as page_bounds_ref rounds them.
struct CodeBounds {
  const uint8_t* min;
  const uint8_t* scale;
  v128_t levels;

  Bounds at(int32_t channel) const {
    const v128_t lo = simd::f16x4_load(min + 2 * channel);
    const v128_t scales = simd::f16x4_load(scale + 2 * channel);
    return {lo, wasm_f32x4_add(lo, wasm_f32x4_mul(scales, levels))};
  }
};

template <typename PageBounds>
float score_page(const PageBounds& bounds, int32_t width, const PageQueries& queries) {
  float best = -INFINITY;
  // Two heads at a time share what reading the bounds costs.
  for (int32_t h = 0; h < queries.heads; h += 2) {
    const float* q0 = queries.q + static_cast<size_t>(h) * queries.stride;
    const float* q1 = h + 1 < queries.heads ? q0 + queries.stride : q0;
    v128_t sum0 = wasm_f32x4_const_splat(0.0f);
    v128_t sum1 = wasm_f32x4_const_splat(0.0f);
    for (int32_t c = 0; c < width; c += 4) {
      const Bounds b = bounds.at(c);
      const v128_t x0 = simd::f32x4_load(q0 + c);
      const v128_t x1 = simd::f32x4_load(q1 + c);
      sum0 = wasm_f32x4_add(
          sum0, wasm_f32x4_pmax(wasm_f32x4_mul(x0, b.hi), wasm_f32x4_mul(x0, b.lo)));
      sum1 = wasm_f32x4_add(
          sum1, wasm_f32x4_pmax(wasm_f32x4_mul(x1, b.hi), wasm_f32x4_mul(x1, b.lo)));
    }
    const float score0 = simd::f32x4_sum(sum0);
    const float score1 = simd::f32x4_sum(sum1);
    if (score0 > best) best = score0;  // false for NaN
    if (score1 > best) best = score1;
  }
  return best;
}

}  // namespace

void score_pages(const CachePlan& plan, const PageHead& layout, const PageQueries& queries,
                 const uint8_t* const* pages, int32_t page_count, float* scores) {
  const int32_t width = static_cast<int32_t>(layout.width);
  if (plan.k_storage == PageStorage::kF16) {
    for (int32_t i = 0; i < page_count; ++i) {
      const uint8_t* min = pages[i] + layout.k_min;
      const uint8_t* max = pages[i] + layout.k_max;
      scores[i] = queries.lifted ? score_page(StoredBounds<true>{min, max}, width, queries)
                                 : score_page(StoredBounds<false>{min, max}, width, queries);
    }
    return;
  }
  const v128_t levels = wasm_f32x4_splat(static_cast<float>(storage_levels(plan.k_storage)));
  for (int32_t i = 0; i < page_count; ++i) {
    const CodeBounds bounds = {pages[i] + layout.k_min, pages[i] + layout.k_scale, levels};
    scores[i] = score_page(bounds, width, queries);
  }
}

}  // namespace leanedge::kernels
