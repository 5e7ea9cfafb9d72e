// Decode attention over pages whose K is int4.
#include "decode_attention_kernels.cuh"

namespace leanedge::cuda {

DecodeKernel decode_kernel_int4(PageStorage v, int32_t head_dim) {
  return decode_kernel<PageStorage::kInt4>(v, head_dim);
}

DecodeKernel decode_cluster_kernel_int4() {
  return kernel_decode_cluster<PageStorage::kInt4, PageStorage::kInt4, kOwnHeadDim>;
}

DecodeKernel decode_wide_kernel_int4(int32_t warps) {
  switch (warps) {
    case 16: return kernel_decode_attention<PageStorage::kInt4, PageStorage::kInt4, kOwnHeadDim, 16>;
    case 12: return kernel_decode_attention<PageStorage::kInt4, PageStorage::kInt4, kOwnHeadDim, 12>;
    default: return nullptr;
  }
}

}  // namespace leanedge::cuda
