// The residual sum, and rows gathered by an index in device memory.
#include "leanedge_cuda/rows.h"
#include "row_ops.cuh"

namespace leanedge::cuda {
namespace {

constexpr int kThreads = 256;

dim3 grid_of(int32_t dim, int32_t rows) {
  return dim3(static_cast<unsigned>((dim / 4 + kThreads - 1) / kThreads),
              static_cast<unsigned>(rows));
}

bool shape_served(int32_t rows, int32_t dim) {
  return rows >= 1 && rows <= kRowsMax && dim >= 4 && dim <= kDimMax && dim % 4 == 0;
}

template <typename In>
__global__ void __launch_bounds__(kThreads) kernel_residual_add(const ResidualAdd call) {
  wait_for_previous_kernel();
  const int i = 4 * static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (i >= call.dim) return;
  const size_t at = blockIdx.y * static_cast<size_t>(call.dim) + static_cast<size_t>(i);
  store_four(call.x, at, add_four(load_four(call.x, at), load_four(static_cast<const In*>(call.y), at)));
}

__global__ void __launch_bounds__(kThreads) kernel_gather_rows(const GatherRows call) {
  wait_for_previous_kernel();
  const int i = 4 * static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (i >= call.dim) return;
  const size_t dim = static_cast<size_t>(call.dim);
  const size_t from = static_cast<size_t>(call.index[blockIdx.y]) * dim;
  store_four(call.out, blockIdx.y * dim + static_cast<size_t>(i),
             load_four(call.x, from + static_cast<size_t>(i)));
}

}  // namespace

cudaError_t residual_add_launch(const ResidualAdd& call, cudaStream_t stream) {
  if (!shape_served(call.rows, call.dim)) return cudaErrorInvalidValue;
  const dim3 grid = grid_of(call.dim, call.rows);
  if (call.y_type == Dtype::kF32) {
    return launch_overlapped(kernel_residual_add<float>, grid, kThreads, 0, call, stream);
  }
  if (call.y_type == Dtype::kBF16) {
    return launch_overlapped(kernel_residual_add<__nv_bfloat16>, grid, kThreads, 0, call, stream);
  }
  return cudaErrorInvalidValue;
}

cudaError_t gather_rows_launch(const GatherRows& call, cudaStream_t stream) {
  if (!shape_served(call.rows, call.dim)) return cudaErrorInvalidValue;
  return launch_overlapped(kernel_gather_rows, grid_of(call.dim, call.rows), kThreads, 0, call,
                           stream);
}

}  // namespace leanedge::cuda
