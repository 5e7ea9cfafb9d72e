// What a block has seen of its slice, and what follows from all blocks: the greatest, and sums over the row.
#pragma once

#include <math.h>
#include <stdint.h>

namespace leanedge::cuda::sample {

struct Greatest {
  float logit;
  float score;
  int32_t token;  // of the score; the lowest of equals
  int32_t finite;
};

struct Sums {
  double exponentials;  // of logits, relative to the greatest
  uint64_t weights;
};

__device__ __forceinline__ Greatest greater(Greatest a, Greatest b) {
  Greatest c = a;
  c.logit = fmaxf(a.logit, b.logit);
  if (b.score > a.score || (b.score == a.score && b.token < a.token)) {
    c.score = b.score;
    c.token = b.token;
  }
  c.finite = a.finite & b.finite;
  return c;
}

__device__ __forceinline__ Greatest warp_greatest(Greatest x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const Greatest other = {__shfl_xor_sync(0xffffffffu, x.logit, step),
                            __shfl_xor_sync(0xffffffffu, x.score, step),
                            __shfl_xor_sync(0xffffffffu, x.token, step),
                            __shfl_xor_sync(0xffffffffu, x.finite, step)};
    x = greater(x, other);
  }
  return x;
}

__device__ __forceinline__ Sums warp_sums(Sums x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    x.exponentials += __shfl_xor_sync(0xffffffffu, x.exponentials, step);
    x.weights += __shfl_xor_sync(0xffffffffu, x.weights, step);
  }
  return x;
}

__device__ __forceinline__ Greatest none() { return {-INFINITY, -INFINITY, INT32_MAX, 1}; }

}  // namespace leanedge::cuda::sample
