// From the rows of a file to a matrix's form, and back to f32.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "../cuda_status.h"
#include "layout.h"
#include "pack.h"

namespace leanedge::cuda {
namespace {

constexpr int kThreads = 256;
constexpr float kFp8Max = 448.0f;

struct PackArgs {
  Matrix matrix;
  MatrixPart part;
  int32_t blocks;  // units of 32 columns a row, the last one may be shorter
};

// Bytes of a row of the file.
__device__ __forceinline__ size_t file_row_bytes(Dtype dtype, int32_t cols) {
  const size_t n = static_cast<size_t>(cols);
  switch (dtype) {
    case Dtype::kF32: return n * 4;
    case Dtype::kF16:
    case Dtype::kBF16: return n * 2;
    case Dtype::kQ4_0: return n / kUnitCols * 18;
    case Dtype::kQ4_1: return n / kUnitCols * 20;
    case Dtype::kQ8_0: return n / kUnitCols * 34;
  }
  return 0;
}

__device__ __forceinline__ float f16_at(const uint8_t* at) {
  return __half2float(__ushort_as_half(*reinterpret_cast<const uint16_t*>(at)));
}

// Codes of a block of a file's dtype; two bytes at a time, since blocks are aligned to that only.
__device__ __forceinline__ void file_codes(Dtype dtype, const uint8_t* block, int32_t codes[32]) {
  const uint16_t* words =
      reinterpret_cast<const uint16_t*>(block + (dtype == Dtype::kQ4_1 ? 4 : 2));
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    if (dtype == Dtype::kQ8_0) {
      const uint32_t two = words[i];
      codes[2 * i] = static_cast<int8_t>(two & 0xff);
      codes[2 * i + 1] = static_cast<int8_t>(two >> 8);
    } else if (i < 8) {
      const uint32_t two = words[i];
      codes[2 * i] = static_cast<int32_t>(two & 15);
      codes[2 * i + 1] = static_cast<int32_t>(two >> 8 & 15);
      codes[2 * i + 16] = static_cast<int32_t>(two >> 4 & 15);
      codes[2 * i + 17] = static_cast<int32_t>(two >> 12);
    }
  }
}

// Up to 32 values of row `row` of the part from column 32 * block on; zeros beyond the row's end.
__device__ __forceinline__ void file_values(const PackArgs& args, int32_t row, int32_t block,
                                            float values[32]) {
  const Dtype dtype = args.part.dtype;
  const uint8_t* at =
      args.part.raw + static_cast<size_t>(row) * file_row_bytes(dtype, args.matrix.cols);
  const int32_t col = block * kUnitCols;
  if (dtype == Dtype::kF32 || dtype == Dtype::kF16 || dtype == Dtype::kBF16) {
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      values[i] = 0;
      if (col + i >= args.matrix.cols) continue;
      if (dtype == Dtype::kF32) {
        values[i] = reinterpret_cast<const float*>(at)[col + i];
      } else {
        const uint16_t bits = reinterpret_cast<const uint16_t*>(at)[col + i];
        values[i] = dtype == Dtype::kF16 ? __half2float(__ushort_as_half(bits))
                                         : __uint_as_float(static_cast<uint32_t>(bits) << 16);
      }
    }
    return;
  }
  at += static_cast<size_t>(block) *
        (dtype == Dtype::kQ8_0 ? 34 : dtype == Dtype::kQ4_0 ? 18 : 20);
  int32_t codes[32];
  file_codes(dtype, at, codes);
  const float scale = f16_at(at);
  const float min = dtype == Dtype::kQ4_1 ? f16_at(at + 2) : 0.0f;
  const int32_t zero = dtype == Dtype::kQ4_0 ? 8 : 0;
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    values[i] = __fadd_rn(__fmul_rn(scale, static_cast<float>(codes[i] - zero)), min);
  }
}

// Row of the matrix where row `row` of the part goes.
__device__ __forceinline__ int32_t target_row(const MatrixPart& part, int32_t row) {
  if (part.rope_dim > 0) {
    const int32_t head = row / part.head_dim;
    int32_t channel = row % part.head_dim;
    if (channel < part.rope_dim) channel = channel % 2 * (part.rope_dim / 2) + channel / 2;
    row = head * part.head_dim + channel;
  }
  return part.to_row + row * part.to_step;
}

// Q8_0's rule, Q4_0's rule (levels 127 and 8): codes and the f16 scale of 32 values.
__device__ __forceinline__ uint16_t quantise(MatrixForm form, const float values[32],
                                             int32_t codes[32]) {
  float most = 0;
  float most_value = 0;
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    if (fabsf(values[i]) > most) {
      most = fabsf(values[i]);
      most_value = values[i];
    }
  }
  const float scale = form == MatrixForm::kInt8 ? most / 127.0f : most_value / -8.0f;
  const float inverse = scale == 0 ? 0.0f : 1.0f / scale;
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    const float x = values[i] * inverse;
    codes[i] = form == MatrixForm::kInt8 ? static_cast<int32_t>(roundf(x))
                                         : min(15, static_cast<int32_t>(x + 8.5f));
  }
  return __half_as_ushort(__float2half_rn(scale));
}

