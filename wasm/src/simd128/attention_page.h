// K and V of a page that are codes: what a block needs to know of them, and how they meet queries and
// probabilities.
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

// Scales and minima of `count` groups (filled up to 8) as f32, the minima moved to the middle of the
// codes.
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
      rows.planes(pair, half, masks, [&](int32_t i, v128_t plane) { wasm_v128_store(to + i, plane); });
    }
  }
}

[[gnu::noinline]] inline void store_planes(const uint8_t* codes, size_t stride, int32_t bits,
                                           int32_t pairs, v128_t* out) {
  if (bits == 8) write_planes<8>({codes, stride}, pairs, out);
  if (bits == 4) write_planes<4>({codes, stride}, pairs, out);
  if (bits == 2) write_planes<2>({codes, stride}, pairs, out);
}

// Products of rows in whatever form they come.
template <int32_t Heads>
inline void add_run_products(const uint8_t* codes, const v128_t* planes, size_t stride,
                             int32_t bits, int32_t pairs, int32_t middle,
                             const ProductTarget (&targets)[Heads]) {
  if (planes) {
    add_products<Heads>(PlaneRows{planes}, pairs, bits, middle, targets);
  } else if (bits == 8) {
    add_products<Heads>(PackedRows<8>{codes, stride}, pairs, 8, middle, targets);
  } else if (bits == 4) {
    add_products<Heads>(PackedRows<4>{codes, stride}, pairs, 4, middle, targets);
  } else {
    add_products<Heads>(PackedRows<2>{codes, stride}, pairs, 2, middle, targets);
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

// q.k of all slots, unscaled. q: Heads times (width, filled up to 8 with 0).
template <int32_t Heads>
inline void score_codes(const KeyCodes& k, const float* const (&q)[Heads],
                        float (&scores)[Heads][kPageSlots]) {
  for (int32_t begin = 0; begin < k.width; begin += kWeightsPerUnit) {
    const int32_t rest = k.width - begin;
    const int32_t count = rest < kWeightsPerUnit ? rest : kWeightsPerUnit;
    const int32_t vectors = (count + 7) / 8 * 2;
    Weights weights[Heads];
    ProductTarget targets[Heads];
    for (int32_t h = 0; h < Heads; ++h) {
      v128_t folded[kWeightsPerUnit / 4];
      v128_t base = wasm_f32x4_const_splat(0.0f);
      for (int32_t i = 0; i < vectors; ++i) {
        const v128_t x = simd::f32x4_load(q[h] + begin + 4 * i);
        folded[i] = wasm_f32x4_mul(x, simd::f32x4_load(k.scale + begin + 4 * i));
        base = wasm_f32x4_add(base, wasm_f32x4_mul(x, simd::f32x4_load(k.middle + begin + 4 * i)));
      }
      round_weights(folded, vectors, &weights[h]);
      targets[h] = {&weights[h], scores[h], simd::f32x4_sum(base), begin ? 1.0f : 0.0f};
      if (begin == 0) memset(scores[h], 0, sizeof(scores[h]));
    }
    const v128_t* planes =
        k.planes ? k.planes + static_cast<size_t>(begin / 2) * kPairPlanes : nullptr;
    add_run_products<Heads>(k.codes + static_cast<size_t>(begin) * k.stride, planes, k.stride,
                            k.bits, count / 2, 1 << (k.bits - 1), targets);
  }
}

// ---- V -------------------------------------------------------------------------------------

// Spreads runs of `count` < 32 codes, m = count * bits / 8 bytes each and planar, to a byte a code.
// Columns from `count` on are garbage. Reads up to 16 bytes from each run's begin on: behind the last
// slot's values stand the scales.
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

// Bits of a group's rows as add_products sees them, and where they begin.
struct ValueRun {
  const uint8_t* codes;
  size_t stride;
  int32_t bits;
};

inline ValueRun value_run(const ValueCodes& v, int32_t group) {
  const int32_t count = v_group_channels(v.dim, group);
  if (count < kGroupChannels && v.bits != 8) return {v.spread, kSpreadStride, 8};
  return {v.codes + group * kGroupChannels * v.bits / 8, v.stride, v.bits};
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
  const int32_t last = v_group_channels(v->dim, v->groups - 1);
  if (last < kGroupChannels && v->bits != 8) {
    spread_rows(v->codes + (v->groups - 1) * kGroupChannels * v->bits / 8, v->stride, last, v->bits,
                v->spread);
  }
  for (int32_t g = 0; room && g < v->groups; ++g) {
    const ValueRun run = value_run(*v, g);
    store_planes(run.codes, run.stride, run.bits, kPageSlots / 2,
                 room + static_cast<size_t>(g) * (kPageSlots / 2) * kPairPlanes);
  }
}

// out = out * rescale + sum over slots of p * v. p: probabilities, 0 for slots that are not seen.
template <int32_t Heads>
inline void add_code_values(const ValueCodes& v, const float (&p)[Heads][kPageSlots],
                            const float (&rescale)[Heads], float* const (&out)[Heads]) {
  for (int32_t g = 0; g < v.groups; ++g) {
    const int32_t count = v_group_channels(v.dim, g);
    const bool whole = count == kGroupChannels;
    alignas(16) float shortened[Heads][kGroupChannels];
    Weights weights[Heads];
    ProductTarget targets[Heads];
    for (int32_t h = 0; h < Heads; ++h) {
      v128_t folded[kSlotVectors];
      v128_t base = wasm_f32x4_const_splat(0.0f);
      for (int32_t i = 0; i < kSlotVectors; ++i) {
        const v128_t x = simd::f32x4_load(p[h] + 4 * i);
        folded[i] = wasm_f32x4_mul(x, simd::f32x4_load(v.scale[g] + 4 * i));
        base = wasm_f32x4_add(base, wasm_f32x4_mul(x, simd::f32x4_load(v.middle[g] + 4 * i)));
      }
      round_weights(folded, kSlotVectors, &weights[h]);
      float* to = out[h] + g * kGroupChannels;
      if (!whole) {
        memset(shortened[h], 0, sizeof(shortened[h]));
        memcpy(shortened[h], to, static_cast<size_t>(count) * sizeof(float));
        to = shortened[h];
      }
      targets[h] = {&weights[h], to, simd::f32x4_sum(base), rescale[h]};
    }
    const ValueRun run = value_run(v, g);
    const v128_t* planes =
        v.planes ? v.planes + static_cast<size_t>(g) * (kPageSlots / 2) * kPairPlanes : nullptr;
    add_run_products<Heads>(run.codes, planes, run.stride, run.bits, kPageSlots / 2,
                            1 << (v.bits - 1), targets);
    for (int32_t h = 0; h < Heads && !whole; ++h) {
      memcpy(out[h] + g * kGroupChannels, shortened[h],
             static_cast<size_t>(count) * sizeof(float));
    }
  }
}

}  // namespace leanedge::kernels
