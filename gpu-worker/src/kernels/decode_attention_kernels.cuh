// The kernels of one K storage: a source file each, so that they compile side by side.
#pragma once

#include "decode_attention.cuh"
#include "decode_cluster.cuh"
#include "decode_kernels.h"

namespace leanedge::cuda {

template <PageStorage K, PageStorage V, int D>
DecodeKernel decode_kernel_pair() {
  return kernel_decode_attention<K, V, D, decode_warps(K, V)>;
}

template <PageStorage K, int D>
DecodeKernel decode_kernel_of(PageStorage v) {
  switch (v) {
    case PageStorage::kF16: return decode_kernel_pair<K, PageStorage::kF16, D>();
    case PageStorage::kInt8: return decode_kernel_pair<K, PageStorage::kInt8, D>();
    case PageStorage::kInt4: return decode_kernel_pair<K, PageStorage::kInt4, D>();
    case PageStorage::kInt2: return decode_kernel_pair<K, PageStorage::kInt2, D>();
  }
  return nullptr;
}

template <PageStorage K>
DecodeKernel decode_kernel(PageStorage v, int32_t head_dim) {
  return head_dim == 64 ? decode_kernel_of<K, 64>(v) : decode_kernel_of<K, 128>(v);
}

}  // namespace leanedge::cuda