// Eight codes of 8 bits as a lane holds them.
__device__ __forceinline__ uint2 eight_bytes(const uint32_t codes[8]) {
  uint2 out = {0, 0};
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    out.x |= (codes[j] & 0xff) << (8 * code_byte(j));
    out.y |= (codes[j + 4] & 0xff) << (8 * code_byte(j));
  }
  return out;
}

// A thread packs 32 columns of a row.
__global__ void __launch_bounds__(kThreads) kernel_matrix_pack(const PackArgs args) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int32_t row = static_cast<int32_t>(index / args.blocks);
  const int32_t block = static_cast<int32_t>(index % args.blocks);
  if (row >= args.part.rows) return;
  const Matrix& matrix = args.matrix;
  const int32_t to = target_row(args.part, row);
  const int32_t col = block * kUnitCols;
  const MatrixForm form = matrix.form;
  float values[32];
  file_values(args, row, block, values);
  if (form_row_major(form)) {
    uint16_t* out = reinterpret_cast<uint16_t*>(matrix.data) +
                    static_cast<size_t>(to) * static_cast<size_t>(matrix.cols) + col;
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      if (col + i < matrix.cols) {
        out[i] = form == MatrixForm::kF16
                     ? __half_as_ushort(__float2half_rn(values[i]))
                     : __bfloat16_as_ushort(__float2bfloat16_rn(values[i]));
      }
    }
    return;
  }
  uint8_t* step = matrix.data + step_at(form, matrix.cols, to, col);
  int32_t codes[32];
  if (form == MatrixForm::kFp8) {
    const float scale = row_scales_of(matrix)[to];
    const float inverse = scale == 0 ? 0.0f : 1.0f / scale;
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      codes[i] = static_cast<int32_t>(
          __nv_cvt_float_to_fp8(values[i] * inverse, __NV_SATFINITE, __NV_E4M3));
    }
  } else {
    uint16_t scale;
    const bool same = args.part.dtype ==
                      (form == MatrixForm::kInt8 ? Dtype::kQ8_0 : Dtype::kQ4_0);
    if (same) {
      const int32_t block_bytes = form == MatrixForm::kInt8 ? 34 : 18;
      const uint8_t* at = args.part.raw +
                          (static_cast<size_t>(row) * static_cast<size_t>(args.blocks) +
                           static_cast<size_t>(block)) * static_cast<size_t>(block_bytes);
      file_codes(args.part.dtype, at, codes);
      scale = *reinterpret_cast<const uint16_t*>(at);
    } else {
      scale = quantise(form, values, codes);
    }
    *reinterpret_cast<uint16_t*>(step + scale_at(form, to, col)) = scale;
  }
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    uint32_t eight[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) eight[j] = static_cast<uint32_t>(codes[8 * t + j]);
    uint8_t* out = step + codes_at(form, to, col + 8 * t);
    if (form == MatrixForm::kInt4) {
      uint32_t word = 0;
#pragma unroll
      for (int j = 0; j < 8; ++j) word |= (eight[j] & 15) << (4 * code_nibble(j));
      *reinterpret_cast<uint32_t*>(out) = word;
    } else {
      *reinterpret_cast<uint2*>(out) = eight_bytes(eight);
    }
  }
}

// A block finds the scale of an fp8 row.
__global__ void __launch_bounds__(kThreads) kernel_matrix_row_scale(const PackArgs args) {
  __shared__ float parts[kThreads / 32];
  const int32_t row = static_cast<int32_t>(blockIdx.x);
  float most = 0;
  for (int32_t block = threadIdx.x; block < args.blocks; block += kThreads) {
    float values[32];
    file_values(args, row, block, values);
#pragma unroll
    for (int i = 0; i < 32; ++i) most = fmaxf(most, fabsf(values[i]));
  }
#pragma unroll
  for (int d = 16; d > 0; d /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, d));
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = most;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int i = 1; i < kThreads / 32; ++i) most = fmaxf(most, parts[i]);
    const_cast<float*>(row_scales_of(args.matrix))[target_row(args.part, row)] = most / kFp8Max;
  }
}

