// From the bytes of a page in shared memory to operands of matrix products.
//
// Scores are S^T = K q^T: slots are the 16 rows of a product, query heads its 8 columns, channels
// what it sums over. Outputs are O^T = V^T P^T: channels are the rows, slots the sum. Both K
// (channel-major) and V (slot-major) are therefore read with a transposing matrix load, which hands
// each lane two neighbouring channels (or slots) in the halves of a register, each half with 16
// bits of codes: the planar order of docs/page-format.md makes those 1, 2, 4 or 8 values that
// belong to one mma row each.
//
// A code is not converted. Its bits, masked in place, are a tiny f16 number: code x 2^(p - 24) at
// bit p, exact in the product. The power of two goes into one f32 multiplication of the sum. K's
// scale is folded into q and V's into the probabilities, both f16; the minima are products of their
// own.
//
// Slots of a page come in four blocks of eight, numbered in the order that K's storage gives them:
// slot_of() says which slots they are. r = lane / 4, t = lane % 4 throughout.
#pragma once

#include "leanedge/plan.h"
#include "warp_ops.cuh"

namespace leanedge::cuda {

// Slot of row i of block b.
template <PageStorage K>
__device__ __forceinline__ constexpr int slot_of(int b, int i) {
  if constexpr (K == PageStorage::kF16) return 8 * b + i;
  if constexpr (K == PageStorage::kInt8) return (b >> 1) * 16 + 2 * i + (b & 1);
  if constexpr (K == PageStorage::kInt4) return (b & 1) * 16 + 2 * i + (b >> 1);
  return 8 * b + (i < 4 ? 2 * i : 2 * i - 7);
}

// What a block's scores must be multiplied by: the place of its codes in a byte.
template <PageStorage K>
__device__ __forceinline__ constexpr float k_factor(int b) {
  if constexpr (K == PageStorage::kF16) return 1.0f;
  if constexpr (K == PageStorage::kInt8) return 0x1p24f;
  if constexpr (K == PageStorage::kInt4) return b & 1 ? 0x1p20f : 0x1p24f;
  return b == 0 ? 0x1p24f : b == 1 ? 0x1p22f : b == 2 ? 0x1p20f : 0x1p18f;
}

// The f16 values of one array over 32 slots as pairs for mma columns: out[b] = slots of rows 2t and
// 2t + 1 of block b. `values` is 8-byte aligned, in shared memory.
template <PageStorage K>
__device__ __forceinline__ void slot_pairs(const uint16_t* values, int t, uint32_t (&out)[4]) {
  if constexpr (K == PageStorage::kF16) {
#pragma unroll
    for (int b = 0; b < 4; ++b) out[b] = *reinterpret_cast<const uint32_t*>(values + 8 * b + 2 * t);
  } else if constexpr (K == PageStorage::kInt2) {
    const uint32_t select = t < 2 ? 0x5410u : 0x7632u;
#pragma unroll
    for (int b = 0; b < 4; ++b) {
      const uint2 four = *reinterpret_cast<const uint2*>(values + 8 * b + 4 * (t & 1));
      out[b] = __byte_perm(four.x, four.y, select);
    }
  } else {
    const uint2 low = *reinterpret_cast<const uint2*>(values + 4 * t);
    const uint2 high = *reinterpret_cast<const uint2*>(values + 16 + 4 * t);
    constexpr bool kInt8 = K == PageStorage::kInt8;
    out[0] = __byte_perm(low.x, low.y, 0x5410);
    out[kInt8 ? 1 : 2] = __byte_perm(low.x, low.y, 0x7632);
    out[kInt8 ? 2 : 1] = __byte_perm(high.x, high.y, 0x5410);
    out[3] = __byte_perm(high.x, high.y, 0x7632);
  }
}

// Which channel of a step of 16 stands in row k of the sum; pairs (2t, 2t + 1) and (2t + 8, 2t +
// 9).
template <PageStorage K>
__device__ __forceinline__ constexpr int channel_of(int k) {
  if constexpr (K == PageStorage::kInt2) return k < 8 ? 2 * k : 2 * (k - 8) + 1;
  return k;
}

// An f16 array over channels (scales, minima) as pairs: rows 2t, 2t + 1 and 2t + 8, 2t + 9 of step
// `s`.
template <PageStorage K>
__device__ __forceinline__ void channel_pairs(const uint16_t* values, int s, int t, uint32_t* low,
                                              uint32_t* high) {
  if constexpr (K == PageStorage::kInt2) {
    const uint2 four = *reinterpret_cast<const uint2*>(values + 16 * s + 4 * t);
    *low = __byte_perm(four.x, four.y, 0x5410);
    *high = __byte_perm(four.x, four.y, 0x7632);
  } else {
    *low = *reinterpret_cast<const uint32_t*>(values + 16 * s + 2 * t);
    *high = *reinterpret_cast<const uint32_t*>(values + 16 * s + 8 + 2 * t);
  }
}

// int2 only: 16 bytes hold two runs, so lanes r < 4 and r >= 4 of a column were given different
// runs. Swaps half of them: afterwards `a` holds the first run and `b` the second in every lane,
// one byte (in the low half of each 16 bits) a lane.
__device__ __forceinline__ void part_runs(uint32_t own, int lane, uint32_t* a, uint32_t* b) {
  const uint32_t other = __shfl_xor_sync(0xffffffffu, own, 16);
  const bool upper = lane & 16;
  const int shift = upper ? 8 : 0;
  *a = (upper ? other : own) >> shift;
  *b = (upper ? own : other) >> shift;
}

// What a lane adds to the address of a section, the same for every page: kept in registers, where
// the compiler would otherwise compute it anew for each page.
struct PageLane {
  uint32_t k_row;  // bytes: its row in the matrices that page_scores() loads, swizzled
  uint32_t v_row;  // bytes: the same for page_outputs()
  int lane;
  int t;           // lane % 4
};

__device__ __forceinline__ uint32_t opaque(uint32_t x) {
  asm volatile("" : "+r"(x));
  return x;
}

template <PageStorage K, PageStorage V, int D>
__device__ __forceinline__ PageLane page_lane(int lane) {
  const int row = lane & 7;
  const int matrix = lane >> 3;
  // K, f16: 4 chunks a channel; matrices are quarters 0, 1 of the lower channels, then of the
  // upper. int8: 2 chunks a channel; halves 0, 1 of the lower channels, then of the upper. int4: a
  // chunk a channel; matrices of 8 channels. int2: half a chunk; matrices of 16 channels.
  const int k = K == PageStorage::kF16    ? (((matrix >> 1) * 8 + row) << 2) + (matrix & 1)
                : K == PageStorage::kInt8 ? (((matrix >> 1) * 8 + row) << 1) + (matrix & 1)
                                          : lane;
  // V, f16: blocks 0 and 1, chunks 0 and 1 of each; else blocks 0 to 3.
  constexpr int kChunks = D * storage_bits(V) / 128;
  const int v = V == PageStorage::kF16
                    ? slot_of<K>(matrix >> 1, row) * kChunks + (matrix & 1)
                    : slot_of<K>(matrix, row) * kChunks;
  PageLane result;
  result.k_row = opaque(swizzle(static_cast<uint32_t>(k)) << 4);
  result.v_row = opaque(swizzle(static_cast<uint32_t>(v)) << 4);
  result.lane = static_cast<int>(opaque(static_cast<uint32_t>(lane)));
  result.t = static_cast<int>(opaque(static_cast<uint32_t>(lane & 3)));
  return result;
}

// Folds one step of 16 channels into the scores: the a operands of blocks 0 .. 3 for channel rows
// 2t (low) and 2t + 8 (high).
template <PageStorage K>
__device__ __forceinline__ void score_step(float (&scores)[2][4], uint32_t low, uint32_t high,
                                           uint32_t q_low, uint32_t q_high) {
  if constexpr (K == PageStorage::kInt4) {
    multiply_add(scores[0], low & 0x000f000fu, low & 0x00f000f0u, high & 0x000f000fu,
                 high & 0x00f000f0u, q_low, q_high);
    low >>= 8;
    high >>= 8;
    multiply_add(scores[1], low & 0x000f000fu, low & 0x00f000f0u, high & 0x000f000fu,
                 high & 0x00f000f0u, q_low, q_high);
  } else {
    multiply_add(scores[0], low & 0x00030003u, low & 0x000c000cu, high & 0x00030003u,
                 high & 0x000c000cu, q_low, q_high);
    multiply_add(scores[1], low & 0x00300030u, low & 0x00c000c0u, high & 0x00300030u,
                 high & 0x00c000c0u, q_low, q_high);
  }
}

// Raw scores of the 32 slots of a page: scores[i] holds block 2i in rows r and block 2i + 1 in rows
// r + 8, to be multiplied by k_factor(); `bias` gets what the minima add to every slot.
//   section   K section in shared memory: (width, 32) values, swizzled, then scales, minima
//   q         (steps, 32 lanes) in shared memory: pairs of q of rows 2t, 2t + 1 and 2t + 8, 2t + 9
template <PageStorage K, int kSteps>
__device__ __forceinline__ void page_scores(const uint8_t* section, int width, const PageLane& at,
                                            const uint2* q, float (&scores)[2][4],
                                            float (&bias)[4]) {
  const uint32_t base = shared_address(section);
  const int steps = width >> 4;
  if constexpr (K == PageStorage::kF16) {
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      if (s >= steps) break;
      const uint2 query = q[32 * s + at.lane];
      uint32_t a[4];
      load_matrices_transposed(a, base + (at.k_row ^ (swizzle(s << 6) << 4)));
      multiply_add(scores[0], a[0], a[1], a[2], a[3], query.x, query.y);
      load_matrices_transposed(a, base + (at.k_row ^ (swizzle((s << 6) + 2) << 4)));
      multiply_add(scores[1], a[0], a[1], a[2], a[3], query.x, query.y);
    }
  } else {
    constexpr int kChannelBytes = 4 * storage_bits(K);
    const uint16_t* scale = reinterpret_cast<const uint16_t*>(section + width * kChannelBytes);
    const uint16_t* min = scale + width;
    // Steps of 16 channels that one matrix load brings: 32 chunks.
    constexpr int kAtOnce = K == PageStorage::kInt8 ? 1 : K == PageStorage::kInt4 ? 2 : 4;
#pragma unroll
    for (int s = 0; s < kSteps; s += kAtOnce) {
      if (s >= steps) break;
      uint32_t a[4];
      load_matrices_transposed(a, base + (at.k_row ^ (swizzle(32 * (s / kAtOnce)) << 4)));
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const int step = s + i;
        if (step >= kSteps || step >= steps) break;
        const uint2 query = q[32 * step + at.lane];
        uint32_t low, high;
        channel_pairs<K>(scale, step, at.t, &low, &high);
        const uint32_t q_low = multiply_half2(query.x, low);
        const uint32_t q_high = multiply_half2(query.y, high);
        channel_pairs<K>(min, step, at.t, &low, &high);
        multiply_add(bias, low, low, high, high, query.x, query.y);
        if constexpr (K == PageStorage::kInt8) {
          multiply_add(scores[0], a[0] & 0x00ff00ffu, (a[0] >> 8) & 0x00ff00ffu,
                       a[2] & 0x00ff00ffu, (a[2] >> 8) & 0x00ff00ffu, q_low, q_high);
          multiply_add(scores[1], a[1] & 0x00ff00ffu, (a[1] >> 8) & 0x00ff00ffu,
                       a[3] & 0x00ff00ffu, (a[3] >> 8) & 0x00ff00ffu, q_low, q_high);
        } else if constexpr (K == PageStorage::kInt4) {
          score_step<K>(scores, a[2 * i], a[2 * i + 1], q_low, q_high);
        } else {
          uint32_t x, y;
          part_runs(a[i], at.lane, &x, &y);
          score_step<K>(scores, x, y, q_low, q_high);
        }
      }
    }
  }
}

