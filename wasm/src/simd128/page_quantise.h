// The quantiser of docs/page-format.md, eight groups or 32 values at a time: the same IEEE
// operations in the same order as engine/src/page_pack_ref.cpp, hence the same bytes.
#pragma once

#include <stdint.h>
#include <string.h>

#include "leanedge/plan.h"
#include "simd.h"

namespace leanedge::kernels {

// Eight f16 as integers of the same order, -0 right below +0; its own inverse.
inline v128_t f16_order(v128_t x) {
  return wasm_v128_xor(x, wasm_v128_and(wasm_i16x8_shr(x, 15), wasm_i16x8_splat(0x7fff)));
}

// Eight f16, zeros of either sign as +0.
inline v128_t f16_plus_zero(v128_t x) {
  const v128_t magnitude = wasm_v128_and(x, wasm_i16x8_splat(0x7fff));
  const v128_t zero = wasm_i16x8_eq(magnitude, wasm_i16x8_splat(0));
  return wasm_v128_andnot(x, zero);
}

inline v128_t f16_low_f32(v128_t x) {
  return simd::f16_lanes_to_f32x4(wasm_i32x4_extend_low_i16x8(x));
}
inline v128_t f16_high_f32(v128_t x) {
  return simd::f16_lanes_to_f32x4(wasm_i32x4_extend_high_i16x8(x));
}

// page_scale_f16 of four groups, as f16 in 32-bit lanes.
inline v128_t scale_lanes(v128_t min, v128_t max, float levels) {
  const v128_t d = wasm_f32x4_sub(max, min);
  const v128_t min_part = wasm_f32x4_sub(max, d);
  const v128_t max_part = wasm_f32x4_add(d, min_part);
  const v128_t e =
      wasm_f32x4_add(wasm_f32x4_sub(max, max_part), wasm_f32x4_sub(min_part, min));
  const v128_t quotient = wasm_f32x4_div(d, wasm_f32x4_splat(levels));
  v128_t scale = simd::f32x4_to_f16_lanes(quotient);
  // A comparison that holds is -1 in its lane.
  scale = wasm_i32x4_sub(scale, wasm_f32x4_lt(simd::f16_lanes_to_f32x4(scale), quotient));
  const v128_t reach = wasm_f32x4_mul(simd::f16_lanes_to_f32x4(scale), wasm_f32x4_splat(levels));
  const v128_t zero = wasm_f32x4_splat(0.0f);
  const v128_t short_of = wasm_v128_or(
      wasm_f32x4_lt(reach, d),
      wasm_v128_and(wasm_f32x4_eq(reach, d), wasm_f32x4_gt(e, zero)));
  scale = wasm_i32x4_sub(scale, short_of);
  return wasm_v128_andnot(scale, wasm_f32x4_eq(d, zero));
}

// Scales of eight groups as f16, from their least and greatest values as f16.
inline v128_t scales_f16(v128_t min, v128_t max, float levels) {
  const v128_t low = scale_lanes(f16_low_f32(min), f16_low_f32(max), levels);
  const v128_t high = scale_lanes(f16_high_f32(min), f16_high_f32(max), levels);
  return wasm_i16x8_narrow_i32x4(low, high);  // positive f16 are below 32,768
}

// Codes of eight values: round((x - min) / scale), ties to even. `some` is 0 where the scale is.
inline v128_t codes_i16(v128_t x, v128_t min, v128_t scale, v128_t some) {
  // Adding 1.5 * 2^23 rounds, and leaves the integer in the low bits.
  const v128_t shift = wasm_f32x4_splat(12582912.0f);
  const v128_t low =
      wasm_f32x4_add(wasm_f32x4_div(wasm_f32x4_sub(f16_low_f32(x), min), scale), shift);
  const v128_t high =
      wasm_f32x4_add(wasm_f32x4_div(wasm_f32x4_sub(f16_high_f32(x), min), scale), shift);
  return wasm_v128_and(
      wasm_i16x8_narrow_i32x4(wasm_i32x4_sub(low, shift), wasm_i32x4_sub(high, shift)), some);
}

// Writes the run of `count` values (a multiple of 8, at most 32) whose f16 stand in `values`.
template <int32_t Bits>
inline void write_run(const v128_t (&values)[4], int32_t count, float min, float scale,
                      uint8_t* out) {
  const v128_t minima = wasm_f32x4_splat(min);
  const v128_t scales = wasm_f32x4_splat(scale);
  const v128_t some = wasm_i32x4_splat(scale != 0.0f ? -1 : 0);
  const v128_t low = wasm_u8x16_narrow_i16x8(codes_i16(values[0], minima, scales, some),
                                             codes_i16(values[1], minima, scales, some));
  const v128_t high = wasm_u8x16_narrow_i16x8(codes_i16(values[2], minima, scales, some),
                                              codes_i16(values[3], minima, scales, some));
  if (count == 32) {
    if constexpr (Bits == 8) {
      wasm_v128_store(out, low);
      wasm_v128_store(out + 16, high);
      return;
    }
    // Byte j: codes j and j + 16, 4 bits apart.
    const v128_t pairs = wasm_v128_or(low, wasm_i8x16_shl(high, 4));
    if constexpr (Bits == 4) {
      wasm_v128_store(out, pairs);
    } else {
      const v128_t upper = wasm_i64x2_shuffle(pairs, pairs, 1, 0);
      wasm_v128_store64_lane(out, wasm_v128_or(pairs, wasm_i8x16_shl(upper, 2)), 0);
    }
    return;
  }
  uint8_t codes[32];
  wasm_v128_store(codes, low);
  wasm_v128_store(codes + 16, high);
  const int32_t bytes = count * Bits / 8;
  for (int32_t j = 0; j < bytes; ++j) {
    uint32_t byte = 0;
    for (int32_t i = 0; i < 8 / Bits; ++i) {
      byte |= static_cast<uint32_t>(codes[i * bytes + j]) << (Bits * i);
    }
    out[j] = static_cast<uint8_t>(byte);
  }
}

inline void write_run(PageStorage storage, const v128_t (&values)[4], int32_t count, float min,
                      float scale, uint8_t* out) {
  if (storage == PageStorage::kInt8) write_run<8>(values, count, min, scale, out);
  if (storage == PageStorage::kInt4) write_run<4>(values, count, min, scale, out);
  if (storage == PageStorage::kInt2) write_run<2>(values, count, min, scale, out);
}

}  // namespace leanedge::kernels
