// Products of a page's codes with weights in fixed point.
//
// K's scale is folded into the query, V's into the probabilities; both become 16-bit integers with
// one unit for 32 or 128 of them, so that i32x4.dot_i16x8 multiplies and adds, and no code is ever
// converted to a float. Codes are taken relative to the middle of their range, which halves what
// the rounding of a weight can do (kernels.h has the bound of attention that follows).
//
// A row is a run of 32 codes: of one K channel, or one slot's V group. Two rows interleaved in
// 16-bit lanes hold, after one mask or shift, two codes of a column in neighbouring lanes, as the
// dot product wants them.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "leanedge/kernels.h"
#include "simd.h"

namespace leanedge::kernels {

inline constexpr int32_t kRunCodes = 32;        // columns of a product
inline constexpr int32_t kWeightsMax = 128;     // rows of a product: weights that share a unit
inline constexpr float kWeightMax = 32767.0f;
// Sums cannot overflow: a weight meets codes times factors of at most 255 - 128, less a bias.
static_assert(kWeightsMax * 255LL * 32767 < (1LL << 31));

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

// Weights of the rows of a product, for Heads query heads: weight = unit * w. Pairs of rows of all
// heads lie side by side, as the product reads them.
template <int32_t Heads>
struct alignas(16) Weights {
  int32_t pairs[kWeightsMax / 2][Heads];  // two 16-bit integers each
  int32_t sum[Heads];                     // of w
  float unit[Heads];
};

// Stores four pairs of weights of each head.
template <int32_t Heads>
inline void store_pairs(const v128_t (&w)[Heads], int32_t (*to)[Heads]) {
  if constexpr (Heads == 1) {
    wasm_v128_store(to, w[0]);
  } else {
    wasm_v128_store(to, wasm_i32x4_shuffle(w[0], w[1], 0, 4, 1, 5));
    wasm_v128_store(to + 2, wasm_i32x4_shuffle(w[0], w[1], 2, 6, 3, 7));
  }
}

// Folds scales into `vectors` (even) vectors of x, queries or probabilities of Heads query heads,
// and rounds what comes out to a unit. Adds x * middle to `base`. Weights behind them stay
// undefined.
//   scales(i), middles(i)  vector i of the scales and of the middles
template <int32_t Heads, typename Scales, typename Middles>
inline void fold_weights(const float* const (&x)[Heads], int32_t vectors, Scales scales,
                         Middles middles, Weights<Heads>* out, v128_t (&base)[Heads]) {
  v128_t folded[Heads][kWeightsMax / 4];
  v128_t peaks[Heads];
  for (v128_t& peak : peaks) peak = wasm_f32x4_const_splat(0.0f);
  for (int32_t i = 0; i < vectors; ++i) {
    const v128_t scale = scales(i);
    const v128_t middle = middles(i);
    for (int32_t h = 0; h < Heads; ++h) {
      const v128_t values = simd::f32x4_load(x[h] + 4 * i);
      folded[h][i] = wasm_f32x4_mul(values, scale);
      base[h] = wasm_f32x4_add(base[h], wasm_f32x4_mul(values, middle));
      peaks[h] = wasm_f32x4_pmax(peaks[h], wasm_f32x4_abs(folded[h][i]));
    }
  }
  v128_t inverse[Heads];
  v128_t sums[Heads];
  for (int32_t h = 0; h < Heads; ++h) {
    const float peak = simd::f32x4_pmax(peaks[h]);
    out->unit[h] = peak * (1.0f / kWeightMax);
    // Weights below 2^-100 are nothing; those that are not finite make the unit so.
    inverse[h] = wasm_f32x4_splat(peak > 0x1p-100f ? kWeightMax / peak : 0.0f);
    sums[h] = wasm_i32x4_const_splat(0);
  }
  // Adding 1.5 * 2^23 rounds to an integer, which is then the low bits.
  const v128_t shift = wasm_f32x4_splat(12582912.0f);
  const v128_t ones = wasm_i16x8_splat(1);
  for (int32_t i = 0; i < vectors; i += 2) {
    v128_t w[Heads];
    for (int32_t h = 0; h < Heads; ++h) {
      const v128_t a = wasm_f32x4_add(wasm_f32x4_mul(folded[h][i], inverse[h]), shift);
      const v128_t b = wasm_f32x4_add(wasm_f32x4_mul(folded[h][i + 1], inverse[h]), shift);
      w[h] = wasm_i16x8_narrow_i32x4(wasm_i32x4_sub(a, shift), wasm_i32x4_sub(b, shift));
      sums[h] = wasm_i32x4_add(sums[h], wasm_i32x4_dot_i16x8(w[h], ones));
    }
    store_pairs<Heads>(w, out->pairs + 2 * i);
  }
  for (int32_t h = 0; h < Heads; ++h) {
    out->sum[h] = (wasm_i32x4_extract_lane(sums[h], 0) + wasm_i32x4_extract_lane(sums[h], 1)) +
                  (wasm_i32x4_extract_lane(sums[h], 2) + wasm_i32x4_extract_lane(sums[h], 3));
  }
}

// Sums of an octet's even and odd columns are added to what they stand for: out += unit * sum.
inline void add_octet(v128_t even, v128_t odd, float unit, float* out) {
  const v128_t units = wasm_f32x4_splat(unit);
  const v128_t a = wasm_f32x4_mul(wasm_f32x4_convert_i32x4(even), units);
  const v128_t b = wasm_f32x4_mul(wasm_f32x4_convert_i32x4(odd), units);
  const v128_t low = wasm_i32x4_shuffle(a, b, 0, 4, 1, 5);
  const v128_t high = wasm_i32x4_shuffle(a, b, 2, 6, 3, 7);
  simd::f32x4_store(out, wasm_f32x4_add(simd::f32x4_load(out), low));
  simd::f32x4_store(out + 4, wasm_f32x4_add(simd::f32x4_load(out + 4), high));
}

// out += sum over rows of weight * (code - middle), for Heads query heads; out: each (kRunCodes).
// The rows of several pages follow each other, `pairs` pairs each. The integer sums are exact: bits
// do not depend on the form in which the rows come.
template <int32_t Heads, typename Rows>
[[gnu::noinline]] void add_products(const Rows* pages, int32_t page_count, int32_t pairs,
                                    int32_t bits, int32_t middle, const Weights<Heads>& weights,
                                    float* const (&out)[Heads]) {
  for (int32_t half = 0; half < 2; ++half) {
    v128_t sums[Heads][4];
    for (int32_t h = 0; h < Heads; ++h) {
      const int32_t bias = -middle * weights.sum[h];
      for (int32_t i = 0; i < 4; ++i) {
        sums[h][i] = wasm_i32x4_splat(bias * octet_factor(bits, 2 * half + i / 2));
      }
    }
    const auto masks = Rows::masks(half);
    const int32_t(*w)[Heads] = weights.pairs;
    for (int32_t page = 0; page < page_count; ++page) {
      const Rows rows = pages[page];
      for (int32_t pair = 0; pair < pairs; ++pair, ++w) {
        v128_t splat[Heads];
        for (int32_t h = 0; h < Heads; ++h) splat[h] = wasm_v128_load32_splat(*w + h);
        rows.planes(pair, half, masks, [&](int32_t i, v128_t plane) {
          for (int32_t h = 0; h < Heads; ++h) {
            sums[h][i] = wasm_i32x4_add(sums[h][i], wasm_i32x4_dot_i16x8(plane, splat[h]));
          }
        });
      }
    }
    for (int32_t h = 0; h < Heads; ++h) {
      for (int32_t i = 0; i < 2; ++i) {
        const int32_t octet = 2 * half + i;
        const float unit = weights.unit[h] / static_cast<float>(octet_factor(bits, octet));
        add_octet(sums[h][2 * i], sums[h][2 * i + 1], unit, out[h] + octet_column(bits, octet));
      }
    }
  }
}

}  // namespace leanedge::kernels
