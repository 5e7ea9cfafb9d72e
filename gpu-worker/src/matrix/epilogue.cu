// What stands before and after cuBLASLt's product where its own epilogues do not reach.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "epilogue.h"

namespace leanedge::cuda {
namespace {

constexpr int kThreads = 256;

// A thread takes 8 values of a row.
__global__ void __launch_bounds__(kThreads)
    kernel_bf16_to_f16(const uint16_t* x, int64_t eights, uint16_t* out) {
  constexpr float kMost = 65504.0f;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= eights) return;
  const uint4 from = reinterpret_cast<const uint4*>(x)[i];
  const uint32_t words[4] = {from.x, from.y, from.z, from.w};
  uint32_t halves[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const float low = fminf(fmaxf(__uint_as_float(words[j] << 16), -kMost), kMost);
    const float high = fminf(fmaxf(__uint_as_float(words[j] & 0xffff0000u), -kMost), kMost);
    const __half2 two = __floats2half2_rn(low, high);
    halves[j] = *reinterpret_cast<const uint32_t*>(&two);
  }
  reinterpret_cast<uint4*>(out)[i] = {halves[0], halves[1], halves[2], halves[3]};
}

// A thread takes two neighbouring outputs (gate and up, or two of a row).
__global__ void __launch_bounds__(kThreads) kernel_matrix_epilogue(const EpilogueArgs args) {
  const int32_t pairs = (args.rows + 1) / 2;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int32_t n = static_cast<int32_t>(index / pairs);
  const int32_t row = static_cast<int32_t>(index % pairs) * 2;
  if (n >= args.inputs) return;
  const size_t from = static_cast<size_t>(n) * static_cast<size_t>(args.rows) + row;
  const size_t to = static_cast<size_t>(n) * static_cast<size_t>(args.out_pitch) + row;
  const int count = row + 1 < args.rows ? 2 : 1;
  float y[2] = {};
  for (int i = 0; i < count; ++i) {
    y[i] = args.sums_bf16
               ? __uint_as_float(static_cast<uint32_t>(args.sums_bf16[from + i]) << 16)
               : args.sums[from + i];
    if (args.bias) y[i] += args.bias[row + i];
  }
  if (args.output == MatrixOutput::kSwiglu) {
    static_cast<__nv_bfloat16*>(args.out)[to / 2] =
        __float2bfloat16_rn(y[0] / (1.0f + __expf(-y[0])) * y[1]);
    return;
  }
  for (int i = 0; i < count; ++i) {
    if (args.output == MatrixOutput::kBf16) {
      static_cast<__nv_bfloat16*>(args.out)[to + i] = __float2bfloat16_rn(y[i]);
    } else {
      float* out = static_cast<float*>(args.out) + to + i;
      *out = args.output == MatrixOutput::kResidual ? *out + y[i] : y[i];
    }
  }
}

unsigned blocks_for(int64_t threads) {
  return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
}

}  // namespace

cudaError_t bf16_to_f16_kernel(const uint16_t* x, int64_t count, uint16_t* out,
                               cudaStream_t stream) {
  kernel_bf16_to_f16<<<blocks_for(count / 8), kThreads, 0, stream>>>(x, count / 8, out);
  return cudaGetLastError();
}

cudaError_t matrix_epilogue_kernel(const EpilogueArgs& args, cudaStream_t stream) {
  const int64_t pairs = (args.rows + 1) / 2;
  kernel_matrix_epilogue<<<blocks_for(pairs * args.inputs), kThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace leanedge::cuda
