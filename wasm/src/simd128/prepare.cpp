// Activations in int8, widened once to the i16 forms that the integer kernels multiply with.
#include <string.h>

#include "layout.h"
#include "simd.h"

namespace leanedge::kernels {
namespace {

// Towards zero after adding a half away from zero, clamped to -127 .. 127 (a subnormal scale is
// coarse enough for a quotient beyond that); NaN becomes 0. The reference's steps exactly.
inline v128_t round_half_away(v128_t x) {
  const v128_t sign = wasm_v128_and(x, wasm_i32x4_const_splat(static_cast<int32_t>(0x80000000u)));
  const v128_t half = wasm_v128_or(sign, wasm_f32x4_const_splat(0.5f));
  v128_t q = wasm_f32x4_pmin(wasm_f32x4_add(x, half), wasm_f32x4_const_splat(127.0f));
  q = wasm_f32x4_pmax(q, wasm_f32x4_const_splat(-127.0f));
  return wasm_i32x4_trunc_sat_f32x4(q);
}

// One block of 32 columns. x: (32) f32.
void prepare_block(const float* x, size_t block, const PreparedRow& out) {
  v128_t peak = wasm_f32x4_const_splat(0.0f);
  for (int32_t c = 0; c < kBlockCols; c += 4) {
    peak = wasm_f32x4_max(peak, wasm_f32x4_abs(simd::f32x4_load(x + c)));
  }
  const float scale = simd::f32x4_max(peak) / 127.0f;
  // 0 / 0 and infinity / infinity are NaN, hence q = 0. With an input that is not finite the scale
  // is not either, and the products become NaN, which sampling then reports.
  const v128_t scales = wasm_f32x4_splat(scale);
  const v128_t plane_factors = wasm_i16x8_const(256, 256, 16, 16, 1, 1, 256, 256);
  const v128_t ones = wasm_i16x8_const_splat(1);
  v128_t sum = wasm_i32x4_const_splat(0);
  int16_t* wide = out.wide + block * kBlockCols;
  int16_t* planes = out.planes + block * kBlockCols;
  for (int32_t c = 0; c < kBlockCols; c += 8) {
    const v128_t lo = round_half_away(wasm_f32x4_div(simd::f32x4_load(x + c), scales));
    const v128_t hi = round_half_away(wasm_f32x4_div(simd::f32x4_load(x + c + 4), scales));
    const v128_t q = wasm_i16x8_narrow_i32x4(lo, hi);
    wasm_v128_store(wide + c, q);
    wasm_v128_store(planes + c, wasm_i16x8_mul(q, plane_factors));
    sum = wasm_i32x4_add(sum, wasm_i32x4_dot_i16x8(q, ones));
  }
  const int32_t q_sum = wasm_i32x4_extract_lane(sum, 0) + wasm_i32x4_extract_lane(sum, 1) +
                        wasm_i32x4_extract_lane(sum, 2) + wasm_i32x4_extract_lane(sum, 3);
  out.scale[block] = scale;
  out.scale8[block] = scale * 0x1p-8f;
  out.offset[block] = -8 * 256 * q_sum;
  out.sum[block] = static_cast<float>(q_sum);
}

}  // namespace

size_t activations_bytes(int32_t rows, int32_t cols) {
  ENGINE_ASSERT(rows > 0 && cols > 0);
  return static_cast<size_t>(rows) * prepared_row_bytes(cols);
}

void prepare_activations(Context*, Activations& activations) {
  const size_t whole = static_cast<size_t>(activations.cols / kBlockCols);
  const size_t rest = static_cast<size_t>(activations.cols % kBlockCols);
  for (int32_t row = 0; row < activations.rows; ++row) {
    const PreparedRow out = prepared_row(activations.prepared, activations.cols, row);
    const float* x = activations.x + static_cast<size_t>(row) * static_cast<size_t>(activations.cols);
    for (size_t block = 0; block < whole; ++block) {
      prepare_block(x + block * kBlockCols, block, out);
    }
    if (rest > 0) {
      float last[kBlockCols] = {};
      memcpy(last, x + whole * kBlockCols, rest * sizeof(float));
      prepare_block(last, whole, out);
    }
  }
}

}  // namespace leanedge::kernels
