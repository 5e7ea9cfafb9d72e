// In the place of gpu-worker/src/kernels/warp_ops.cuh where kernels run on the host: the same functions, by what the PTX
// ISA says of their instructions.
#pragma once

#include <cuda_fp16.h>
#include <math.h>
#include <string.h>

#include "host_threads.h"
#include "leanedge/half.h"

#define threadIdx ::leanedge::host::thread_index()
#define blockIdx ::leanedge::host::block_index()
#define gridDim ::leanedge::host::grid_size()
#define __syncthreads ::leanedge::host::block_barrier
#undef __grid_constant__
#define __grid_constant__
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __noinline__
#define __noinline__ __attribute__((noinline))
// What kernels share is compiled once.
#undef __forceinline__
#define __forceinline__ inline

template <typename T>
T __ldg(const T* at) {
  return *at;
}
template <typename T>
T __ldcg(const T* at) {
  return *at;
}
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline uint32_t min(uint32_t a, uint32_t b) { return a < b ? a : b; }
inline uint32_t __float_as_uint(float x) { return leanedge::f32_bits(x); }
inline float __int_as_float(int x) { return leanedge::f32_from_bits(static_cast<uint32_t>(x)); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline uint32_t count_arrival(uint32_t* arrivals) { return (*arrivals)++; }

inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t select) {
  const uint64_t bytes = static_cast<uint64_t>(y) << 32 | x;
  uint32_t out = 0;
  for (int i = 0; i < 4; ++i) {
    out |= static_cast<uint32_t>(bytes >> (8 * (select >> (4 * i) & 7)) & 0xff) << (8 * i);
  }
  return out;
}

inline int host_lane() { return static_cast<int>(threadIdx.x & 31); }

// What lane `from` gives as x.
template <typename T>
T host_shuffle(T x, int from) {
  uint32_t word;
  memcpy(&word, &x, 4);
  const uint32_t* all = leanedge::host::warp_exchange(&word, 1);
  memcpy(&x, all + 12 * from, 4);
  return x;
}
template <typename T>
T __shfl_sync(uint32_t, T x, int from) {
  return host_shuffle(x, from & 31);
}
template <typename T>
T __shfl_xor_sync(uint32_t, T x, int mask) {
  return host_shuffle(x, host_lane() ^ mask);
}
inline uint32_t __ballot_sync(uint32_t, bool x) {
  const uint32_t word = x;
  const uint32_t* all = leanedge::host::warp_exchange(&word, 1);
  uint32_t out = 0;
  for (int i = 0; i < 32; ++i) out |= all[12 * i] << i;
  return out;
}
inline bool __any_sync(uint32_t mask, bool x) { return __ballot_sync(mask, x) != 0; }
inline void __syncwarp() { __ballot_sync(0xffffffffu, false); }

namespace leanedge::cuda {

inline uint32_t shared_address(const void* pointer) { return host::shared_address(pointer); }

inline void copy_async_16(uint32_t shared, const void* global) { host::copy_start(shared, global); }
inline void copy_async_16_or_zero(uint32_t shared, const void* global, bool valid) {
  host::copy_start(shared, valid ? global : nullptr);
}
inline void copy_async_commit() { host::copy_commit(); }
inline void copy_async_wait(int pending) { host::copy_wait(pending); }
template <int kPending>
void copy_async_wait_for() {
  host::copy_wait(kPending);
}
// Reads what is asked for, so that sanitizers see it.
inline void prefetch_line(const void* global) {
  const uint8_t seen = *static_cast<const volatile uint8_t*>(global);
  static_cast<void>(seen);
}

constexpr uint32_t swizzle(uint32_t i) { return i ^ (((i >> 3) ^ (i >> 6)) & 7u); }

inline uint32_t host_unit(uint32_t address) {
  uint16_t unit;
  memcpy(&unit, host::shared_at(address, 2), 2);
  return unit;
}
inline void load_matrices_transposed(uint32_t (&d)[4], uint32_t shared) {
  const uint32_t* all = host::warp_exchange(&shared, 1);
  const int r = host_lane() / 4;
  const int t = host_lane() % 4;
  for (int m = 0; m < 4; ++m) {
    const uint32_t even = all[12 * (8 * m + 2 * t)];
    const uint32_t odd = all[12 * (8 * m + 2 * t + 1)];
    d[m] = host_unit(even + 2 * static_cast<uint32_t>(r)) |
           host_unit(odd + 2 * static_cast<uint32_t>(r)) << 16;
  }
}
inline void load_matrices(uint32_t (&d)[4], uint32_t shared) {
  const uint32_t* all = host::warp_exchange(&shared, 1);
  const int r = host_lane() / 4;
  const uint32_t t = static_cast<uint32_t>(host_lane() % 4);
  for (int m = 0; m < 4; ++m) {
    const uint32_t row = all[12 * (8 * m + r)];
    d[m] = host_unit(row + 4 * t) | host_unit(row + 4 * t + 2) << 16;
  }
}
inline uint32_t load_shared_16(uint32_t shared) { return host_unit(shared); }

inline float host_half(uint32_t word, int half) {
  return f16_to_f32(static_cast<uint16_t>(word >> (16 * half)));
}

// c += a b of a warp's m16n8k16, whose lanes each give the f32 values of their 4 pairs of a and 2 pairs of b.
inline void host_multiply(float (&c)[4], const uint32_t (&words)[12]) {
  const uint32_t* all = host::warp_exchange(words, 12);
  const int r = host_lane() / 4;
  const int t = host_lane() % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = i / 2;  // r, or r + 8
    const int col = 2 * t + i % 2;
    double sum = c[i];
    for (int k = 0; k < 16; ++k) {
      const int far = k / 8;
      const float a = f32_from_bits(all[12 * (4 * r + k % 8 / 2) + 2 * (row + 2 * far) + k % 2]);
      const float b = f32_from_bits(all[12 * (4 * col + k % 8 / 2) + 8 + 2 * far + k % 2]);
      sum += static_cast<double>(a) * static_cast<double>(b);
    }
    c[i] = static_cast<float>(sum);
  }
}

inline void multiply_add(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                         uint32_t b0, uint32_t b1) {
  uint32_t words[12];
  const uint32_t pairs[6] = {a0, a1, a2, a3, b0, b1};
  for (int i = 0; i < 12; ++i) words[i] = f32_bits(host_half(pairs[i / 2], i % 2));
  host_multiply(c, words);
}

inline uint32_t transpose_matrix(uint32_t x) {
  const uint32_t* all = host::warp_exchange(&x, 1);
  const int r = host_lane() / 4;
  const int t = host_lane() % 4;
  auto at = [&](int row) { return all[12 * (4 * row + r / 2)] >> (16 * (r % 2)) & 0xffffu; };
  return at(2 * t) | at(2 * t + 1) << 16;
}

inline void wait_for_previous_kernel() { host::previous_kernel_wait(); }

inline float exp2_fast(float x) { return exp2f(x); }
inline uint32_t pack_half2(float low, float high) {
  return f32_to_f16(low) | static_cast<uint32_t>(f32_to_f16(high)) << 16;
}
inline uint32_t multiply_half2(uint32_t a, uint32_t b) {
  return pack_half2(host_half(a, 0) * host_half(b, 0), host_half(a, 1) * host_half(b, 1));
}

}  // namespace leanedge::cuda
