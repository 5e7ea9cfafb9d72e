// One step of prefill attention: 32 packed query rows of a warp against 64 keys in shared memory,
// on tensor cores (mma.m16n8k16), with the running softmax of FlashAttention-2 (Dao 2023).
//
// Probabilities become f16 operands. They are taken relative to a reference kept near the greatest
// score so far, times 2^kLift: so that keys which are many and far below the greatest still count
// (2^-24 is f16's least number), and that outputs are rescaled only when the greatest score moves
// by more than kSlack.
//
// r = lane / 4, t = lane % 4. Operands and sums lie as warp_ops.cuh says of multiply_add().
#pragma once

#include <math_constants.h>

#include "../kernels/warp_ops.cuh"
#include "page_tile.cuh"
#include "prefill_params.h"

namespace leanedge::cuda {

inline constexpr float kPrefillLift = 10.0f;
inline constexpr float kPrefillSlack = 4.0f;  // kLift + kSlack < 16: f16's greatest number

// What a warp keeps: its 16 rows of the upper and of the lower half of the tile (64 m + 16 warp),
// then rows r and r + 8.
template <int D>
struct PrefillState {
  float out[2][D / 8][4];
  float reference[2][2];  // units of log2
  float sum[2][2];        // this lane's keys only
};

template <int D>
__device__ __forceinline__ void prefill_reset(PrefillState<D>& state) {
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int n = 0; n < D / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) state.out[m][n][i] = 0;
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      state.reference[m][half] = -CUDART_INF_F;
      state.sum[m][half] = 0;
    }
  }
}

// Turns scores into probabilities, in place, and moves the reference where it must.
template <int D>
__device__ __forceinline__ void softmax_step(float (&scores)[2][8][4], float scale,
                                             PrefillState<D>& state) {
  float next[2][2];
  bool moves = false;
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float max = -CUDART_INF_F;
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        max = fmaxf(max, fmaxf(scores[m][n][2 * half], scores[m][n][2 * half + 1]));
      }
      max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 1));
      max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 2));
      max *= scale;
      const float reference = state.reference[m][half];
      next[m][half] = max > reference + kPrefillSlack ? max : reference;
      moves = moves || next[m][half] != reference;
    }
  }
  if (__any_sync(0xffffffffu, moves)) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        // A row that has seen nothing yet keeps its zeros.
        const float factor = next[m][half] == -CUDART_INF_F
                                 ? 1.0f
                                 : exp2_fast(state.reference[m][half] - next[m][half]);
        state.reference[m][half] = next[m][half];
        state.sum[m][half] *= factor;
#pragma unroll
        for (int n = 0; n < D / 8; ++n) {
          state.out[m][n][2 * half] *= factor;
          state.out[m][n][2 * half + 1] *= factor;
        }
      }
    }
  }
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float shift = state.reference[m][half] == -CUDART_INF_F
                              ? 0.0f
                              : kPrefillLift - state.reference[m][half];
      float sum = 0;
#pragma unroll
      for (int n = 0; n < 8; ++n) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          scores[m][n][i] = exp2_fast(fmaf(scores[m][n][i], scale, shift));
          sum += scores[m][n][i];
        }
      }
      state.sum[m][half] += sum;
    }
  }
}

// Probabilities of keys 16 s .. 16 s + 15 as an operand of a product, in f16.
__device__ __forceinline__ void probabilities_pack(const float (&p)[8][4], int s,
                                                   uint32_t (&a)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    a[i] = pack_half2(p[2 * s + (i >> 1)][2 * (i & 1)], p[2 * s + (i >> 1)][2 * (i & 1) + 1]);
  }
}

// Hides keys from `limit` of each row on; keys of the tile are numbered from `first`.
__device__ __forceinline__ void scores_mask(float (&scores)[2][8][4], int first,
                                            const int (&limit)[2][2]) {
  const int key = first + 2 * (threadIdx.x & 3);
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (key + 8 * n + (i & 1) >= limit[m][i >> 1]) scores[m][n][i] = -CUDART_INF_F;
      }
    }
  }
}

}  // namespace leanedge::cuda
