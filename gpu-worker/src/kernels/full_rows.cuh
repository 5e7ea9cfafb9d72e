// Attention over full rows (sink, recent): tiles of 8 or 16 rows pass through a ring in shared
// memory as pages do, and their results go into the same sums. K and V are f16, slot-major; rows of
// different spans may stand in one tile.
#pragma once

#include "leanedge_cuda/decode_attention.h"
#include "online_softmax.cuh"
#include "page_fragments.cuh"
#include "warp_ops.cuh"

namespace leanedge::cuda {

// Where row `at` of all spans together lies: the address of its K, and of its V.
struct FullRow {
  const uint16_t* k;
  const uint16_t* v;
};

template <int D>
__device__ __forceinline__ FullRow full_row(const DecodeRow& row, int at, size_t layer_offset,
                                            int kv_head) {
  int span = 0;
  while (span + 1 < row.span_count && at >= row.spans[span].rows) at -= row.spans[span++].rows;
  const DecodeSpan& in = row.spans[span];
  const size_t offset = layer_offset + (static_cast<size_t>(kv_head) * static_cast<size_t>(in.stride) +
                                        static_cast<size_t>(at)) *
                                           D;
  return {in.k + offset, in.v + offset};
}

// Asks for rows [first, first + kRows) of a head, up to row `count`, into the second-level cache.
template <int D, int kRows>
__device__ __forceinline__ void tile_prefetch(const DecodeRow& row, int first, int count,
                                              size_t layer_offset, int kv_head, int lane) {
  constexpr int kLines = D * 2 / 128;  // of a row's K or V
  for (int i = lane; i < kRows * kLines; i += 32) {
    const int index = first + i / kLines;
    if (index >= count) break;
    const FullRow at = full_row<D>(row, index, layer_offset, kv_head);
    prefetch_line(at.k + i % kLines * 64);
    prefetch_line(at.v + i % kLines * 64);
  }
}

// Starts the copies of rows [first, first + kRows) of a head, K then V; zeros from row `count` on.
template <int D, int kRows>
__device__ __forceinline__ void tile_issue(const DecodeRow& row, int first, int count,
                                           size_t layer_offset, int kv_head, uint32_t stage,
                                           int lane) {
  constexpr int kChunks = D / 8;                      // of a row
  constexpr int kLoads = kRows * kChunks / 32;        // of a lane, for each of K and V
  const uint32_t own = swizzle(static_cast<uint32_t>(lane)) << 4;
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const int index = first + (32 * i + lane) / kChunks;
    const bool valid = index < count;
    const FullRow at = full_row<D>(row, valid ? index : first, layer_offset, kv_head);
    const uint32_t place = stage + (own ^ (swizzle(static_cast<uint32_t>(32 * i)) << 4));
    copy_async_16_or_zero(place, at.k + lane % kChunks * 8, valid);
    copy_async_16_or_zero(place + kRows * D * 2, at.v + lane % kChunks * 8, valid);
  }
}

// Folds a tile of `valid` rows into the state.
//   q    (8, D + 8) f16 in shared memory, query heads beyond the group zero
//   out  in the layout and units of pages with V storage V
template <PageStorage V, int D, int kRows, bool kBoth = false>
__device__ __forceinline__ void tile_attend(const uint8_t* stage, int valid, int lane,
                                            const __half* q, const float (&scale)[2],
                                            Softmax& softmax, float (&out)[D / 16][4],
                                            float (&minima)[4]) {
  constexpr int kChunks = D / 8;
  constexpr int kParts = kRows / 8;
  const int r = lane >> 2;
  const int t = lane & 3;
  const uint32_t base = shared_address(stage);
  // Two sums, so that one product need not wait for the one before it.
  float scores[2][4] = {};
  {
    const uint32_t at = swizzle(static_cast<uint32_t>((lane & 7) * kChunks + (lane >> 3)));
    const uint32_t* query = reinterpret_cast<const uint32_t*>(q + r * (D + 8)) + t;
#pragma unroll
    for (int s = 0; s < D / 16; s += 2) {
      uint32_t a[2][4] = {};
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        load_matrices(a[part], base + ((at ^ swizzle(2 * s) ^ swizzle(8 * kChunks * part)) << 4));
      }
      multiply_add(scores[0], a[0][0], a[1][0], a[0][1], a[1][1], query[8 * s], query[8 * s + 4]);
      multiply_add(scores[1], a[0][2], a[1][2], a[0][3], a[1][3], query[8 * s + 8],
                   query[8 * s + 12]);
    }
  }
  float x[kParts][2];  // row r + 8 part, query head 2t or 2t + 1
  float max[2] = {-CUDART_INF_F, -CUDART_INF_F};
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const float score = scores[0][2 * part + n] + scores[1][2 * part + n];
      x[part][n] = r + 8 * part < valid ? score * scale[n] : -CUDART_INF_F;
      max[n] = fmaxf(max[n], x[part][n]);
    }
  }
  softmax_move<D / 16>(softmax, max[0], max[1], out, V == PageStorage::kF16 ? nullptr : &minima);
  uint32_t p[2] = {0, 0};
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    const float p0 = exp2_fast(x[part][0] - softmax.reference[0]);
    const float p1 = exp2_fast(x[part][1] - softmax.reference[1]);
    softmax.sum[0] += p0;
    softmax.sum[1] += p1;
    p[part] = transpose_matrix(pack_half2(p0, p1));
  }

  // A channel is 8 chunk + within; lane r's part of it, then what depends on the output tile only.
  const int own = output_channel<V, kBoth>(0, 0, r);
  const uint32_t v_base = base + kRows * D * 2 + 2 * (own & 7);
  const uint32_t even = swizzle(static_cast<uint32_t>(2 * t * kChunks + (own >> 3))) << 4;
  const uint32_t odd = swizzle(static_cast<uint32_t>((2 * t + 1) * kChunks + (own >> 3))) << 4;
#pragma unroll
  for (int tile = 0; tile < D / 16; ++tile) {
    uint32_t a[2][2] = {};
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int channel = output_channel<V, kBoth>(tile, half, 0);
        const uint32_t chunk =
            swizzle(static_cast<uint32_t>((channel >> 3) + 8 * kChunks * part)) << 4;
        const uint32_t within = 2 * (channel & 7);
        a[part][half] = load_shared_16(v_base + (even ^ chunk) + within) |
                        load_shared_16(v_base + (odd ^ chunk) + within) << 16;
      }
    }
    if constexpr (V == PageStorage::kF16) {
      multiply_add(out[tile], a[0][0], a[0][1], a[1][0], a[1][1], p[0], p[1]);
    } else {
      float sum[4] = {};
      multiply_add(sum, a[0][0], a[0][1], a[1][0], a[1][1], p[0], p[1]);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        out[tile][i] = fmaf(sum[i], 1.0f / v_factor<V>(tile, i >> 1), out[tile][i]);
      }
    }
  }
}

}  // namespace leanedge::cuda
