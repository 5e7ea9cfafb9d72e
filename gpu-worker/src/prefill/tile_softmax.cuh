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

// What the outputs of rows r and r + 8 must be multiplied by.
struct Rescale {
  float factor[2];
  bool needed;  // by any row of the warp
};

template <int D>
__device__ __forceinline__ void outputs_rescale(const Rescale& rescale, float (&out)[D / 8][4]) {
  if (!rescale.needed) return;
#pragma unroll
  for (int n = 0; n < D / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) out[n][i] *= rescale.factor[i >> 1];
  }
}

// Turns the scores of 16 rows (half m of the tile) into probabilities, in place, and moves the
// reference where it must: outputs so far have then to be rescaled.
template <int D>
__device__ __forceinline__ Rescale softmax_step(float (&scores)[8][4], int m, float scale,
                                                PrefillState<D>& state) {
  Rescale rescale;
  float next[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float max = -CUDART_INF_F;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      max = fmaxf(max, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
    }
    max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 1));
    max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, 2));
    max *= scale;
    const float reference = state.reference[m][half];
    next[half] = max > reference + kPrefillSlack ? max : reference;
    // A row that has seen nothing yet keeps its zeros.
    rescale.factor[half] =
        next[half] == -CUDART_INF_F ? 1.0f : exp2_fast(reference - next[half]);
  }
  rescale.needed = __any_sync(0xffffffffu, next[0] != state.reference[m][0] ||
                                               next[1] != state.reference[m][1]);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    state.reference[m][half] = next[half];
    state.sum[m][half] *= rescale.factor[half];
  }
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
        scores[n][i] = exp2_fast(fmaf(scores[n][i], scale, shift));
        sum += scores[n][i];
      }
    }
    state.sum[m][half] += sum;
  }
  return rescale;
}

// Probabilities of keys 16 s .. 16 s + 15 as an operand of a product, in f16.
__device__ __forceinline__ void probabilities_pack(const float (&p)[8][4], int s,
                                                   uint32_t (&a)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    a[i] = pack_half2(p[2 * s + (i >> 1)][2 * (i & 1)], p[2 * s + (i >> 1)][2 * (i & 1) + 1]);
  }
}

// Hides keys from limit[0] on in rows r, from limit[1] on in rows r + 8; keys are numbered from
// `first`.
__device__ __forceinline__ void scores_mask(float (&scores)[8][4], int first,
                                            const int (&limit)[2]) {
  const int key = first + 2 * static_cast<int>(threadIdx.x & 3);
#pragma unroll
  for (int n = 0; n < 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (key + 8 * n + (i & 1) >= limit[i >> 1]) scores[n][i] = -CUDART_INF_F;
    }
  }
}

}  // namespace leanedge::cuda