// Eight values of a row, from column `col` (a multiple of 8) on.
__device__ __forceinline__ void eight_values(const Matrix& matrix, int32_t row, int32_t col,
                                             float values[8]) {
  const MatrixForm form = matrix.form;
  if (form_row_major(form)) {
    const uint4 bits = *reinterpret_cast<const uint4*>(
        matrix.data + (static_cast<size_t>(row) * static_cast<size_t>(matrix.cols) +
                       static_cast<size_t>(col)) * 2);
    const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const uint16_t half = static_cast<uint16_t>(words[j / 2] >> (16 * (j % 2)));
      values[j] = form == MatrixForm::kF16 ? __half2float(__ushort_as_half(half))
                                           : __uint_as_float(static_cast<uint32_t>(half) << 16);
    }
    return;
  }
  const uint8_t* step = matrix.data + step_at(form, matrix.cols, row, col);
  const uint8_t* at = step + codes_at(form, row, col);
  if (form == MatrixForm::kInt4) {
    const uint32_t word = *reinterpret_cast<const uint32_t*>(at);
    const float scale = f16_at(step + scale_at(form, row, col));
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      values[j] = scale * (static_cast<float>(word >> (4 * code_nibble(j)) & 15) - 8.0f);
    }
    return;
  }
  const uint2 two = *reinterpret_cast<const uint2*>(at);
  const float scale = form == MatrixForm::kInt8 ? f16_at(step + scale_at(form, row, col))
                                                : row_scales_of(matrix)[row];
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const uint32_t code = (j < 4 ? two.x : two.y) >> (8 * code_byte(j % 4)) & 0xff;
    values[j] = scale * (form == MatrixForm::kInt8
                             ? static_cast<float>(static_cast<int8_t>(code))
                             : __half2float(__half(__nv_cvt_fp8_to_halfraw(
                                   static_cast<__nv_fp8_storage_t>(code), __NV_E4M3))));
  }
}

// A thread writes eight columns of a row.
__global__ void __launch_bounds__(kThreads)
    kernel_matrix_rows(const Matrix matrix, const MatrixRows call) {
  const int32_t eights = matrix.cols / 8;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int32_t i = static_cast<int32_t>(index / eights);
  const int32_t col = static_cast<int32_t>(index % eights) * 8;
  if (i >= call.count) return;
  const int32_t row = call.ids ? call.ids[i] : call.first + i;
  float values[8] = {};
  if (row >= 0 && row < matrix.rows) eight_values(matrix, row, col, values);
  float4* out = reinterpret_cast<float4*>(
      call.out + static_cast<size_t>(i) * static_cast<size_t>(matrix.cols) + col);
  out[0] = {values[0], values[1], values[2], values[3]};
  out[1] = {values[4], values[5], values[6], values[7]};
}

// A thread writes eight columns of a row as bf16: what cuBLASLt takes.
__global__ void __launch_bounds__(kThreads)
    kernel_matrix_widen(const Matrix matrix, int32_t first, int32_t count, uint16_t* out) {
  const int32_t eights = matrix.cols / 8;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int32_t i = static_cast<int32_t>(index / eights);
  const int32_t col = static_cast<int32_t>(index % eights) * 8;
  if (i >= count) return;
  float values[8];
  eight_values(matrix, first + i, col, values);
  uint32_t words[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const __nv_bfloat162 two = __floats2bfloat162_rn(values[2 * j], values[2 * j + 1]);
    words[j] = *reinterpret_cast<const uint32_t*>(&two);
  }
  *reinterpret_cast<uint4*>(out + static_cast<size_t>(i) * static_cast<size_t>(matrix.cols) + col) =
      {words[0], words[1], words[2], words[3]};
}

unsigned blocks_for(int64_t threads) {
  return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
}

}  // namespace

cudaError_t matrix_pack_kernels(const Matrix& matrix, const MatrixPart& part, cudaStream_t stream) {
  PackArgs args = {matrix, part, (matrix.cols + kUnitCols - 1) / kUnitCols};
  if (matrix.form == MatrixForm::kFp8) {
    kernel_matrix_row_scale<<<static_cast<unsigned>(part.rows), kThreads, 0, stream>>>(args);
  }
  kernel_matrix_pack<<<blocks_for(static_cast<int64_t>(part.rows) * args.blocks), kThreads, 0,
                       stream>>>(args);
  return cudaGetLastError();
}

cudaError_t matrix_rows_kernel(const Matrix& matrix, const MatrixRows& call, cudaStream_t stream) {
  kernel_matrix_rows<<<blocks_for(static_cast<int64_t>(call.count) * (matrix.cols / 8)), kThreads,
                       0, stream>>>(matrix, call);
  return cudaGetLastError();
}

cudaError_t matrix_widen_kernel(const Matrix& matrix, int32_t first, int32_t count, uint16_t* out,
                                cudaStream_t stream) {
  kernel_matrix_widen<<<blocks_for(static_cast<int64_t>(count) * (matrix.cols / 8)), kThreads, 0,
                        stream>>>(matrix, first, count, out);
  return cudaGetLastError();
}

}  // namespace leanedge::cuda
