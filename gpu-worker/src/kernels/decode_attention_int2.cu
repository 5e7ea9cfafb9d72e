// Decode attention over pages whose K is int2.
#include "decode_attention_kernels.cuh"

namespace leanedge::cuda {

DecodeKernel decode_kernel_int2(PageStorage v, int32_t head_dim) {
  return decode_kernel<PageStorage::kInt2>(v, head_dim);
}

}  // namespace leanedge::cuda
