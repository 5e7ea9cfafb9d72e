// Which block takes which share (split.h) where shares are unequal: the division stays what it is, and with it all bits of the
// results; only who reads what follows from where and when blocks began.
#pragma once

#include "split.h"
#include "warp_ops.cuh"

namespace leanedge::cuda {

// The share that this block claims, in all lanes of the warp that calls: of the wave of its rank among the blocks of its
// multiprocessor, or of the next wave that has one left. `rank` below 0: by order of arrival. All blocks of a launch call
// it once, and the next launch's only then: the last one clears the words for them.
__device__ __forceinline__ int share_claim(uint32_t* words, const SplitShare& split, int blocks,
                                           int rank) {
  const int lane = static_cast<int>(threadIdx.x & 31);
  uint32_t* taken = words + split.wave;
  int share = 0;
  int before = 0;
  if (lane == 0) {
    if (rank < 0) rank = static_cast<int>(atomicAdd(words + processor_id() % split.wave, 1u));
    for (int wave = min(rank, split.waves - 1);; wave = wave + 1 == split.waves ? 0 : wave + 1) {
      const int first = wave * split.wave;
      const int size = min(split.wave, blocks - first);
      const int at = static_cast<int>(atomicAdd(taken + wave, 1u));
      share = first + at;
      if (at < size) break;
    }
    before = static_cast<int>(atomicAdd(taken + kClaimWaves, 1u));
  }
  share = __shfl_sync(0xffffffffu, share, 0);
  before = __shfl_sync(0xffffffffu, before, 0);
  if (before == blocks - 1) {
    for (int i = lane; i < claim_words(split.wave); i += 32) words[i] = 0;
    __threadfence();
  }
  return share;
}

}  // namespace leanedge::cuda
