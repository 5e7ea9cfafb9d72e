// RMS norm over rows, with the sum into the residual stream before it: one block a row.
#include "leanedge_cuda/rows.h"
#include "row_ops.cuh"

namespace leanedge::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kKept = 4;  // groups of four values a thread keeps in registers: dim up to 8,192

struct NoAdd {};

template <typename Add, typename Out>
__global__ void __launch_bounds__(kThreads) kernel_rmsnorm(const RmsNorm call) {
  __shared__ float sums[32];
  constexpr bool kAdds = !__is_same(Add, NoAdd);
  const int fours = call.dim / 4;
  float4 weight[kKept];
#pragma unroll
  for (int j = 0; j < kKept; ++j) {
    const int i = static_cast<int>(threadIdx.x) + j * kThreads;
    if (i < fours) weight[j] = load_four(call.weight, 4 * static_cast<size_t>(i));
  }
  wait_for_previous_kernel();

  const size_t from = call.gather ? static_cast<size_t>(call.gather[blockIdx.x]) : blockIdx.x;
  float* x = call.x + from * static_cast<size_t>(call.dim);
  auto value = [&](size_t at) {
    float4 v = load_four(x, at);
    if constexpr (kAdds) {
      const Add* add = static_cast<const Add*>(call.add) + from * static_cast<size_t>(call.dim);
      v = add_four(v, load_four(add, at));
    }
    return v;
  };
  auto squares_of = [](float4 v) { return v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w; };

  float4 kept[kKept];
  float squares = 0;
#pragma unroll
  for (int j = 0; j < kKept; ++j) {
    const int i = static_cast<int>(threadIdx.x) + j * kThreads;
    if (i >= fours) continue;
    kept[j] = value(4 * static_cast<size_t>(i));
    squares += squares_of(kept[j]);
  }
  for (int i = static_cast<int>(threadIdx.x) + kKept * kThreads; i < fours; i += kThreads) {
    squares += squares_of(value(4 * static_cast<size_t>(i)));
  }
  const float mean = block_sum(squares, sums) / static_cast<float>(call.dim);
  const float scale = 1.0f / sqrtf(mean + call.eps);

  Out* y = static_cast<Out*>(call.y) + blockIdx.x * static_cast<size_t>(call.dim);
  auto write = [&](size_t at, float4 v, float4 w) {
    if (kAdds && !call.gather) store_four(x, at, v);
    store_four(y, at,
               make_float4(v.x * scale * w.x, v.y * scale * w.y, v.z * scale * w.z,
                           v.w * scale * w.w));
  };
#pragma unroll
  for (int j = 0; j < kKept; ++j) {
    const int i = static_cast<int>(threadIdx.x) + j * kThreads;
    if (i < fours) write(4 * static_cast<size_t>(i), kept[j], weight[j]);
  }
  for (int i = static_cast<int>(threadIdx.x) + kKept * kThreads; i < fours; i += kThreads) {
    const size_t at = 4 * static_cast<size_t>(i);
    write(at, value(at), load_four(call.weight, at));
  }
}

template <typename Add>
cudaError_t launch(const RmsNorm& call, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(call.rows));
  switch (call.y_type) {
    case Dtype::kF32:
      return launch_overlapped(kernel_rmsnorm<Add, float>, grid, kThreads, 0, call, stream);
    case Dtype::kF16:
      return launch_overlapped(kernel_rmsnorm<Add, __half>, grid, kThreads, 0, call, stream);
    case Dtype::kBF16:
      return launch_overlapped(kernel_rmsnorm<Add, __nv_bfloat16>, grid, kThreads, 0, call, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace

cudaError_t rmsnorm_launch(const RmsNorm& call, cudaStream_t stream) {
  if (call.rows < 1 || call.rows > kRowsMax || call.dim < 4 || call.dim > kDimMax ||
      call.dim % 4 != 0) {
    return cudaErrorInvalidValue;
  }
  if (!call.add) return launch<NoAdd>(call, stream);
  if (call.add_type == Dtype::kF32) return launch<float>(call, stream);
  if (call.add_type == Dtype::kBF16) return launch<__nv_bfloat16>(call, stream);
  return cudaErrorInvalidValue;
}

}  // namespace leanedge::cuda
