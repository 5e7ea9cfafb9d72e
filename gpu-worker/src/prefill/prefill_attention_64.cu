// Prefill attention for a head_dim of 64.
#include "prefill_attention.cuh"

namespace leanedge::cuda {

PrefillKernel prefill_kernel_64(bool pages) {
  return pages ? kernel_prefill_attention<64, true> : kernel_prefill_attention<64, false>;
}

PrefillKernel prefill_merge_kernel_64() { return kernel_prefill_merge<64>; }

}  // namespace leanedge::cuda
