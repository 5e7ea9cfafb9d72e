// Decode attention over pages whose K is int8.
#include "decode_attention_kernels.cuh"

namespace leanedge::cuda {

DecodeKernel decode_kernel_int8(PageStorage v, int32_t head_dim) {
  return decode_kernel<PageStorage::kInt8>(v, head_dim);
}

DecodeKernel decode_cluster_kernel_int8() {
  return kernel_decode_cluster<PageStorage::kInt8, PageStorage::kInt8, kOwnHeadDim>;
}

}  // namespace leanedge::cuda
