// Thread blocks that share their shared memory (sm_90), or a single block that stands for them.
#pragma once

#include <cooperative_groups.h>
#include <stdint.h>

namespace leanedge::cuda {

// kRanks blocks work as one; kRanks = 1 needs no hardware support.
template <int kRanks>
struct Cluster {
  static __device__ __forceinline__ int rank() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    if constexpr (kRanks > 1) {
      return static_cast<int>(cooperative_groups::this_cluster().block_rank());
    }
#endif
    return 0;
  }
  // All threads of all blocks: what was written to shared memory before is seen afterwards.
  static __device__ __forceinline__ void sync() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    if constexpr (kRanks > 1) {
      cooperative_groups::this_cluster().sync();
      return;
    }
#endif
    __syncthreads();
  }
  // `pointer` into this block's shared memory, as block `rank` has it.
  template <typename T>
  static __device__ __forceinline__ const T* of(const T* pointer, int rank) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    if constexpr (kRanks > 1) {
      return cooperative_groups::this_cluster().map_shared_rank(pointer,
                                                                static_cast<unsigned>(rank));
    }
#endif
    return pointer;
  }
};

}  // namespace leanedge::cuda
