// Decode attention over pages whose K is f16.
#include "decode_attention_kernels.cuh"

namespace leanedge::cuda {

DecodeKernel decode_kernel_f16(PageStorage v, int32_t head_dim) {
  return decode_kernel<PageStorage::kF16>(v, head_dim);
}

DecodeKernel decode_cluster_kernel_f16() {
  return kernel_decode_cluster<PageStorage::kF16, PageStorage::kF16, kOwnHeadDim>;
}

DecodeKernel decode_wide_kernel() {
  return kernel_decode_attention<PageStorage::kF16, PageStorage::kF16, kOwnHeadDim, kWideWarps>;
}

}  // namespace leanedge::cuda
