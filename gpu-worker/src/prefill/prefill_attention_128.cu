// Prefill attention for a head_dim of 128.
#include "prefill_attention.cuh"

namespace leanedge::cuda {

PrefillKernel prefill_kernel_128(bool pages) {
  return pages ? kernel_prefill_attention<128, true> : kernel_prefill_attention<128, false>;
}

PrefillKernel prefill_merge_kernel_128() { return kernel_prefill_merge<128>; }

}  // namespace leanedge::cuda
