// Small vector pieces that the SIMD128 kernels share. Only what baseline SIMD128 has: no relaxed
// operations, so every engine computes the same bits.
#pragma once

#include <stdint.h>
#include <wasm_simd128.h>

namespace leanedge::simd {

inline v128_t f32x4_load(const float* p) { return wasm_v128_load(p); }
inline void f32x4_store(float* p, v128_t v) { wasm_v128_store(p, v); }

// (s0 + s1) + (s2 + s3): the order that the kernel contract fixes for partial sums.
inline float f32x4_sum(v128_t v) {
  return (wasm_f32x4_extract_lane(v, 0) + wasm_f32x4_extract_lane(v, 1)) +
         (wasm_f32x4_extract_lane(v, 2) + wasm_f32x4_extract_lane(v, 3));
}

// The largest lane; NaN if there is one.
inline float f32x4_max(v128_t v) {
  const v128_t a = wasm_f32x4_max(v, wasm_i32x4_shuffle(v, v, 2, 3, 0, 1));
  const v128_t b = wasm_f32x4_max(a, wasm_i32x4_shuffle(a, a, 1, 0, 3, 2));
  return wasm_f32x4_extract_lane(b, 0);
}

// The largest lane, where none is NaN: pmax is one instruction of most machines, max is six.
inline float f32x4_pmax(v128_t v) {
  const v128_t a = wasm_f32x4_pmax(v, wasm_i32x4_shuffle(v, v, 2, 3, 0, 1));
  const v128_t b = wasm_f32x4_pmax(a, wasm_i32x4_shuffle(a, a, 1, 0, 3, 2));
  return wasm_f32x4_extract_lane(b, 0);
}

// f32x4_sum of four vectors at once: lane i is that of argument i.
inline v128_t f32x4_sum4(v128_t a, v128_t b, v128_t c, v128_t d) {
  const v128_t ab_lo = wasm_i32x4_shuffle(a, b, 0, 4, 2, 6);  // a0 b0 a2 b2
  const v128_t ab_hi = wasm_i32x4_shuffle(a, b, 1, 5, 3, 7);  // a1 b1 a3 b3
  const v128_t cd_lo = wasm_i32x4_shuffle(c, d, 0, 4, 2, 6);
  const v128_t cd_hi = wasm_i32x4_shuffle(c, d, 1, 5, 3, 7);
  const v128_t ab = wasm_f32x4_add(ab_lo, ab_hi);  // a01 b01 a23 b23
  const v128_t cd = wasm_f32x4_add(cd_lo, cd_hi);
  return wasm_f32x4_add(wasm_i32x4_shuffle(ab, cd, 0, 1, 4, 5),
                        wasm_i32x4_shuffle(ab, cd, 2, 3, 6, 7));
}

// Four f16 as sign-extended i32 lanes -> f32. Exact for every finite value, subnormals included.
// Infinities and NaNs read as +-65,536 and above: no finite f16 has these values, and weights and
// caches that hold them are broken already.
inline v128_t f16_lanes_to_f32x4(v128_t lanes) {
  const v128_t bits = wasm_v128_and(wasm_i32x4_shl(lanes, 13), wasm_i32x4_const_splat(
                                        static_cast<int32_t>(0x8fffe000u)));
  return wasm_f32x4_mul(bits, wasm_f32x4_const_splat(0x1p112f));
}

// Four f16 from memory -> f32x4, as above.
inline v128_t f16x4_load(const void* p) { return f16_lanes_to_f32x4(wasm_i32x4_load16x4(p)); }

// A constant vector as a local. LLVM repeats v128.const wherever it is used; a splat of a number that
// it cannot see through is computed once, before the loop. (V8 gives both the same speed.)
inline v128_t held_i32x4(int32_t value) {
  asm("" : "+r"(value));
  return wasm_i32x4_splat(value);
}
inline v128_t held_i16x8(int32_t value) { return held_i32x4(value | value << 16); }

// As f16x4_load, but times 1 / kF16Lift, for which a shift and a mask suffice. Exact: what is
// subnormal in f16 is so in f32.
inline constexpr float kF16Lift = 0x1p112f;
inline constexpr int32_t kF16Mask = static_cast<int32_t>(0x8fffe000u);
inline v128_t f16x4_load_low(const void* p, v128_t mask) {
  return wasm_v128_and(wasm_i32x4_shl(wasm_i32x4_load16x4(p), 13), mask);
}

// f32x4 -> f16 bits in u32 lanes: to nearest, ties to even, beyond the range infinite, NaN stays.
inline v128_t f32x4_to_f16_lanes(v128_t x) {
  const v128_t magnitude = wasm_v128_and(x, wasm_i32x4_const_splat(0x7fffffff));
  const v128_t sign =
      wasm_v128_and(wasm_u32x4_shr(x, 16), wasm_i32x4_const_splat(0x8000));
  // Normal: drop 13 bits with a carry to even, and move the exponent's bias from 127 to 15.
  const v128_t odd = wasm_v128_and(wasm_u32x4_shr(magnitude, 13), wasm_i32x4_const_splat(1));
  const v128_t normal = wasm_u32x4_shr(
      wasm_i32x4_add(wasm_i32x4_add(magnitude, odd),
                     wasm_i32x4_const_splat(static_cast<int32_t>(0xfffu - 0x38000000u))),
      13);
  // Subnormal: 0.5 has a unit in the last place of 2^-24, so the addition rounds.
  const v128_t subnormal =
      wasm_i32x4_sub(wasm_f32x4_add(magnitude, wasm_f32x4_const_splat(0.5f)),
                     wasm_i32x4_const_splat(0x3f000000));
  v128_t out = wasm_v128_bitselect(
      subnormal, normal, wasm_i32x4_lt(magnitude, wasm_i32x4_const_splat(0x38800000)));
  out = wasm_v128_bitselect(wasm_i32x4_const_splat(0x7c00), out,
                            wasm_i32x4_ge(magnitude, wasm_i32x4_const_splat(0x477ff000)));
  out = wasm_v128_bitselect(wasm_i32x4_const_splat(0x7e00), out,
                            wasm_i32x4_gt(magnitude, wasm_i32x4_const_splat(0x7f800000)));
  return wasm_v128_or(out, sign);
}

// e^x, about 1 unit in the last place; below -87.3 exactly 0, above 88 as e^88.
inline v128_t f32x4_exp(v128_t x) {
  const v128_t tiny = wasm_f32x4_lt(x, wasm_f32x4_const_splat(-87.3f));
  v128_t a = wasm_f32x4_pmin(x, wasm_f32x4_const_splat(88.0f));
  a = wasm_f32x4_pmax(a, wasm_f32x4_const_splat(-87.3f));
  // x = n ln 2 + r, |r| <= ln 2 / 2; ln 2 in two parts, the first short enough to be exact.
  // Adding 1.5 * 2^23 rounds n to an integer, which is then the low bits as well.
  const v128_t shift = wasm_f32x4_const_splat(12582912.0f);
  const v128_t shifted =
      wasm_f32x4_add(wasm_f32x4_mul(a, wasm_f32x4_const_splat(0x1.715476p+0f)), shift);
  const v128_t n = wasm_f32x4_sub(shifted, shift);
  v128_t r = wasm_f32x4_sub(a, wasm_f32x4_mul(n, wasm_f32x4_const_splat(0x1.62e400p-1f)));
  r = wasm_f32x4_sub(r, wasm_f32x4_mul(n, wasm_f32x4_const_splat(0x1.7f7d1cp-20f)));
  // The series of e^r to r^7: its rest is below 6e-9 here.
  v128_t p = wasm_f32x4_const_splat(1.0f / 5040);
  p = wasm_f32x4_add(wasm_f32x4_mul(p, r), wasm_f32x4_const_splat(1.0f / 720));
  p = wasm_f32x4_add(wasm_f32x4_mul(p, r), wasm_f32x4_const_splat(1.0f / 120));
  p = wasm_f32x4_add(wasm_f32x4_mul(p, r), wasm_f32x4_const_splat(1.0f / 24));
  p = wasm_f32x4_add(wasm_f32x4_mul(p, r), wasm_f32x4_const_splat(1.0f / 6));
  p = wasm_f32x4_add(wasm_f32x4_mul(p, r), wasm_f32x4_const_splat(0.5f));
  p = wasm_f32x4_add(wasm_f32x4_mul(p, wasm_f32x4_mul(r, r)), r);
  p = wasm_f32x4_add(p, wasm_f32x4_const_splat(1.0f));
  // n is in -126 .. 127: add it to the exponent.
  const v128_t scaled = wasm_i32x4_add(p, wasm_i32x4_shl(shifted, 23));
  return wasm_v128_andnot(scaled, tiny);
}

// 2^x for x <= 0, relative error below 2^-22; below -126 as 2^-126. For probabilities that are rounded
// to 16 bits anyway.
inline v128_t f32x4_exp2(v128_t x) {
  const v128_t a = wasm_f32x4_pmax(x, wasm_f32x4_splat(-126.0f));
  const v128_t shift = wasm_f32x4_splat(12582912.0f);
  const v128_t shifted = wasm_f32x4_add(a, shift);
  const v128_t f = wasm_f32x4_sub(a, wasm_f32x4_sub(shifted, shift));
  // The series of 2^f to f^6, |f| <= 1/2, with its last term spread over the others (Chebyshev).
  v128_t p = wasm_f32x4_splat(1.3333558e-3f);
  p = wasm_f32x4_add(wasm_f32x4_mul(p, f), wasm_f32x4_splat(9.6758923e-3f));
  p = wasm_f32x4_add(wasm_f32x4_mul(p, f), wasm_f32x4_splat(5.5504109e-2f));
  p = wasm_f32x4_add(wasm_f32x4_mul(p, f), wasm_f32x4_splat(2.4022109e-1f));
  p = wasm_f32x4_add(wasm_f32x4_mul(p, f), wasm_f32x4_splat(6.9314718e-1f));
  p = wasm_f32x4_add(wasm_f32x4_mul(p, f), wasm_f32x4_splat(1.0f));
  return wasm_i32x4_add(p, wasm_i32x4_shl(shifted, 23));
}

// e^x of one value: the bits of f32x4_exp.
inline float f32_exp(float x) {
  return wasm_f32x4_extract_lane(f32x4_exp(wasm_f32x4_splat(x)), 0);
}

}  // namespace leanedge::simd
