// K and V of a page that are codes: what a block needs to know of them, and how they meet queries
// and probabilities.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "attention_codes.h"
#include "leanedge/page.h"

namespace leanedge::kernels {

inline constexpr int32_t kGroupsMax = kHeadDimMax / kGroupChannels;
inline constexpr int32_t kSlotVectors = kPageSlots / 4;

// Rows of a V group that is shorter than 32 channels are spread to one byte a code.
inline constexpr size_t kSpreadStride = 48;

// K of a page: value = min + scale * code = middle + scale * (code - half of the codes).
struct KeyCodes {
  const uint8_t* codes;   // (width, 32) codes, channel-major
  const v128_t* planes;   // (width / 2, kPairPlanes), or null
  size_t stride;          // bytes from channel to channel
  int32_t bits;
  int32_t width;
  alignas(16) float scale[kHeadDimMax];   // (width, filled up to 8)
  alignas(16) float middle[kHeadDimMax];  // (width, filled up to 8)
};

// V of a page, as groups of 32 channels; the last may be shorter.
struct ValueCodes {
  const uint8_t* codes;  // (32, v_row_bytes) codes, slot-major
  const v128_t* planes;  // (groups, 16, kPairPlanes), or null
  size_t stride;         // bytes from slot to slot
  int32_t bits;
  int32_t dim;
  int32_t groups;
  alignas(16) float scale[kGroupsMax][kPageSlots];
  alignas(16) float middle[kGroupsMax][kPageSlots];
  alignas(16) uint8_t spread[kPageSlots * kSpreadStride];  // of a short last group
};

// Scales and minima of `count` groups (filled up to 8) as f32, the minima moved to the middle of
// the codes.
inline void load_scales(const uint8_t* scale, const uint8_t* min, int32_t count, int32_t bits,
                        float* scale_out, float* middle_out) {
  const v128_t half = wasm_f32x4_splat(static_cast<float>(1 << (bits - 1)));
  for (int32_t i = 0; i < count; i += 4) {
    const v128_t s = simd::f16x4_load(scale + 2 * i);
    const v128_t m = simd::f16x4_load(min + 2 * i);
    simd::f32x4_store(scale_out + i, s);
    simd::f32x4_store(middle_out + i, wasm_f32x4_add(m, wasm_f32x4_mul(s, half)));
  }
}

template <int32_t Bits>
inline void write_planes(const PackedRows<Bits>& rows, int32_t pairs, v128_t* out) {
  for (int32_t half = 0; half < 2; ++half) {
    const auto masks = PackedRows<Bits>::masks(half);
    for (int32_t pair = 0; pair < pairs; ++pair) {
      v128_t* to = out + static_cast<size_t>(pair) * kPairPlanes + 4 * half;
      rows.planes(pair, half, masks,
                  [&](int32_t i, v128_t plane) { wasm_v128_store(to + i, plane); });
    }
  }
}

[[gnu::noinline]] inline void store_planes(const uint8_t* codes, size_t stride, int32_t bits,
                                           int32_t pairs, v128_t* out) {
  if (bits == 8) write_planes<8>({codes, stride}, pairs, out);
  if (bits == 4) write_planes<4>({codes, stride}, pairs, out);
  if (bits == 2) write_planes<2>({codes, stride}, pairs, out);
}

// Pages that a head which loses something takes at a time: scores of several pages do not wait for
// each other, one step of the softmax serves all, and so does one unit of probabilities where codes
// are small. Pages in full precision are read in the order of kernels.h instead, one by one.
inline constexpr int32_t kBatchPages = 4;
static_assert(kBatchPages * kPageSlots <= kWeightsMax);

// Rows of codes of some pages, in whatever form they come.
struct CodeRows {
  const uint8_t* codes[kBatchPages];
  const v128_t* planes[kBatchPages];  // null: as they lie in the page
  size_t stride;                      // bytes from row to row
  int32_t bits;                       // of a code as it lies there
  int32_t middle;                     // of what codes can be
};

template <int32_t Bits, int32_t Heads>
inline void add_packed_products(const CodeRows& rows, int32_t page_count, int32_t pairs,
                                const Weights<Heads>& weights, float* const (&out)[Heads]) {
  PackedRows<Bits> pages[kBatchPages];
  for (int32_t i = 0; i < page_count; ++i) pages[i] = {rows.codes[i], rows.stride};
  add_products<Heads>(pages, page_count, pairs, Bits, rows.middle, weights, out);
}

template <int32_t Heads>
inline void add_run_products(const CodeRows& rows, int32_t page_count, int32_t pairs,
                             const Weights<Heads>& weights, float* const (&out)[Heads]) {
  if (rows.planes[0]) {
    PlaneRows pages[kBatchPages];
    for (int32_t i = 0; i < page_count; ++i) pages[i] = {rows.planes[i]};
    add_products<Heads>(pages, page_count, pairs, rows.bits, rows.middle, weights, out);
  } else if (rows.bits == 8) {
    add_packed_products<8>(rows, page_count, pairs, weights, out);
  } else if (rows.bits == 4) {
    add_packed_products<4>(rows, page_count, pairs, weights, out);
  } else {
    add_packed_products<2>(rows, page_count, pairs, weights, out);
  }
}

// ---- K -------------------------------------------------------------------------------------

// Reads a page's K. `room` takes the planes where many rows will share them; null where not.
inline void open_key_codes(const CachePlan& plan, const PageHead& layout, const uint8_t* bytes,
                           v128_t* room, KeyCodes* k) {
  k->codes = bytes + layout.k_values;
  k->stride = plan.k_channel_bytes;
  k->bits = storage_bits(plan.k_storage);
  k->width = static_cast<int32_t>(layout.width);
  k->planes = room;
  load_scales(bytes + layout.k_scale, bytes + layout.k_min, k->width, k->bits, k->scale, k->middle);
  // Channels between the width and the next multiple of 8 meet queries of 0.
  for (int32_t i = (k->width + 3) / 4 * 4; i < (k->width + 7) / 8 * 8; ++i) {
    k->scale[i] = 0;
    k->middle[i] = 0;
  }
  if (room) store_planes(k->codes, k->stride, k->bits, k->width / 2, room);
}

// Kept channels that share a unit of the folded query.
inline constexpr int32_t kKeyRun = 32;

// scores = q.k of all slots, unscaled. q: each (width, filled up to 8 with 0); scores: each
// (kPageSlots).
template <int32_t Heads>
[[gnu::noinline]] void score_codes(const KeyCodes& k, const float* const (&q)[Heads],
                                   float* const (&scores)[Heads]) {
  Weights<Heads> runs[kHeadDimMax / kKeyRun];
  v128_t base[Heads];
  for (v128_t& sum : base) sum = wasm_f32x4_splat(0.0f);
  for (int32_t begin = 0, run = 0; begin < k.width; begin += kKeyRun, ++run) {
    const int32_t rest = k.width - begin;
    const int32_t vectors = ((rest < kKeyRun ? rest : kKeyRun) + 7) / 8 * 2;
    const float* x[Heads];
    for (int32_t h = 0; h < Heads; ++h) x[h] = q[h] + begin;
    fold_weights<Heads>(
        x, vectors, [&](int32_t i) { return simd::f32x4_load(k.scale + begin + 4 * i); },
        [&](int32_t i) { return simd::f32x4_load(k.middle + begin + 4 * i); }, &runs[run], base);
  }
  for (int32_t h = 0; h < Heads; ++h) {
    const v128_t all = wasm_f32x4_splat(simd::f32x4_sum(base[h]));
    for (int32_t s = 0; s < kPageSlots; s += 4) simd::f32x4_store(scores[h] + s, all);
  }
  for (int32_t begin = 0, run = 0; begin < k.width; begin += kKeyRun, ++run) {
    const int32_t rest = k.width - begin;
    CodeRows rows;
    rows.codes[0] = k.codes + static_cast<size_t>(begin) * k.stride;
    rows.planes[0] = k.planes ? k.planes + static_cast<size_t>(begin / 2) * kPairPlanes : nullptr;
    rows.stride = k.stride;
    rows.bits = k.bits;
    rows.middle = 1 << (k.bits - 1);
    add_run_products<Heads>(rows, 1, (rest < kKeyRun ? rest : kKeyRun) / 2, runs[run], scores);
  }
}

// ---- V -------------------------------------------------------------------------------------

// Spreads runs of `count` < 32 codes, m = count * bits / 8 bytes each and planar, to a byte a code.
// Columns from `count` on are garbage. Reads up to 16 bytes from each run's begin on: behind the
// last slot's values stand the scales.
inline void spread_rows(const uint8_t* codes, size_t stride, int32_t count, int32_t bits,
                        uint8_t* out) {
  const int32_t bytes = count * bits / 8;
  const v128_t mask = wasm_i8x16_splat(static_cast<int8_t>((1 << bits) - 1));
  for (int32_t slot = 0; slot < kPageSlots; ++slot, codes += stride, out += kSpreadStride) {
    v128_t run = wasm_v128_load(codes);
    // Each store covers the last one's garbage.
    for (int32_t plane = 0; plane < 8 / bits; ++plane) {
      wasm_v128_store(out + plane * bytes, wasm_v128_and(run, mask));
      run = wasm_u8x16_shr(run, static_cast<uint32_t>(bits));
    }
  }
}

// Whether a group's rows were spread.
inline bool spreads_group(const ValueCodes& v, int32_t group) {
  return v_group_channels(v.dim, group) < kGroupChannels && v.bits != 8;
}

// A group's rows of a page, and the planes made of them.
inline const uint8_t* group_codes(const ValueCodes& v, int32_t group) {
  return spreads_group(v, group) ? v.spread : v.codes + group * kGroupChannels * v.bits / 8;
}
inline const v128_t* group_planes(const ValueCodes& v, int32_t group) {
  return v.planes + static_cast<size_t>(group) * (kPageSlots / 2) * kPairPlanes;
}

// Reads a page's V. `room` takes the planes where many rows will share them; null where not.
inline void open_value_codes(const CachePlan& plan, const PageHead& layout, const uint8_t* bytes,
                             v128_t* room, ValueCodes* v) {
  v->codes = bytes + layout.v_values;
  v->stride = plan.v_row_bytes;
  v->bits = storage_bits(plan.v_storage);
  v->dim = plan.head_dim;
  v->groups = plan.v_groups;
  v->planes = room;
  for (int32_t g = 0; g < v->groups; ++g) {
    const size_t at = static_cast<size_t>(g) * kPageSlots * 2;
    load_scales(bytes + layout.v_scale + at, bytes + layout.v_min + at, kPageSlots, v->bits,
                v->scale[g], v->middle[g]);
  }
  if (spreads_group(*v, v->groups - 1)) {
    spread_rows(v->codes + (v->groups - 1) * kGroupChannels * v->bits / 8, v->stride,
                v_group_channels(v->dim, v->groups - 1), v->bits, v->spread);
  }
  for (int32_t g = 0; room && g < v->groups; ++g) {
    const bool spread = spreads_group(*v, g);
    store_planes(group_codes(*v, g), spread ? kSpreadStride : v->stride, spread ? 8 : v->bits,
                 kPageSlots / 2, room + (group_planes(*v, g) - v->planes));
  }
}

// out = out * keep + sum over the slots of `pages` of p * v, for one group of at most 32 channels.
//   p    each (count * kPageSlots), 0 for slots that are not seen
//   out  each (kGroupChannels)
template <int32_t Heads>
inline void add_group_values(const ValueCodes* pages, int32_t count, int32_t group,
                             const float* const (&p)[Heads], const float (&keep)[Heads],
                             float* const (&out)[Heads]) {
  const ValueCodes& v = pages[0];
  const bool spread = spreads_group(v, group);
  // Small codes can bear one unit for all pages; int8 cannot.
  const int32_t step = v.bits == 8 ? 1 : count;
  Weights<Heads> weights[kBatchPages];
  v128_t base[Heads];
  for (v128_t& sum : base) sum = wasm_f32x4_splat(0.0f);
  for (int32_t first = 0; first < count; first += step) {
    const float* x[Heads];
    for (int32_t h = 0; h < Heads; ++h) x[h] = p[h] + first * kPageSlots;
    fold_weights<Heads>(
        x, step * kSlotVectors,
        [&](int32_t i) {
          return simd::f32x4_load(pages[first + i / kSlotVectors].scale[group] +
                                  i % kSlotVectors * 4);
        },
        [&](int32_t i) {
          return simd::f32x4_load(pages[first + i / kSlotVectors].middle[group] +
                                  i % kSlotVectors * 4);
        },
        &weights[first], base);
  }
  for (int32_t h = 0; h < Heads; ++h) {
    const v128_t all = wasm_f32x4_splat(simd::f32x4_sum(base[h]));
    const v128_t factor = wasm_f32x4_splat(keep[h]);
    for (int32_t c = 0; c < kGroupChannels; c += 4) {
      const v128_t kept = wasm_f32x4_mul(simd::f32x4_load(out[h] + c), factor);
      simd::f32x4_store(out[h] + c, wasm_f32x4_add(kept, all));
    }
  }
  for (int32_t first = 0; first < count; first += step) {
    CodeRows rows;
    for (int32_t i = 0; i < step; ++i) {
      rows.codes[i] = group_codes(pages[first + i], group);
      rows.planes[i] = v.planes ? group_planes(pages[first + i], group) : nullptr;
    }
    rows.stride = spread ? kSpreadStride : v.stride;
    rows.bits = spread ? 8 : v.bits;
    rows.middle = 1 << (v.bits - 1);
    add_run_products<Heads>(rows, step, kPageSlots / 2, weights[first], out);
  }
}

// All groups. out: each (head_dim).
template <int32_t Heads>
[[gnu::noinline]] void add_code_values(const ValueCodes* pages, int32_t count,
                                       const float* const (&p)[Heads], const float (&keep)[Heads],
                                       float* const (&out)[Heads]) {
  for (int32_t g = 0; g < pages[0].groups; ++g) {
    const int32_t channels = v_group_channels(pages[0].dim, g);
    float* to[Heads];
    for (int32_t h = 0; h < Heads; ++h) to[h] = out[h] + g * kGroupChannels;
    if (channels == kGroupChannels) {
      add_group_values<Heads>(pages, count, g, p, keep, to);
      continue;
    }
    alignas(16) float whole[Heads][kGroupChannels] = {};
    float* in_whole[Heads];
    const size_t bytes = static_cast<size_t>(channels) * sizeof(float);
    for (int32_t h = 0; h < Heads; ++h) {
      memcpy(whole[h], to[h], bytes);
      in_whole[h] = whole[h];
    }
    add_group_values<Heads>(pages, count, g, p, keep, in_whole);
    for (int32_t h = 0; h < Heads; ++h) memcpy(to[h], whole[h], bytes);
  }
}

}  // namespace leanedge::kernels
