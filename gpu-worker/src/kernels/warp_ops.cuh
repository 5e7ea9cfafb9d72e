// The instructions that attention is made of: asynchronous copies, matrix loads, matrix products.
// PTX ISA 8.x; all of them exist from sm_80 on.
#pragma once

#include <cuda_fp16.h>
#include <stdint.h>

namespace leanedge::cuda {

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Copies 16 bytes past the registers and the first-level cache.
__device__ __forceinline__ void copy_async_16(uint32_t shared, const void* global) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;\n" ::"r"(shared), "l"(global));
}
// The same, or 16 zero bytes.
__device__ __forceinline__ void copy_async_16_or_zero(uint32_t shared, const void* global,
                                                      bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;\n" ::"r"(shared),
               "l"(global), "r"(valid ? 16 : 0));
}
__device__ __forceinline__ void copy_async_commit() {
  asm volatile("cp.async.commit_group;\n" ::: "memory");
}
// Waits until at most `pending` of the newest groups are on their way; pending is 0 .. 7.
__device__ __forceinline__ void copy_async_wait(int pending) {
  switch (pending) {
    case 0: asm volatile("cp.async.wait_group 0;\n" ::: "memory"); break;
    case 1: asm volatile("cp.async.wait_group 1;\n" ::: "memory"); break;
    case 2: asm volatile("cp.async.wait_group 2;\n" ::: "memory"); break;
    case 3: asm volatile("cp.async.wait_group 3;\n" ::: "memory"); break;
    case 4: asm volatile("cp.async.wait_group 4;\n" ::: "memory"); break;
    case 5: asm volatile("cp.async.wait_group 5;\n" ::: "memory"); break;
    case 6: asm volatile("cp.async.wait_group 6;\n" ::: "memory"); break;
    default: asm volatile("cp.async.wait_group 7;\n" ::: "memory"); break;
  }
}

// Asks for `bytes` bytes, a multiple of 16, to come to the second-level cache.
__device__ __forceinline__ void prefetch_l2(const uint8_t* global, uint32_t bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;\n" ::"l"(global), "r"(bytes));
#else
  for (uint32_t at = 0; at < bytes; at += 128) {
    asm volatile("prefetch.global.L2 [%0];\n" ::"l"(global + at));
  }
#endif
}

// The same for the line that holds one address.
__device__ __forceinline__ void prefetch_line(const void* global) {
  asm volatile("prefetch.global.L2 [%0];\n" ::"l"(global));
}

template <int kPending>
__device__ __forceinline__ void copy_async_wait_for() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

// Place of 16-byte chunk `i` of a section in shared memory, so that the eight rows of a matrix load
// lie in different banks whatever power of two their pitch is. Linear over XOR:
// swizzle(a ^ b) = swizzle(a) ^ swizzle(b).
__host__ __device__ __forceinline__ constexpr uint32_t swizzle(uint32_t i) {
  return i ^ (((i >> 3) ^ (i >> 6)) & 7u);
}

// Loads four 8x8 matrices of 16-bit units, transposed: lane l gives the address of row l % 8 of
// matrix l / 8, and gets in d[m] rows 2 (l % 4) and 2 (l % 4) + 1 of column l / 4 of matrix m.
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&d)[4], uint32_t shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(shared));
}

// The same without transposing: d[m] gets columns 2 (l % 4) and 2 (l % 4) + 1 of row l / 4.
__device__ __forceinline__ void load_matrices(uint32_t (&d)[4], uint32_t shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(shared));
}

__device__ __forceinline__ uint32_t load_shared_16(uint32_t shared) {
  uint16_t x;
  asm volatile("ld.shared.u16 %0, [%1];\n" : "=h"(x) : "r"(shared));
  return x;
}

// c (16, 8) f32 += a (16, 16) f16 * b (16, 8) f16. With r = lane / 4 and t = lane % 4:
//   a[0], a[1] rows r, r + 8 of columns 2t, 2t + 1; a[2], a[3] the same of columns 2t + 8, 2t + 9
//   b0, b1     rows 2t, 2t + 1 and 2t + 8, 2t + 9 of column r
//   c[0], c[1] row r, columns 2t, 2t + 1; c[2], c[3] row r + 8
// Subnormal f16 inputs count: codes are fed as the bits of tiny numbers.
__device__ __forceinline__ void multiply_add(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                             uint32_t a3, uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Transposes an 8x8 matrix of 16-bit units that lies across the warp: lane 4 r + t holds row r,
// columns 2t, 2t + 1, before and after.
__device__ __forceinline__ uint32_t transpose_matrix(uint32_t x) {
  uint32_t y;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;\n" : "=r"(y) : "r"(x));
  return y;
}

// Waits until the kernel before this one has finished and its writes are seen; then lets the kernel
// after this one start its own preparations on processors that fall idle. Kernels before sm_90 run
// one after the other anyway.
__device__ __forceinline__ void wait_for_previous_kernel() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;\n" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;\n" ::: "memory");
#endif
}

// Lets the kernel after this one start at once, where this one reads nothing that it must not see early: what that kernel
// reads before its own wait must then have been written before the kernel before this one began.
__device__ __forceinline__ void release_next_kernel() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;\n" ::: "memory");
#endif
}

// Adds 1 and returns what was there. Releases what all threads of the block wrote before the __syncthreads() ahead of it,
// and after the one behind it all of them see what those released who added before: one fence a block, no thread's own.
__device__ __forceinline__ uint32_t count_arrival(uint32_t* arrivals) {
  uint32_t before;
  asm volatile("atom.acq_rel.gpu.add.u32 %0, [%1], 1;\n"
               : "=r"(before)
               : "l"(arrivals)
               : "memory");
  return before;
}

// The multiprocessor that this thread runs on, and its warp's place there.
__device__ __forceinline__ int processor_id() {
  uint32_t x;
  asm volatile("mov.u32 %0, %%smid;\n" : "=r"(x));
  return static_cast<int>(x);
}
__device__ __forceinline__ int warp_slot() {
  uint32_t x;
  asm volatile("mov.u32 %0, %%warpid;\n" : "=r"(x));
  return static_cast<int>(x);
}

// 2^x, relative error 2^-22; -infinity gives 0.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

// (low, high) to f16, rounded to nearest even.
__device__ __forceinline__ uint32_t pack_half2(float low, float high) {
  uint32_t y;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;\n" : "=r"(y) : "f"(high), "f"(low));
  return y;
}

__device__ __forceinline__ uint32_t multiply_half2(uint32_t a, uint32_t b) {
  uint32_t y;
  asm("mul.rn.f16x2 %0, %1, %2;\n" : "=r"(y) : "r"(a), "r"(b));
  return y;
}

}  // namespace leanedge::cuda
