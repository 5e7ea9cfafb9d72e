// One block of at most 32 slots of one KV head, and what query rows do with it.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "attention_page.h"
#include "leanedge/half.h"
#include "leanedge/kernels.h"
#include "simd.h"

namespace leanedge::kernels {

// Rows of K and V are filled up to whole vectors; K's padding is 0.
constexpr size_t padded_dim(int32_t dim) { return static_cast<size_t>((dim + 3) / 4 * 4); }

// How a block's values lie in memory, and four of them as f32 times 1 / kLift. What they are
// multiplied with is multiplied by kLift beforehand: both are powers of two, so products and sums
// are the same bits in every form.
struct Wide {
  using Value = float;
  static constexpr float kLift = 1.0f;
  inline v128_t load(const float* p) const { return simd::f32x4_load(p); }
};
struct Narrow {
  using Value = uint16_t;
  static constexpr float kLift = simd::kF16Lift;
  const v128_t mask = simd::held_i32x4(simd::kF16Mask);
  inline v128_t load(const uint16_t* p) const { return simd::f16x4_load_low(p, mask); }
};

// `Form` is Wide for values that were widened to f32 before, because many query rows share them,
// and Narrow for f16 as it lies in the cache, which pays where few query heads read it. K and V of
// a page may be codes instead.
template <typename Form>
struct Block {
  using Value = typename Form::Value;
  const Value* k[kPageSlots];  // each (padded width): rows of K
  const Value* v[kPageSlots];  // each (padded head_dim): rows of V
  const Value* k_channels;     // (width, 32): K by channels; null: by rows, or codes
  const KeyCodes* k_codes;     // null: none
  const ValueCodes* v_codes;   // null: none; those of a batch's pages follow each other
  int32_t width;
  int32_t slots;
  int32_t first_position;      // of slot 0; archive pages: 0, before every query
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

inline void divide_row(float* row, size_t dim, float divisor) {
  const v128_t divisors = wasm_f32x4_splat(divisor);
  size_t i = 0;
  for (; i + 4 <= dim; i += 4) {
    simd::f32x4_store(row + i, wasm_f32x4_div(simd::f32x4_load(row + i), divisors));
  }
  for (; i < dim; ++i) row[i] /= divisor;
}

// q.k of all slots, unscaled, K by rows: lane j of a sum takes the channels = j mod 4. Slots are
// taken four at a time: results past `slots` are garbage. q: Heads times (padded width).
template <typename Form, int32_t Heads>
[[gnu::noinline]] void score_rows(const Block<Form>& block, const float* const (&q)[Heads],
                                  int32_t slots, float* const (&scores)[Heads]) {
  const Form form;
  const size_t width = padded_dim(block.width);
  for (int32_t s = 0; s < slots; s += 4) {
    // Past the last slot its own row stands in.
    const auto* k0 = block.k[s];
    const auto* k1 = block.k[s + 1 < slots ? s + 1 : s];
    const auto* k2 = block.k[s + 2 < slots ? s + 2 : s];
    const auto* k3 = block.k[s + 3 < slots ? s + 3 : s];
    v128_t sums[Heads][4] = {};
    for (size_t i = 0; i < width; i += 4) {
      const v128_t k[4] = {form.load(k0 + i), form.load(k1 + i), form.load(k2 + i),
                           form.load(k3 + i)};
      for (int32_t h = 0; h < Heads; ++h) {
        const v128_t x = simd::f32x4_load(q[h] + i);
        for (int32_t j = 0; j < 4; ++j) {
          sums[h][j] = wasm_f32x4_add(sums[h][j], wasm_f32x4_mul(x, k[j]));
        }
      }
    }
    for (int32_t h = 0; h < Heads; ++h) {
      simd::f32x4_store(scores[h] + s, simd::f32x4_sum4(sums[h][0], sums[h][1], sums[h][2],
                                                            sums[h][3]));
    }
  }
}

// Slots whose scores are summed at once where K lies by channels: as many as registers allow.
template <int32_t Heads>
inline constexpr int32_t kScoreVectors = 8 / Heads;

// Sums of the channels = `phase` mod 4 of kScoreVectors vectors of slots, from slot `slot` on.
template <typename Form, int32_t Heads>
inline void score_phase(const Form& form, const Block<Form>& block,
                        const float* const (&q)[Heads], int32_t phase, int32_t slot,
                        v128_t (&out)[Heads][kScoreVectors<Heads>]) {
  for (int32_t h = 0; h < Heads; ++h) {
    for (v128_t& sum : out[h]) sum = wasm_f32x4_const_splat(0.0f);
  }
  for (int32_t c = phase; c < block.width; c += 4) {
    const auto* k = block.k_channels + static_cast<size_t>(c) * kPageSlots + slot;
    for (int32_t i = 0; i < kScoreVectors<Heads>; ++i) {
      const v128_t values = form.load(k + 4 * i);
      for (int32_t h = 0; h < Heads; ++h) {
        const v128_t x = wasm_v128_load32_splat(q[h] + c);
        out[h][i] = wasm_f32x4_add(out[h][i], wasm_f32x4_mul(x, values));
      }
    }
  }
}

// score_rows for K by channels: the same sums in the same order, hence the same bits.
template <typename Form, int32_t Heads>
[[gnu::noinline]] void score_channels(const Block<Form>& block, const float* const (&q)[Heads],
                                      float* const (&scores)[Heads]) {
  const Form form;
  constexpr int32_t vectors = kScoreVectors<Heads>;
  for (int32_t slot = 0; slot < kPageSlots; slot += 4 * vectors) {
    v128_t s0[Heads][vectors];
    v128_t s1[Heads][vectors];
    v128_t pair[Heads][vectors];
    score_phase<Form, Heads>(form, block, q, 0, slot, s0);
    score_phase<Form, Heads>(form, block, q, 1, slot, s1);
    for (int32_t h = 0; h < Heads; ++h) {
      for (int32_t i = 0; i < vectors; ++i) pair[h][i] = wasm_f32x4_add(s0[h][i], s1[h][i]);
    }
    score_phase<Form, Heads>(form, block, q, 2, slot, s0);
    score_phase<Form, Heads>(form, block, q, 3, slot, s1);
    for (int32_t h = 0; h < Heads; ++h) {
      for (int32_t i = 0; i < vectors; ++i) {
        const v128_t other = wasm_f32x4_add(s0[h][i], s1[h][i]);
        simd::f32x4_store(scores[h] + slot + 4 * i, wasm_f32x4_add(pair[h][i], other));
      }
    }
  }
}

// Channels [c, c + 4 * Vectors) of each head's output: out * rescale + sum over slots of p * v,
// slots in order.
template <typename Form, int32_t Heads, int32_t Vectors>
inline void add_values(const Form& form, const Block<Form>& block, int32_t c,
                       const float* const (&p)[Heads], int32_t slots,
                       const float (&rescale)[Heads], float* const (&out)[Heads]) {
  v128_t sums[Heads][Vectors];
  for (int32_t h = 0; h < Heads; ++h) {
    const v128_t factor = wasm_f32x4_splat(rescale[h]);
    for (int32_t i = 0; i < Vectors; ++i) {
      sums[h][i] = wasm_f32x4_mul(simd::f32x4_load(out[h] + c + 4 * i), factor);
    }
  }
  for (int32_t s = 0; s < slots; ++s) {
    const auto* v = block.v[s] + c;
    v128_t weights[Heads];
    for (int32_t h = 0; h < Heads; ++h) weights[h] = wasm_v128_load32_splat(p[h] + s);
    for (int32_t i = 0; i < Vectors; ++i) {
      const v128_t values = form.load(v + 4 * i);
      for (int32_t h = 0; h < Heads; ++h) {
        sums[h][i] = wasm_f32x4_add(sums[h][i], wasm_f32x4_mul(weights[h], values));
      }
    }
  }
  for (int32_t h = 0; h < Heads; ++h) {
    for (int32_t i = 0; i < Vectors; ++i) simd::f32x4_store(out[h] + c + 4 * i, sums[h][i]);
  }
}

// Channels [0, head_dim) of each head's output, as add_values; lifts the probabilities.
template <typename Form, int32_t Heads>
[[gnu::noinline]] void add_full_values(const Block<Form>& block, float* const (&p)[Heads],
                                       int32_t slots, int32_t head_dim,
                                       const float (&rescale)[Heads], float* const (&out)[Heads]) {
  if constexpr (Form::kLift != 1.0f) {
    const v128_t lift = wasm_f32x4_const_splat(Form::kLift);
    for (int32_t h = 0; h < Heads; ++h) {
      for (int32_t s = 0; s < kPageSlots; s += 4) {
        simd::f32x4_store(p[h] + s, wasm_f32x4_mul(simd::f32x4_load(p[h] + s), lift));
      }
    }
  }
  const float* weights[Heads];
  for (int32_t h = 0; h < Heads; ++h) weights[h] = p[h];
  const Form form;
  constexpr int32_t wide = 8 / Heads;  // vectors at a time: as many sums as registers allow
  int32_t c = 0;
  for (; c + 4 * wide <= head_dim; c += 4 * wide) {
    add_values<Form, Heads, wide>(form, block, c, weights, slots, rescale, out);
  }
  for (; c + 4 <= head_dim; c += 4) {
    add_values<Form, Heads, 1>(form, block, c, weights, slots, rescale, out);
  }
  if (c == head_dim) return;
  // Two channels are left over, in a vector with padding; Narrow blocks have none.
  for (int32_t h = 0; h < Heads; ++h) {
    v128_t sum = wasm_f32x4_mul(wasm_f32x4_make(out[h][c], out[h][c + 1], 0.0f, 0.0f),
                                wasm_f32x4_splat(rescale[h]));
    for (int32_t s = 0; s < slots; ++s) {
      const v128_t weight = wasm_v128_load32_splat(p[h] + s);
      sum = wasm_f32x4_add(sum, wasm_f32x4_mul(weight, form.load(block.v[s] + c)));
    }
    out[h][c] = wasm_f32x4_extract_lane(sum, 0);
    out[h][c + 1] = wasm_f32x4_extract_lane(sum, 1);
  }
}

// Turns scores into exp(score * scale - max) in place, for a block's first `slots` slots, and
// moves the softmax on. Returns by how much earlier sums shrink. Lanes past `slots` become 0.
[[gnu::noinline]] inline float soften(float* scores, int32_t slots, float scale, Softmax* state) {
  const v128_t scales = wasm_f32x4_splat(scale);
  const v128_t lanes = wasm_i32x4_const(0, 1, 2, 3);
  const v128_t none = wasm_f32x4_const_splat(-INFINITY);
  v128_t peak = none;
  for (int32_t s = 0; s < slots; s += 4) {
    const v128_t inside = wasm_i32x4_lt(lanes, wasm_i32x4_splat(slots - s));
    const v128_t scaled = wasm_f32x4_mul(simd::f32x4_load(scores + s), scales);
    const v128_t seen = wasm_v128_bitselect(scaled, none, inside);
    simd::f32x4_store(scores + s, seen);
    peak = wasm_f32x4_pmax(peak, seen);
  }
  const float block_max = simd::f32x4_pmax(peak);
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

// Folds the first `slots` slots of a block of full values into Heads query heads of one row
// (Milakov and Gimelshein 2018, algorithm 3).
//   q       each (padded width), times kLift: what the block's channels meet
//   states  (Heads)
//   out     each (head_dim)
template <typename Form, int32_t Heads>
inline void attend_block(const Block<Form>& block, const float* const (&q)[Heads], int32_t slots,
                         float scale, int32_t head_dim, Softmax* states,
                         float* const (&out)[Heads]) {
  alignas(16) float room[Heads][kPageSlots];
  float* scores[Heads];
  for (int32_t h = 0; h < Heads; ++h) scores[h] = room[h];
  if (block.k_channels) {
    score_channels<Form, Heads>(block, q, scores);
  } else {
    score_rows<Form, Heads>(block, q, slots, scores);
  }
  float rescale[Heads];
  for (int32_t h = 0; h < Heads; ++h) {
    rescale[h] = soften(scores[h], slots, scale, &states[h]);
  }
  add_full_values<Form, Heads>(block, scores, slots, head_dim, rescale, out);
}

// ---- batches of pages -----------------------------------------------------------------------

template <typename Form>
struct Batch {
  Block<Form> pages[kBatchPages];
  int32_t count;
};

inline constexpr float kLog2E = 0x1.715476p+0f;

// soften() for whole pages: `slots` is a multiple of kPageSlots, evicted slots have -infinity.
[[gnu::noinline]] inline float soften_pages(float* scores, int32_t slots, float scale,
                                            Softmax* state) {
  v128_t peak = wasm_f32x4_const_splat(-INFINITY);
  v128_t peak2 = peak;
  for (int32_t s = 0; s < slots; s += 8) {
    peak = wasm_f32x4_pmax(peak, simd::f32x4_load(scores + s));
    peak2 = wasm_f32x4_pmax(peak2, simd::f32x4_load(scores + s + 4));
  }
  const float block_max = simd::f32x4_pmax(wasm_f32x4_pmax(peak, peak2)) * scale;
  const float max = state->max > block_max ? state->max : block_max;
  const float rescale = simd::f32_exp(state->max - max);
  const v128_t scales = wasm_f32x4_splat(scale * kLog2E);
  const v128_t maxima = wasm_f32x4_splat(max * kLog2E);
  v128_t sum = wasm_f32x4_splat(0.0f);
  v128_t sum2 = sum;
  for (int32_t s = 0; s < slots; s += 8) {
    const v128_t a = wasm_f32x4_mul(simd::f32x4_load(scores + s), scales);
    const v128_t b = wasm_f32x4_mul(simd::f32x4_load(scores + s + 4), scales);
    const v128_t p = simd::f32x4_exp2(wasm_f32x4_sub(a, maxima));
    const v128_t p2 = simd::f32x4_exp2(wasm_f32x4_sub(b, maxima));
    simd::f32x4_store(scores + s, p);
    simd::f32x4_store(scores + s + 4, p2);
    sum = wasm_f32x4_add(sum, p);
    sum2 = wasm_f32x4_add(sum2, p2);
  }
  state->max = max;
  state->sum = state->sum * rescale + simd::f32x4_sum(wasm_f32x4_add(sum, sum2));
  return rescale;
}

// attend_block for several pages at once. q is not lifted where K is codes.
template <typename Form, int32_t Heads>
inline void attend_batch(const Batch<Form>& batch, const float* const (&q)[Heads], float scale,
                         int32_t head_dim, Softmax* states, float* const (&out)[Heads]) {
  alignas(16) float room[Heads][kBatchPages * kPageSlots];
  const bool k_codes = batch.pages[0].k_codes != nullptr;
  const bool v_codes = batch.pages[0].v_codes != nullptr;
  float* slots[kBatchPages][Heads];
  for (int32_t i = 0; i < batch.count; ++i) {
    for (int32_t h = 0; h < Heads; ++h) slots[i][h] = room[h] + i * kPageSlots;
  }
  for (int32_t i = 0; i < batch.count; ++i) {
    if (k_codes) {
      score_codes<Heads>(*batch.pages[i].k_codes, q, slots[i]);
    } else {
      score_channels<Form, Heads>(batch.pages[i], q, slots[i]);
    }
  }
  for (int32_t i = 0; i < batch.count; ++i) {
    for (int32_t h = 0; h < Heads; ++h) {
      for (int32_t s = batch.pages[i].slots; s < kPageSlots; ++s) slots[i][h][s] = -INFINITY;
    }
  }
  float keep[Heads];
  for (int32_t h = 0; h < Heads; ++h) {
    keep[h] = soften_pages(room[h], batch.count * kPageSlots, scale, &states[h]);
  }
  if (v_codes) {
    const float* p[Heads];
    for (int32_t h = 0; h < Heads; ++h) p[h] = room[h];
    add_code_values<Heads>(batch.pages[0].v_codes, batch.count, p, keep, out);
    return;
  }
  for (int32_t i = 0; i < batch.count; ++i) {
    add_full_values<Form, Heads>(batch.pages[i], slots[i], batch.pages[i].slots, head_dim, keep,
                                 out);
    for (float& factor : keep) factor = 1.0f;
  }
}

}  // namespace leanedge::kernels
