// The running softmax of a warp. Scores are in units of log2. A lane holds query heads 2t and 2t +
// 1 (t = lane % 4), as the columns of a matrix product lie; lanes of the same t agree on all but
// `sum`, which each keeps for its own slots until the end.
//
// Probabilities become f16 operands, so they are taken relative to a reference near the maximum of
// the slots at hand, not of all slots so far: with a reference far above, whole pages of small
// probabilities would drown in f16's subnormals. Sums and outputs are f32, where a reference that
// sinks costs nothing. It stays while the new slots' maximum is at most kSlack below it, which
// saves most of the rescaling.
#pragma once

#include <math_constants.h>
#include <stdint.h>

#include "warp_ops.cuh"

namespace leanedge::cuda {

inline constexpr float kSlack = 4.0f;   // probabilities of a block of slots reach 2^-4 at least
inline constexpr float kReach = 40.0f;  // the reference stays this near to the greatest score

struct Softmax {
  float reference[2];
  float max[2];
  float sum[2];
};

__device__ __forceinline__ void softmax_reset(Softmax& softmax) {
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    softmax.reference[n] = -CUDART_INF_F;
    softmax.max[n] = -CUDART_INF_F;
    softmax.sum[n] = 0;
  }
}

// Moves the reference for slots whose greatest scores are max0, max1 in this lane; rescales sums,
// outputs and, where there is one, the sums of the minima.
template <int kTiles>
__device__ __forceinline__ void softmax_move(Softmax& softmax, float max0, float max1,
                                             float (&out)[kTiles][4], float (*minima)[4]) {
  float max[2] = {max0, max1};
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int step = 4; step < 32; step *= 2) {
      max[n] = fmaxf(max[n], __shfl_xor_sync(0xffffffffu, max[n], step));
    }
  }
  bool moves[2];
  float next[2];
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    softmax.max[n] = fmaxf(softmax.max[n], max[n]);
    next[n] = fmaxf(max[n], softmax.max[n] - kReach);
    moves[n] = max[n] > softmax.reference[n] || next[n] < softmax.reference[n] - kSlack;
  }
  if (!__any_sync(0xffffffffu, moves[0] || moves[1])) return;
  float factor[2];
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    if (!moves[n]) next[n] = softmax.reference[n];
    factor[n] = exp2_fast(softmax.reference[n] - next[n]);
    softmax.reference[n] = next[n];
    softmax.sum[n] *= factor[n];
  }
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) out[tile][i] *= factor[i & 1];
  }
  if (minima) {
#pragma unroll
    for (int i = 0; i < 4; ++i) (*minima)[i] *= factor[i & 1];
  }
}

}  // namespace leanedge::cuda
