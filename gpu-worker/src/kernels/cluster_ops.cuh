// Thread blocks of a cluster (sm_90) and the shared memory that they see of each other. Elsewhere a block is alone.
#pragma once

#include <cooperative_groups.h>
#include <stdint.h>

namespace leanedge::cuda {

__device__ __forceinline__ int cluster_rank() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  return static_cast<int>(cooperative_groups::this_cluster().block_rank());
#else
  return 0;
#endif
}

__device__ __forceinline__ int cluster_blocks() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  return static_cast<int>(cooperative_groups::this_cluster().num_blocks());
#else
  return 1;
#endif
}

// All threads of all blocks: what was written to shared memory before is seen afterwards.
__device__ __forceinline__ void cluster_sync() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  cooperative_groups::this_cluster().sync();
#else
  __syncthreads();
#endif
}

// `pointer` into this block's shared memory, as block `rank` has it.
template <typename T>
__device__ __forceinline__ const T* cluster_shared(const T* pointer, int rank) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  return cooperative_groups::this_cluster().map_shared_rank(pointer, static_cast<unsigned>(rank));
#else
  return pointer;
#endif
}

}  // namespace leanedge::cuda
