// Products of a page's codes with weights in fixed point.
//
// K's scale is folded into the query, V's into the probabilities; both become 16-bit integers with one
// unit for 32 of them, so that i32x4.dot_i16x8 multiplies and adds, and no code is ever converted to
// a float. Codes are taken relative to the middle of their range, which halves what the rounding of a
// weight can do: per 32 weights at most kWeightsPerUnit * middle / (2 * kWeightMax) of the largest
// (kernels.h has the bound of attention that follows).
//
// A row is a run of 32 codes: of one K channel, or one slot's V group. Two rows interleaved in 16-bit
// lanes hold, after one mask or shift, two codes of a column in neighbouring lanes, as the dot product
// wants them.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "leanedge/kernels.h"
#include "simd.h"

namespace leanedge::kernels {

inline constexpr int32_t kRunCodes = 32;        // columns of a product
inline constexpr int32_t kWeightsPerUnit = 32;  // K channels, or slots, that share a unit
inline constexpr float kWeightMax = 32767.0f;
// Sums cannot overflow: 32 weights times 255 times 32,767 is below 2^28.
static_assert(kWeightsPerUnit * 255LL * 32767 < (1LL << 30));

// Where the eight columns of an octet begin, and how often its products count.
constexpr int32_t octet_column(int32_t bits, int32_t octet) {
  return bits == 4 ? (octet & 1) * 16 + (octet >> 1) * 8 : octet * 8;
}
constexpr int32_t octet_factor(int32_t bits, int32_t octet) {
  return bits == 8 ? 1 : bits == 4 ? ((octet & 1) ? 16 : 1) : 1 << (2 * octet);
}

// Codes of two rows as they lie in a page, octets 2 * half and 2 * half + 1.
template <int32_t Bits>
struct PackedRows {
  const uint8_t* codes;
  size_t stride;  // bytes from row to row

  struct Masks {
    v128_t first;   // octet 2 * half
    v128_t second;  // octet 2 * half + 1
  };
  static inline Masks masks(int32_t half) {
    if (Bits == 8) return {simd::held_i16x8(0xff), simd::held_i16x8(0xff)};
    if (Bits == 4) return {simd::held_i16x8(0x0f), simd::held_i16x8(0xf0)};
    return {simd::held_i16x8(half ? 0x30 : 0x03), simd::held_i16x8(half ? 0xc0 : 0x0c)};
  }

  // Calls take(index, plane) with each octet's even and odd columns: 32-bit lane i of a plane holds
  // columns 2 i (+ 1) of the first row and of the second, times the octet's factor.
  template <typename Take>
  inline void planes(int32_t pair, int32_t half, const Masks& masks, Take take) const {
    const uint8_t* a = codes + static_cast<size_t>(2 * pair) * stride;
    const uint8_t* b = a + stride;
    if constexpr (Bits == 8) {
      const v128_t x = wasm_v128_load(a + 16 * half);
      const v128_t y = wasm_v128_load(b + 16 * half);
      const v128_t low = wasm_i16x8_shuffle(x, y, 0, 8, 1, 9, 2, 10, 3, 11);
      take(0, wasm_v128_and(low, masks.first));
      take(1, wasm_u16x8_shr(low, 8));
      const v128_t high = wasm_i16x8_shuffle(x, y, 4, 12, 5, 13, 6, 14, 7, 15);
      take(2, wasm_v128_and(high, masks.first));
      take(3, wasm_u16x8_shr(high, 8));
    } else {
      const int32_t at = Bits == 4 ? 8 * half : 0;
      const v128_t x = wasm_v128_load64_zero(a + at);
      const v128_t y = wasm_v128_load64_zero(b + at);
      const v128_t even = wasm_i16x8_shuffle(x, y, 0, 8, 1, 9, 2, 10, 3, 11);
      take(0, wasm_v128_and(even, masks.first));
      take(2, wasm_v128_and(even, masks.second));
      const v128_t odd = wasm_u16x8_shr(even, 8);
      take(1, wasm_v128_and(odd, masks.first));
      take(3, wasm_v128_and(odd, masks.second));
    }
  }
};

inline constexpr size_t kPairPlanes = 8;  // vectors of a pair of rows

// Planes that were taken out beforehand, because many query rows share them.
struct PlaneRows {
  const v128_t* at;  // (pairs, kPairPlanes)

  struct Masks {};
  static inline Masks masks(int32_t) { return {}; }

