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

__device__ __forceinline__ float silu(float x) { return x / (1.0f + __expf(-x)); }

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
        __float2bfloat16_rn(silu(y[0]) * y[1]);
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

// SwiGLU of whole chunks: a thread takes 8 gates and 8 ups in turns.
__global__ void __launch_bounds__(kThreads) kernel_matrix_swiglu(const EpilogueArgs args) {
  const int32_t chunks = args.rows / 16;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int32_t n = static_cast<int32_t>(index / chunks);
  const int32_t row = static_cast<int32_t>(index % chunks) * 16;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;\n" ::: "memory");
#endif
  if (n >= args.inputs) return;
  const uint4* from = reinterpret_cast<const uint4*>(
      args.sums_bf16 + static_cast<size_t>(n) * static_cast<size_t>(args.rows) + row);
  const uint4 a = __ldcg(from);
  const uint4 b = __ldcg(from + 1);
  const uint32_t pairs[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float y[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const uint32_t pair = pairs[2 * i + j];
      y[j] = silu(__uint_as_float(pair << 16)) * __uint_as_float(pair & 0xffff0000u);
    }
    const __nv_bfloat162 two = __floats2bfloat162_rn(y[0], y[1]);
    words[i] = *reinterpret_cast<const uint32_t*>(&two);
  }
  const size_t to = (static_cast<size_t>(n) * static_cast<size_t>(args.out_pitch) +
                     static_cast<size_t>(row)) / 2;
  *reinterpret_cast<uint4*>(static_cast<uint16_t*>(args.out) + to) = {words[0], words[1], words[2],
                                                                     words[3]};
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
  if (args.output == MatrixOutput::kSwiglu && args.sums_bf16 && args.rows % 16 == 0 &&
      args.out_pitch % 16 == 0 && reinterpret_cast<uintptr_t>(args.out) % 16 == 0) {
    // Its blocks are placed while the product's last ones end.
    cudaLaunchAttribute overlap = {};
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(blocks_for(static_cast<int64_t>(args.rows) / 16 * args.inputs));
    config.blockDim = dim3(kThreads);
    config.stream = stream;
    config.attrs = &overlap;
    config.numAttrs = 1;
    EpilogueArgs copy = args;
    void* arguments[] = {&copy};
    return cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(kernel_matrix_swiglu),
                               arguments);
  }
  const int64_t pairs = (args.rows + 1) / 2;
  kernel_matrix_epilogue<<<blocks_for(pairs * args.inputs), kThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace leanedge::cuda
