// Pieces that the matrix products share.
#pragma once

#include <string.h>

#include "layout.h"
#include "simd.h"

namespace leanedge::kernels {

// Writes one activation row's 8 results; the last tile may have fewer weight rows.
inline void store_tile(float* y, int32_t rows_left, v128_t lo, v128_t hi) {
  if (rows_left >= kTileRows) {
    simd::f32x4_store(y, lo);
    simd::f32x4_store(y + 4, hi);
    return;
  }
  float values[kTileRows];
  simd::f32x4_store(values, lo);
  simd::f32x4_store(values + 4, hi);
  for (int32_t i = 0; i < rows_left; ++i) y[i] = values[i];
}

// Four scales or minima of a block, kScaleLift taken off: as simd::f16x4_load.
inline v128_t scales_load(const void* p) {
  const v128_t mask = wasm_i32x4_const_splat(simd::kF16Mask);
  return wasm_f32x4_mul(simd::f16x4_load_low(p, mask),
                        wasm_f32x4_const_splat(simd::kF16Lift / kScaleLift));
}

// sum + products of 16-bit lanes, two neighbours added up.
inline v128_t mul_add_int(v128_t sum, v128_t weights, v128_t pair) {
  return wasm_i32x4_add(sum, wasm_i32x4_dot_i16x8(weights, pair));
}

// sum + (weight scales * activation scale) * integer sums.
inline v128_t mul_add_scaled(v128_t sum, v128_t scales, v128_t ints, v128_t activation_scale) {
  const v128_t scale = wasm_f32x4_mul(scales, activation_scale);
  return wasm_f32x4_add(sum, wasm_f32x4_mul(scale, wasm_f32x4_convert_i32x4(ints)));
}

// sum + (minima * activation scale) * sum of the activations' int8 values.
inline v128_t mul_add_minima(v128_t sum, v128_t minima, v128_t activation_scale,
                             v128_t activation_sum) {
  return wasm_f32x4_add(sum,
                        wasm_f32x4_mul(wasm_f32x4_mul(minima, activation_scale), activation_sum));
}

}  // namespace leanedge::kernels