  template <typename Take>
  inline void planes(int32_t pair, int32_t half, const Masks&, Take take) const {
    const v128_t* from = at + static_cast<size_t>(pair) * kPairPlanes + 4 * half;
    for (int32_t i = 0; i < 4; ++i) take(i, wasm_v128_load(from + i));
  }
};

// Weights of up to kWeightsPerUnit rows: weight = unit * w.
struct alignas(16) Weights {
  int16_t w[kWeightsPerUnit];
  int32_t sum;  // of w
  float unit;
};

// Rounds `count` vectors of weights to a unit. What stands behind them stays undefined.
inline void round_weights(const v128_t* values, int32_t count, Weights* out) {
  v128_t peaks = wasm_f32x4_const_splat(0.0f);
  for (int32_t i = 0; i < count; ++i) peaks = wasm_f32x4_pmax(peaks, wasm_f32x4_abs(values[i]));
  const float peak = simd::f32x4_pmax(peaks);
  out->unit = peak * (1.0f / kWeightMax);
  // Weights below 2^-100 are nothing; those that are not finite make the unit so.
  const v128_t inverse = wasm_f32x4_splat(peak > 0x1p-100f ? kWeightMax / peak : 0.0f);
  // Adding 1.5 * 2^23 rounds to an integer, which is then the low bits.
  const v128_t shift = wasm_f32x4_const_splat(12582912.0f);
  v128_t sums = wasm_i32x4_const_splat(0);
  for (int32_t i = 0; i < count; i += 2) {
    const v128_t a = wasm_f32x4_add(wasm_f32x4_mul(values[i], inverse), shift);
    const v128_t b = wasm_f32x4_add(wasm_f32x4_mul(values[i + 1], inverse), shift);
    const v128_t w = wasm_i16x8_narrow_i32x4(wasm_i32x4_sub(a, shift), wasm_i32x4_sub(b, shift));
    wasm_v128_store(out->w + 4 * i, w);
    sums = wasm_i32x4_add(sums, wasm_i32x4_dot_i16x8(w, wasm_i16x8_const_splat(1)));
  }
  out->sum = (wasm_i32x4_extract_lane(sums, 0) + wasm_i32x4_extract_lane(sums, 1)) +
             (wasm_i32x4_extract_lane(sums, 2) + wasm_i32x4_extract_lane(sums, 3));
}

// Sums of two octets become what they stand for, and are added: out = out * keep + base + unit * sum.
inline void add_octet(v128_t even, v128_t odd, float unit, v128_t base, v128_t keep, float* out) {
  const v128_t units = wasm_f32x4_splat(unit);
  const v128_t a = wasm_f32x4_mul(wasm_f32x4_convert_i32x4(even), units);
  const v128_t b = wasm_f32x4_mul(wasm_f32x4_convert_i32x4(odd), units);
  const v128_t low = wasm_f32x4_add(wasm_i32x4_shuffle(a, b, 0, 4, 1, 5), base);
  const v128_t high = wasm_f32x4_add(wasm_i32x4_shuffle(a, b, 2, 6, 3, 7), base);
  simd::f32x4_store(out, wasm_f32x4_add(wasm_f32x4_mul(simd::f32x4_load(out), keep), low));
  simd::f32x4_store(out + 4,
                    wasm_f32x4_add(wasm_f32x4_mul(simd::f32x4_load(out + 4), keep), high));
}

// What a product adds to one query head.
struct ProductTarget {
  const Weights* weights;
  float* out;  // (kRunCodes)
  float base;
  float keep;
};

// out = out * keep + base + sum over rows of weight * (code - middle), for Heads query heads. The
// integer sums are exact: bits do not depend on the form in which the rows come.
template <int32_t Heads, typename Rows>
[[gnu::noinline]] void add_products(const Rows& rows, int32_t pairs, int32_t bits, int32_t middle,
                                    const ProductTarget (&targets)[Heads]) {
  for (int32_t half = 0; half < 2; ++half) {
    v128_t sums[Heads][4];
    for (int32_t h = 0; h < Heads; ++h) {
      const int32_t bias = -middle * targets[h].weights->sum;
      for (int32_t i = 0; i < 4; ++i) {
        sums[h][i] = wasm_i32x4_splat(bias * octet_factor(bits, 2 * half + i / 2));
      }
    }
    const auto masks = Rows::masks(half);
    for (int32_t pair = 0; pair < pairs; ++pair) {
      v128_t w[Heads];
      for (int32_t h = 0; h < Heads; ++h) {
        w[h] = wasm_v128_load32_splat(targets[h].weights->w + 2 * pair);
      }
      rows.planes(pair, half, masks, [&](int32_t i, v128_t plane) {
        for (int32_t h = 0; h < Heads; ++h) {
          sums[h][i] = wasm_i32x4_add(sums[h][i], wasm_i32x4_dot_i16x8(plane, w[h]));
        }
      });
    }
    for (int32_t h = 0; h < Heads; ++h) {
      const ProductTarget& target = targets[h];
      const v128_t base = wasm_f32x4_splat(target.base);
      const v128_t keep = wasm_f32x4_splat(target.keep);
      for (int32_t i = 0; i < 2; ++i) {
        const int32_t octet = 2 * half + i;
        const float unit = target.weights->unit / static_cast<float>(octet_factor(bits, octet));
        add_octet(sums[h][2 * i], sums[h][2 * i + 1], unit, base, keep,
                  target.out + octet_column(bits, octet));
      }
    }
  }
}

}  // namespace leanedge::kernels
