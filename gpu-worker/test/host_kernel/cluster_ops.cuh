// In the place of gpu-worker/src/kernels/cluster_ops.cuh where kernels run on the host.
#pragma once

#include "host_threads.h"

namespace leanedge::cuda {

inline int cluster_rank() { return host::cluster_rank(); }
inline int cluster_blocks() { return host::cluster_blocks(); }
inline void cluster_sync() { host::cluster_barrier(); }
template <typename T>
const T* cluster_shared(const T* pointer, int rank) {
  return static_cast<const T*>(host::shared_of(pointer, rank));
}

}  // namespace leanedge::cuda
