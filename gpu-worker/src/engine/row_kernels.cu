#include "row_kernels.h"

#include <cuda_fp16.h>

namespace leanedge::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void kernel_flag_owners(uint32_t* bad, const int32_t* owners, uint32_t* sequences,
                                   int rows) {
  const int r = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (r >= rows || bad[r] == 0) return;
  bad[r] = 0;
  if (owners[r] >= 0) sequences[owners[r]] = 1;
}

// A block: one row of one head; threads take 16 bytes each, K first, then V.
__global__ void kernel_row_copy(const RowCopy* copies, int head_dim) {
  const RowCopy copy = copies[blockIdx.z];
  const int head = static_cast<int>(blockIdx.y);
  const int chunks = head_dim / 8;
  const int at = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  const int row = at / (2 * chunks);
  if (row >= copy.rows) return;
  const int chunk = at % (2 * chunks) % chunks;
  const bool value = at % (2 * chunks) >= chunks;
  const size_t from =
      (static_cast<size_t>(head) * copy.from_stride + row) * head_dim + 8 * chunk;
  const size_t to = (static_cast<size_t>(head) * copy.to_stride + row) * head_dim + 8 * chunk;
  *reinterpret_cast<uint4*>((value ? copy.to_v : copy.to_k) + to) =
      *reinterpret_cast<const uint4*>((value ? copy.v : copy.k) + from);
}

// A thread adds up one channel over all rows, in order.
__global__ void kernel_square_sums(const SquareSums call) {
  const int column = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  const int k_columns = call.kv_heads * call.head_dim;
  const int q_columns = call.heads * call.head_dim;
  if (column >= k_columns + q_columns) return;
  double sum = call.sums[column];
  if (column < k_columns) {
    const size_t head = column / call.head_dim;
    for (int r = 0; r < call.rows; ++r) {
      const KvTarget target = call.targets[r];
      const size_t at = call.zone_offset + head * target.stride * call.head_dim +
                        column % call.head_dim;
      const double x = __half2float(__ushort_as_half(target.k[at]));
      sum += x * x;
    }
  } else {
    for (int r = call.q_from; r < call.rows; ++r) {
      const size_t at = static_cast<size_t>(r) * q_columns + (column - k_columns);
      const double x =
          call.q_f32 ? call.q_f32[at] : __half2float(__ushort_as_half(call.q_f16[at]));
      sum += x * x;
    }
  }
  call.sums[column] = sum;
}

unsigned blocks_of(size_t items) { return static_cast<unsigned>((items + kThreads - 1) / kThreads); }

}  // namespace

cudaError_t flag_owners_launch(uint32_t* bad, const int32_t* owners, uint32_t* sequences,
                               int32_t rows, cudaStream_t stream) {
  kernel_flag_owners<<<blocks_of(static_cast<size_t>(rows)), kThreads, 0, stream>>>(
      bad, owners, sequences, rows);
  return cudaGetLastError();
}

cudaError_t row_copy_launch(const RowCopy* copies, int32_t copy_count, int32_t rows_max,
                            int32_t kv_heads, int32_t head_dim, cudaStream_t stream) {
  if (copy_count == 0 || rows_max == 0) return cudaSuccess;
  if (head_dim % 8 != 0) return cudaErrorInvalidValue;
  const size_t items = static_cast<size_t>(rows_max) * static_cast<size_t>(head_dim / 8) * 2;
  const dim3 grid(blocks_of(items), static_cast<unsigned>(kv_heads),
                  static_cast<unsigned>(copy_count));
  kernel_row_copy<<<grid, kThreads, 0, stream>>>(copies, head_dim);
  return cudaGetLastError();
}

cudaError_t square_sums_launch(const SquareSums& call, cudaStream_t stream) {
  const size_t columns =
      static_cast<size_t>(call.heads + call.kv_heads) * static_cast<size_t>(call.head_dim);
  kernel_square_sums<<<blocks_of(columns), kThreads, 0, stream>>>(call);
  return cudaGetLastError();
}

}  // namespace leanedge::cuda
