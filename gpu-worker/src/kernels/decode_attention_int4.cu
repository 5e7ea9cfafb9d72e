// Decode attention over pages whose K is int4.
#include "decode_attention_kernels.cuh"

namespace leanedge::cuda {

DecodeKernel decode_kernel_int4(PageStorage v, int32_t head_dim) {
  return decode_kernel<PageStorage::kInt4>(v, head_dim);
}

DecodeKernel decode_cluster_kernel_int4() {
  return kernel_decode_cluster<PageStorage::kInt4, PageStorage::kInt4, kOwnHeadDim>;
}

}  // namespace leanedge::cuda