// Channel of row r (half 0) or r + 8 (half 1) of output tile `tile`. With kBoth (int2), where rows r < 4 count for
// columns 0 to 3 only and the others for columns 4 to 7: rows r >= 4 are the chunk's second run.
template <PageStorage V, bool kBoth = false>
__device__ __forceinline__ constexpr int output_channel(int tile, int half, int r) {
  if constexpr (kBoth) {
    return 64 * (tile >> 2) + 32 * (r >> 2) + 16 * (tile & 1) + 8 * half + 2 * (r & 3) + (tile >> 1 & 1);
  }
  if constexpr (V == PageStorage::kF16) return 16 * tile + 8 * half + r;
  if constexpr (V == PageStorage::kInt8) return 16 * tile + 2 * r + half;
  if constexpr (V == PageStorage::kInt4) {
    return 32 * (tile >> 1) + 2 * r + (tile & 1) + 16 * half;
  }
  return 32 * (tile >> 1) + (r < 4 ? 2 * r : 2 * r - 7) + 16 * (tile & 1) + 8 * half;
}

// What the sums of an output tile's rows must be multiplied by.
template <PageStorage V>
__device__ __forceinline__ constexpr float v_factor(int tile, int half) {
  if constexpr (V == PageStorage::kF16) return 1.0f;
  if constexpr (V == PageStorage::kInt8) return 0x1p24f;
  if constexpr (V == PageStorage::kInt4) return half ? 0x1p20f : 0x1p24f;
  return tile & 1 ? (half ? 0x1p18f : 0x1p20f) : (half ? 0x1p22f : 0x1p24f);
}

