// Decode attention over pages whose K is int2.
#include "decode_attention_kernels.cuh"

namespace leanedge::cuda {

DecodeKernel decode_kernel_int2(PageStorage v, int32_t head_dim) {
  return decode_kernel<PageStorage::kInt2>(v, head_dim);
}

DecodeKernel decode_both_kernel() {
  constexpr PageStorage kInt2 = PageStorage::kInt2;
  return kernel_decode_attention<kInt2, kInt2, kOwnHeadDim, decode_warps(kInt2, kInt2), true>;
}

DecodeKernel decode_cluster_kernel_int2() {
  return kernel_decode_cluster<PageStorage::kInt2, PageStorage::kInt2, kOwnHeadDim>;
}

}  // namespace leanedge::cuda
