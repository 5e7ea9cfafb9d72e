// What the row kernels share: four values at a time in f32 or bf16, sums over a block, and a launch
// that may overlap the end of the kernel before it.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#include "../kernels/warp_ops.cuh"
#include "leanedge/model.h"

namespace leanedge::cuda {

// Four values from `index` on (a multiple of 4) as f32.
__device__ __forceinline__ float4 load_four(const float* from, size_t index) {
  return *reinterpret_cast<const float4*>(from + index);
}
__device__ __forceinline__ float4 load_four(const __nv_bfloat16* from, size_t index) {
  const uint2 bits = *reinterpret_cast<const uint2*>(from + index);
  return make_float4(__uint_as_float(bits.x << 16), __uint_as_float(bits.x & 0xffff0000u),
                     __uint_as_float(bits.y << 16), __uint_as_float(bits.y & 0xffff0000u));
}

// (low, high) to bf16, rounded to nearest even.
__device__ __forceinline__ uint32_t pack_bfloat2(float low, float high) {
  uint32_t y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(y) : "f"(high), "f"(low));
  return y;
}

__device__ __forceinline__ void store_four(float* to, size_t index, float4 v) {
  *reinterpret_cast<float4*>(to + index) = v;
}
__device__ __forceinline__ void store_four(__nv_bfloat16* to, size_t index, float4 v) {
  *reinterpret_cast<uint2*>(to + index) =
      make_uint2(pack_bfloat2(v.x, v.y), pack_bfloat2(v.z, v.w));
}
__device__ __forceinline__ void store_four(__half* to, size_t index, float4 v) {
  *reinterpret_cast<uint2*>(to + index) = make_uint2(pack_half2(v.x, v.y), pack_half2(v.z, v.w));
}

__device__ __forceinline__ float4 add_four(float4 a, float4 b) {
  return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

// The sum over all threads of a block of whole warps, at most 32; `shared` has 32 floats.
__device__ __forceinline__ float block_sum(float x, float* shared) {
  x = warp_sum(x);
  const int warps = static_cast<int>(blockDim.x) / 32;
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  return warp_sum(lane < warps ? shared[lane] : 0.0f);
}

// Launches `kernel(arguments)`, which calls wait_for_previous_kernel() before it touches anything that
// an earlier kernel writes or reads; on sm_90 its blocks may start while that one ends.
template <typename Arguments>
cudaError_t launch_overlapped(void (*kernel)(Arguments), dim3 grid, dim3 block, size_t shared,
                              const Arguments& arguments, cudaStream_t stream) {
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, arguments);
}

}  // namespace leanedge::cuda
