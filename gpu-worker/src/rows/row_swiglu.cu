// silu(gate) * up over rows that hold both: four outputs a thread.
#include "leanedge_cuda/rows.h"
#include "row_ops.cuh"

namespace leanedge::cuda {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ float gated(float gate, float up) {
  return gate / (1.0f + expf(-gate)) * up;
}

template <typename In, typename Out>
__global__ void __launch_bounds__(kThreads) kernel_swiglu(const SwiGlu call) {
  wait_for_previous_kernel();
  const int i = 4 * static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (i >= call.ff_dim) return;
  const size_t ff = static_cast<size_t>(call.ff_dim);
  const In* row = static_cast<const In*>(call.gate_up) + blockIdx.y * 2 * ff;
  float4 gate, up;
  if (call.run == 1) {
    const float4 a = load_four(row, 2 * static_cast<size_t>(i));
    const float4 b = load_four(row, 2 * static_cast<size_t>(i) + 4);
    gate = make_float4(a.x, a.z, b.x, b.z);
    up = make_float4(a.y, a.w, b.y, b.w);
  } else {
    const size_t at = static_cast<size_t>(i / call.run * 2 * call.run + i % call.run);
    gate = load_four(row, at);
    up = load_four(row, at + static_cast<size_t>(call.run));
  }
  store_four(static_cast<Out*>(call.y), blockIdx.y * ff + static_cast<size_t>(i),
             make_float4(gated(gate.x, up.x), gated(gate.y, up.y), gated(gate.z, up.z),
                         gated(gate.w, up.w)));
}

template <typename In>
cudaError_t launch(const SwiGlu& call, dim3 grid, cudaStream_t stream) {
  if (call.y_type == Dtype::kF32) {
    return launch_overlapped(kernel_swiglu<In, float>, grid, kThreads, 0, call, stream);
  }
  if (call.y_type == Dtype::kBF16) {
    return launch_overlapped(kernel_swiglu<In, __nv_bfloat16>, grid, kThreads, 0, call, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

cudaError_t swiglu_launch(const SwiGlu& call, cudaStream_t stream) {
  const bool run_served =
      call.run == 1 || (call.run >= 4 && call.run % 4 == 0 && call.ff_dim % call.run == 0);
  if (call.rows < 1 || call.rows > kRowsMax || call.ff_dim < 4 || call.ff_dim > kDimMax ||
      call.ff_dim % 4 != 0 || !run_served) {
    return cudaErrorInvalidValue;
  }
  const dim3 grid(static_cast<unsigned>((call.ff_dim / 4 + kThreads - 1) / kThreads),
                  static_cast<unsigned>(call.rows));
  if (call.type == Dtype::kF32) return launch<float>(call, grid, stream);
  if (call.type == Dtype::kBF16) return launch<__nv_bfloat16>(call, grid, stream);
  return cudaErrorInvalidValue;
}

}  // namespace leanedge::cuda
