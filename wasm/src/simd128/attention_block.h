// One block of at most 32 slots of one KV head, widened to f32, and what a query row does with it.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "leanedge/half.h"
#include "leanedge/kernels.h"
#include "simd.h"

namespace leanedge::kernels {

// Rows of K and V are filled up to whole vectors; K's padding is 0.
constexpr size_t padded_dim(int32_t dim) { return static_cast<size_t>((dim + 3) / 4 * 4); }

struct Block {
  const float* k;            // (32, padded width), or (width, 32) if channel_major
  const float* v;            // (32, padded head_dim)
  const uint16_t* channels;  // (width) kept channels; null: all, in order
  int32_t width;
  int32_t slots;
  int32_t first_position;    // of slot 0; archive pages: 0, before every query
  bool channel_major;
};

// Running state of the online softmax of one query row and head.
struct Softmax {
  float max;
  float sum;
};

// (rows, dim) f16 -> (rows, padded dim) f32, padding 0.
inline void widen_rows(const uint16_t* from, int32_t rows, int32_t dim, float* to) {
  const size_t width = static_cast<size_t>(dim);
  if (width % 4 == 0) {
    const size_t count = static_cast<size_t>(rows) * width;
    for (size_t i = 0; i < count; i += 4) simd::f32x4_store(to + i, simd::f16x4_load(from + i));
    return;
  }
  for (int32_t r = 0; r < rows; ++r, from += width, to += padded_dim(dim)) {
    for (size_t c = 0; c < padded_dim(dim); ++c) to[c] = c < width ? f16_to_f32(from[c]) : 0.0f;
  }
}

// Spreads (rows, dim) f32 to (rows, padded dim) in place, padding 0.
inline void pad_rows(float* values, int32_t rows, int32_t dim) {
  const size_t width = static_cast<size_t>(dim);
  const size_t padded = padded_dim(dim);
  if (padded == width) return;
  for (size_t r = static_cast<size_t>(rows); r-- > 0;) {
    memmove(values + r * padded, values + r * width, width * sizeof(float));
    for (size_t c = width; c < padded; ++c) values[r * padded + c] = 0.0f;
  }
}

inline void divide_row(float* row, size_t dim, float divisor) {
  const v128_t divisors = wasm_f32x4_splat(divisor);
  size_t i = 0;
  for (; i + 4 <= dim; i += 4) {
    simd::f32x4_store(row + i, wasm_f32x4_div(simd::f32x4_load(row + i), divisors));
  }
  for (; i < dim; ++i) row[i] /= divisor;
}

// q.k of all slots, unscaled, K in rows: lane j of a sum takes the channels = j mod 4. Slots are
// taken four at a time: results past `slots` are garbage. q: (padded width); scores: (32).
inline void score_rows(const Block& block, const float* q, int32_t slots, float* scores) {
  const size_t width = padded_dim(block.width);
  const float* k = block.k;
  for (int32_t s = 0; s < slots; s += 4, k += 4 * width) {
    v128_t a = wasm_f32x4_const_splat(0.0f);
    v128_t b = a;
    v128_t c = a;
    v128_t d = a;
    for (size_t i = 0; i < width; i += 4) {
      const v128_t x = simd::f32x4_load(q + i);
      a = wasm_f32x4_add(a, wasm_f32x4_mul(x, simd::f32x4_load(k + i)));
      b = wasm_f32x4_add(b, wasm_f32x4_mul(x, simd::f32x4_load(k + width + i)));
      c = wasm_f32x4_add(c, wasm_f32x4_mul(x, simd::f32x4_load(k + 2 * width + i)));
      d = wasm_f32x4_add(d, wasm_f32x4_mul(x, simd::f32x4_load(k + 3 * width + i)));
    }
    simd::f32x4_store(scores + s, simd::f32x4_sum4(a, b, c, d));
  }
}

// Sums of the channels = `phase` mod 4 for all 32 slots, K by channels. out: 8 vectors.
inline void score_phase(const Block& block, const float* q, int32_t phase, v128_t (&out)[8]) {
  for (int32_t i = 0; i < 8; ++i) out[i] = wasm_f32x4_const_splat(0.0f);
  for (int32_t c = phase; c < block.width; c += 4) {
    const v128_t x = wasm_v128_load32_splat(q + c);
    const float* k = block.k + static_cast<size_t>(c) * kPageSlots;
    for (int32_t i = 0; i < 8; ++i) {
      out[i] = wasm_f32x4_add(out[i], wasm_f32x4_mul(x, simd::f32x4_load(k + 4 * i)));
    }
  }
}

// score_rows for K by channels: the same sums in the same order, hence the same bits.
inline void score_channels(const Block& block, const float* q, float* scores) {
  v128_t s0[8];
  v128_t s1[8];
  v128_t pair[8];
  score_phase(block, q, 0, s0);
  score_phase(block, q, 1, s1);
  for (int32_t i = 0; i < 8; ++i) pair[i] = wasm_f32x4_add(s0[i], s1[i]);
  score_phase(block, q, 2, s0);
  score_phase(block, q, 3, s1);
  for (int32_t i = 0; i < 8; ++i) {
    simd::f32x4_store(scores + 4 * i, wasm_f32x4_add(pair[i], wasm_f32x4_add(s0[i], s1[i])));
  }
}

// out (Vectors of channels) = out * rescale + sum over slots of p * v, slots in order.
template <int32_t Vectors>
inline void add_values(const float* v, size_t stride, const float* p, int32_t slots,
                       v128_t rescale, float* out) {
  v128_t sums[Vectors];
  for (int32_t i = 0; i < Vectors; ++i) {
    sums[i] = wasm_f32x4_mul(simd::f32x4_load(out + 4 * i), rescale);
  }
  for (int32_t s = 0; s < slots; ++s, v += stride) {
    const v128_t weight = wasm_v128_load32_splat(p + s);
    for (int32_t i = 0; i < Vectors; ++i) {
      sums[i] = wasm_f32x4_add(sums[i], wasm_f32x4_mul(weight, simd::f32x4_load(v + 4 * i)));
    }
  }
  for (int32_t i = 0; i < Vectors; ++i) simd::f32x4_store(out + 4 * i, sums[i]);
}

// Turns scores into exp(score * scale - max) in place, for a block's first `slots` slots, and
// moves the softmax on. Returns by how much earlier sums shrink. Lanes past `slots` become 0.
inline float soften(float* scores, int32_t slots, float scale, Softmax* state) {
  const v128_t scales = wasm_f32x4_splat(scale);
  const v128_t lanes = wasm_i32x4_const(0, 1, 2, 3);
  const v128_t none = wasm_f32x4_const_splat(-INFINITY);
  v128_t peak = none;
  for (int32_t s = 0; s < slots; s += 4) {
    const v128_t inside = wasm_i32x4_lt(lanes, wasm_i32x4_splat(slots - s));
    const v128_t scaled = wasm_f32x4_mul(simd::f32x4_load(scores + s), scales);
    const v128_t seen = wasm_v128_bitselect(scaled, none, inside);
    simd::f32x4_store(scores + s, seen);
    peak = wasm_f32x4_max(peak, seen);
  }
  const float block_max = simd::f32x4_max(peak);
  const float max = state->max > block_max ? state->max : block_max;
  const float rescale = simd::f32_exp(state->max - max);
  const v128_t maxima = wasm_f32x4_splat(max);
  v128_t sum = wasm_f32x4_const_splat(0.0f);
  for (int32_t s = 0; s < slots; s += 4) {
    const v128_t p = simd::f32x4_exp(wasm_f32x4_sub(simd::f32x4_load(scores + s), maxima));
    simd::f32x4_store(scores + s, p);
    sum = wasm_f32x4_add(sum, p);
  }
  state->max = max;
  state->sum = state->sum * rescale + simd::f32x4_sum(sum);
  return rescale;
}

// Folds the first `slots` slots of a block into one query row and head (Milakov and Gimelshein
// 2018, algorithm 3). q, out: (head_dim).
inline void attend_block(const Block& block, const float* q, int32_t slots, float scale,
                         int32_t head_dim, Softmax* state, float* out) {
  alignas(16) float gathered[kHeadDimMax];
  alignas(16) float scores[kPageSlots];
  if (block.channels) {
    for (int32_t i = 0; i < block.width; ++i) gathered[i] = q[block.channels[i]];
    q = gathered;
  } else if (block.width % 4 != 0 && !block.channel_major) {
    memcpy(gathered, q, static_cast<size_t>(block.width) * sizeof(float));
    memset(gathered + block.width, 0,
           (padded_dim(block.width) - static_cast<size_t>(block.width)) * sizeof(float));
    q = gathered;
  }
  if (block.channel_major) {
    score_channels(block, q, scores);
  } else {
    score_rows(block, q, slots, scores);
  }
  const float rescale = soften(scores, slots, scale, state);
  const v128_t rescales = wasm_f32x4_splat(rescale);
  const size_t stride = padded_dim(head_dim);
  int32_t c = 0;
  for (; c + 32 <= head_dim; c += 32) {
    add_values<8>(block.v + c, stride, scores, slots, rescales, out + c);
  }
  for (; c + 4 <= head_dim; c += 4) {
    add_values<1>(block.v + c, stride, scores, slots, rescales, out + c);
  }
  for (; c < head_dim; ++c) {
    float sum = out[c] * rescale;
    for (int32_t s = 0; s < slots; ++s) sum += scores[s] * block.v[static_cast<size_t>(s) * stride + static_cast<size_t>(c)];
    out[c] = sum;
  }
}

}  // namespace leanedge::kernels
