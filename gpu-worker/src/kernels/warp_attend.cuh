// What a warp does with a page that has come, where it leaves its results, and how a block merges those of its warps.
#pragma once

#include <math_constants.h>

#include "decode_shared.cuh"
#include "online_softmax.cuh"
#include "page_fragments.cuh"

namespace leanedge::cuda {

// One page in shared memory, folded into the warp's state.
template <PageStorage K, PageStorage V, int D, bool kBoth = false>
__device__ __forceinline__ void page_attend(const uint8_t* stage, int width, uint32_t v_stage,
                                            const PageLane& lane, const uint2* q,
                                            const float (&scale)[2],
                                            Softmax& softmax, float (&out)[D / 16][4],
                                            float (&minima)[4]) {
  float scores[2][4] = {};
  float bias[4] = {};
  page_scores<K, D / 16>(stage, width, lane, q, scores, bias);
  float x[4][2];  // block, query head 2t or 2t + 1
  float max[2] = {-CUDART_INF_F, -CUDART_INF_F};
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const float shift = bias[n] * scale[n];
#pragma unroll
    for (int b = 0; b < 4; ++b) {
      const float factor = scale[n] * k_factor<K>(b);
      x[b][n] = K == PageStorage::kF16 ? scores[b >> 1][2 * (b & 1) + n] * factor
                                       : fmaf(scores[b >> 1][2 * (b & 1) + n], factor, shift);
      max[n] = fmaxf(max[n], x[b][n]);
    }
  }
  softmax_move<D / 16>(softmax, max[0], max[1], out, V == PageStorage::kF16 ? nullptr : &minima);
  uint32_t p[4];
#pragma unroll
  for (int b = 0; b < 4; ++b) {
    const float p0 = exp2_fast(x[b][0] - softmax.reference[0]);
    const float p1 = exp2_fast(x[b][1] - softmax.reference[1]);
    softmax.sum[0] += p0;
    softmax.sum[1] += p1;
    p[b] = transpose_matrix(pack_half2(p0, p1));
  }
  page_outputs<K, V, D, kBoth>(stage + v_stage, lane, p, out, minima);
}

// Channel pairs of q that meet the kept channels of step `step` (of 16) of a head: what a lane will put into
// DecodeShared::q_pairs, as indices into a row of q, low half first.
template <PageStorage K>
__device__ __forceinline__ uint2 kept_pairs(const uint16_t* channels, int step, int t) {
  uint32_t pairs[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint32_t low = channels[16 * step + channel_of<K>(8 * half + 2 * t)];
    const uint32_t high = channels[16 * step + channel_of<K>(8 * half + 2 * t + 1)];
    pairs[half] = low | high << 16;
  }
  return make_uint2(pairs[0], pairs[1]);
}

// Those channels of a head's q.
__device__ __forceinline__ uint2 gather_pairs(const __half* query, uint2 pairs) {
  const __half2 low = __halves2half2(query[pairs.x & 0xffff], query[pairs.x >> 16]);
  const __half2 high = __halves2half2(query[pairs.y & 0xffff], query[pairs.y >> 16]);
  return make_uint2(reinterpret_cast<const uint32_t&>(low), reinterpret_cast<const uint32_t&>(high));
}

// Leaves a warp's results: (group, D) f32 in `outputs`, in shared memory, references and sums in `to`.
template <PageStorage V, int D, bool kBoth = false, int kWarps>
__device__ __forceinline__ void leave_results(const Softmax& softmax, const float (&out)[D / 16][4],
                                              const float (&minima)[4], int group, int warp,
                                              int lane, float* outputs, WarpResults<kWarps>& to) {
  const int r = lane >> 2;
  const int t = lane & 3;
#pragma unroll
  for (int tile = 0; tile < D / 16; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int column = 2 * t + (i & 1);
      const int n = kBoth ? column & 3 : column;
      const bool counts = n < group && (!kBoth || column >> 2 == r >> 2);
      const int channel = output_channel<V, kBoth>(tile, i >> 1, r);
      float value = out[tile][i];
      if constexpr (V != PageStorage::kF16) {
        value = fmaf(value, v_factor<V>(tile, i >> 1),
                     __shfl_sync(0xffffffffu, minima[i & 1], 4 * (channel >> 5) + t));
      }
      if (counts) outputs[n * D + channel] = value;
    }
  }
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    float sum = softmax.sum[n];
#pragma unroll
    for (int step = 4; step < 32; step *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (lane < 4) {
      to.reference[warp][2 * lane + n] = softmax.reference[n];
      to.sum[warp][2 * lane + n] = sum;
    }
  }
}

// Four values of a query head, its sum of weights, and what both are relative to (-infinity: nothing was read).
struct Merged {
  float4 value;
  float sum;
  float reference;
};

// Values 4 i .. 4 i + 3 of (group, D) of all warps of this block; outputs of a warp lie warp_bytes behind those of the
// one before.
template <int D, int kWarps>
__device__ __forceinline__ Merged merge_warps(const WarpResults<kWarps>& results,
                                              const uint8_t* outputs, int warp_bytes, int i) {
  const int n = i / (D / 4);
  Merged merged = {make_float4(0, 0, 0, 0), 0, -CUDART_INF_F};
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) {
    merged.reference = fmaxf(merged.reference, results.reference[warp][n]);
  }
  const float base = merged.reference == -CUDART_INF_F ? 0.0f : merged.reference;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) {
    const float weight = exp2_fast(results.reference[warp][n] - base);
    const float4 from = reinterpret_cast<const float4*>(outputs + warp * warp_bytes)[i];
    merged.value.x = fmaf(weight, from.x, merged.value.x);
    merged.value.y = fmaf(weight, from.y, merged.value.y);
    merged.value.z = fmaf(weight, from.z, merged.value.z);
    merged.value.w = fmaf(weight, from.w, merged.value.w);
    merged.sum = fmaf(weight, results.sum[warp][n], merged.sum);
  }
  return merged;
}

}  // namespace leanedge::cuda