// Adds the 32 slots of a page to the outputs.
//   section  V section in shared memory: (32, D) values, swizzled, then scales, minima (D / 32, 32)
//   p        probabilities as pairs: p[b] = rows 2t, 2t + 1 of block b, of query head r
//   out      (D / 16 tiles): output_channel() and v_factor() say what they hold
//   minima   what V's minima add: row r is group r (r < D / 32), columns are query heads; other rows mean nothing
// With kBoth, which is for V of int2, columns 4 to 7 of p are those of columns 0 to 3.
template <PageStorage K, PageStorage V, int D, bool kBoth = false>
__device__ __forceinline__ void page_outputs(const uint8_t* section, const PageLane& at,
                                             const uint32_t (&p)[4], float (&out)[D / 16][4],
                                             float (&minima)[4]) {
  constexpr int kChunks = D * storage_bits(V) / 128;  // 16-byte chunks of a slot
  constexpr int kGroups = D / 32;
  const uint32_t base = shared_address(section);
  if constexpr (V == PageStorage::kF16) {
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      // From blocks 0 and 1 to 2 and 3.
      const uint32_t further = s ? swizzle(slot_of<K>(2, 0) * kChunks) : 0;
#pragma unroll
      for (int tile = 0; tile < D / 16; ++tile) {
        uint32_t a[4];
        load_matrices_transposed(a, base + (at.v_row ^ ((further ^ swizzle(2 * tile)) << 4)));
        multiply_add(out[tile], a[0], a[1], a[2], a[3], p[2 * s], p[2 * s + 1]);
      }
    }
  } else {
    const int t = at.t;
    const int r = at.lane >> 2;
    const uint16_t* scale = reinterpret_cast<const uint16_t*>(section + 32 * 16 * kChunks);
    const uint16_t* min = scale + 32 * kGroups;
    {
      uint32_t m[4];
      slot_pairs<K>(min + 32 * (r & (kGroups - 1)), t, m);
      multiply_add(minima, m[0], 0, m[1], 0, p[0], p[1]);
      multiply_add(minima, m[2], 0, m[3], 0, p[2], p[3]);
    }
#pragma unroll
    for (int chunk = 0; chunk < kChunks; ++chunk) {
      uint32_t a[4];
      load_matrices_transposed(a, base + (at.v_row ^ (swizzle(chunk) << 4)));
      if constexpr (kBoth) {
        // Lanes r < 4 hold the first run and the others the second: so do the columns' scales, and what the one run
        // gives with the scales of the other is not looked at.
        uint32_t fold[4];
        slot_pairs<K>(scale + 32 * (2 * chunk + (r >> 2)), t, fold);
#pragma unroll
        for (int b = 0; b < 4; ++b) fold[b] = multiply_half2(fold[b], p[b]);
#pragma unroll
        for (int s = 0; s < 2; ++s) {
#pragma unroll
          for (int byte = 0; byte < 2; ++byte) {
            const uint32_t low = a[2 * s] >> (8 * byte);
            const uint32_t high = a[2 * s + 1] >> (8 * byte);
            multiply_add(out[4 * chunk + 2 * byte], low & 0x00030003u, low & 0x000c000cu,
                         high & 0x00030003u, high & 0x000c000cu, fold[2 * s], fold[2 * s + 1]);
            multiply_add(out[4 * chunk + 2 * byte + 1], low & 0x00300030u, low & 0x00c000c0u,
                         high & 0x00300030u, high & 0x00c000c0u, fold[2 * s], fold[2 * s + 1]);
          }
        }
        continue;
      }
      constexpr int kRuns = V == PageStorage::kInt2 ? 2 : 1;
      uint32_t runs[kRuns][4];
      if constexpr (V == PageStorage::kInt2) {
#pragma unroll
        for (int b = 0; b < 4; ++b) part_runs(a[b], at.lane, &runs[0][b], &runs[1][b]);
      } else {
#pragma unroll
        for (int b = 0; b < 4; ++b) runs[0][b] = a[b];
      }
#pragma unroll
      for (int run = 0; run < kRuns; ++run) {
        const int group = V == PageStorage::kInt8 ? chunk >> 1 : chunk * kRuns + run;
        uint32_t fold[4];
        slot_pairs<K>(scale + 32 * group, t, fold);
#pragma unroll
        for (int b = 0; b < 4; ++b) fold[b] = multiply_half2(fold[b], p[b]);
#pragma unroll
        for (int s = 0; s < 2; ++s) {
          uint32_t low = runs[run][2 * s];
          uint32_t high = runs[run][2 * s + 1];
          if constexpr (V == PageStorage::kInt8) {
            multiply_add(out[chunk], low & 0x00ff00ffu, (low >> 8) & 0x00ff00ffu,
                         high & 0x00ff00ffu, (high >> 8) & 0x00ff00ffu, fold[2 * s],
                         fold[2 * s + 1]);
          } else if constexpr (V == PageStorage::kInt4) {
            multiply_add(out[2 * group], low & 0x000f000fu, low & 0x00f000f0u, high & 0x000f000fu,
                         high & 0x00f000f0u, fold[2 * s], fold[2 * s + 1]);
            low >>= 8;
            high >>= 8;
            multiply_add(out[2 * group + 1], low & 0x000f000fu, low & 0x00f000f0u,
                         high & 0x000f000fu, high & 0x00f000f0u, fold[2 * s], fold[2 * s + 1]);
          } else {
            multiply_add(out[2 * group], low & 0x00030003u, low & 0x000c000cu, high & 0x00030003u,
                         high & 0x000c000cu, fold[2 * s], fold[2 * s + 1]);
            multiply_add(out[2 * group + 1], low & 0x00300030u, low & 0x00c000c0u,
                         high & 0x00300030u, high & 0x00c000c0u, fold[2 * s], fold[2 * s + 1]);
          }
        }
      }
    }
  }
}

}  // namespace leanedge::cuda
