// Attention over 16 full rows (sink, recent) of one KV head by one warp, straight from global memory to
// registers: both operands come in 16-byte loads, the channels are summed in the order in which they
// arrive. Rows of different spans may stand in one tile.
#pragma once

#include "leanedge_cuda/decode_attention.h"
#include "online_softmax.cuh"
#include "warp_ops.cuh"

namespace leanedge::cuda {

// Channel of row r (half 0) or r + 8 (half 1) of output tile `tile` of full_rows_tile().
template <int D>
__device__ __forceinline__ constexpr int full_output_channel(int tile, int half, int r) {
  return 64 * (tile >> 2) + 8 * r + 2 * (tile & 3) + half;
}

// K and V of full row `index` of a sequence, in order over its spans, of one layer and head.
struct FullRow {
  const uint4* k;
  const uint4* v;
};
template <int D>
__device__ __forceinline__ FullRow full_row(const DecodeRow& row, int index, size_t layer_offset,
                                            int kv_head) {
  int span = 0;
  int at = index;
  while (span + 1 < row.span_count && at >= row.spans[span].rows) at -= row.spans[span++].rows;
  const DecodeSpan& in = row.spans[span];
  const size_t offset =
      layer_offset + (static_cast<size_t>(kv_head) * static_cast<size_t>(in.stride) +
                      static_cast<size_t>(at)) * D;
  return {reinterpret_cast<const uint4*>(in.k + offset),
          reinterpret_cast<const uint4*>(in.v + offset)};
}

// Folds rows [first, min(first + 16, count)) into the state.
//   q  (8, D + 8) f16 in shared memory, rows beyond the group zero
template <int D>
__device__ __forceinline__ void full_rows_tile(const DecodeRow& row, int first, int count,
                                               size_t layer_offset, int kv_head, const __half* q,
                                               int lane, const float (&scale)[2], Softmax& softmax,
                                               float (&out)[D / 16][4]) {
  constexpr int kLoads = D / 32;  // 16-byte chunks of a K row a lane takes
  constexpr int kHalves = D / 64;
  const int r = lane >> 2;
  const int t = lane & 3;
  const uint4 zero = make_uint4(0, 0, 0, 0);
  uint4 k[2][kLoads];
  uint4 v[4][kHalves];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int index = first + r + 8 * i;
    const bool valid = index < count;
    const FullRow at = full_row<D>(row, valid ? index : first, layer_offset, kv_head);
#pragma unroll
    for (int c = 0; c < kLoads; ++c) k[i][c] = valid ? __ldg(at.k + 4 * c + t) : zero;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int index = first + 2 * t + (i & 1) + 8 * (i >> 1);
    const bool valid = index < count;
    const FullRow at = full_row<D>(row, valid ? index : first, layer_offset, kv_head);
    // Rows that are not there count as zeros: 0 x NaN would not be 0.
#pragma unroll
    for (int h = 0; h < kHalves; ++h) v[i][h] = valid ? __ldg(at.v + 8 * h + r) : zero;
  }

  float scores[4] = {0, 0, 0, 0};
#pragma unroll
  for (int c = 0; c < kLoads; ++c) {
    const uint4 b = *reinterpret_cast<const uint4*>(q + r * (D + 8) + 8 * (4 * c + t));
    multiply_add(scores, k[0][c].x, k[1][c].x, k[0][c].y, k[1][c].y, b.x, b.y);
    multiply_add(scores, k[0][c].z, k[1][c].z, k[0][c].w, k[1][c].w, b.z, b.w);
  }
  float x[2][2];  // rows r and r + 8, query heads 2t and 2t + 1
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const bool valid = first + r + 8 * i < count;
#pragma unroll
    for (int n = 0; n < 2; ++n) x[i][n] = valid ? scores[2 * i + n] * scale[n] : -INFINITY;
  }
  softmax_move<D / 16>(softmax, fmaxf(x[0][0], x[1][0]), fmaxf(x[0][1], x[1][1]), out, nullptr);
  uint32_t p[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float p0 = exp2_fast(x[i][0] - softmax.reference[0]);
    const float p1 = exp2_fast(x[i][1] - softmax.reference[1]);
    softmax.sum[0] += p0;
    softmax.sum[1] += p1;
    p[i] = transpose_matrix(pack_half2(p0, p1));
  }
#pragma unroll
  for (int h = 0; h < kHalves; ++h) {
    const uint32_t* a = reinterpret_cast<const uint32_t*>(&v[0][h]);
    const uint32_t* b = reinterpret_cast<const uint32_t*>(&v[1][h]);
    const uint32_t* c = reinterpret_cast<const uint32_t*>(&v[2][h]);
    const uint32_t* d = reinterpret_cast<const uint32_t*>(&v[3][h]);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      multiply_add(out[4 * h + j], __byte_perm(a[j], b[j], 0x5410), __byte_perm(a[j], b[j], 0x7632),
                   __byte_perm(c[j], d[j], 0x5410), __byte_perm(c[j], d[j], 0x7632), p[0], p[1]);
    }
  }
}

}  // namespace leanedge::cuda
