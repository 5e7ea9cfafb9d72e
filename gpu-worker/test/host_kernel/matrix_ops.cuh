// In the place of gpu-worker/src/matrix/matrix_ops.cuh where kernels run on the host.
#pragma once

#include <cuda_bf16.h>
#include <math.h>
#include <string.h>

#include "host_threads.h"
#include "leanedge/half.h"

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __uint_as_float(uint32_t x) { return leanedge::f32_from_bits(x); }
template <typename T>
T __shfl_down_sync(uint32_t, T x, int by) {
  return host_shuffle(x, host_lane() + by < 32 ? host_lane() + by : host_lane());
}

namespace leanedge::cuda {

// Reads what is asked for, so that sanitizers see it.
inline void prefetch_l2(const uint8_t* global, uint32_t bytes) {
  for (uint32_t at = 0; at < bytes; at += 16) prefetch_line(global + at);
}

inline uint4 load_chunk(uint32_t address) {
  uint4 v;
  memcpy(&v, host::shared_at(address, sizeof v), sizeof v);
  return v;
}
inline float2 load_two(uint32_t address) {
  float2 v;
  memcpy(&v, host::shared_at(address, sizeof v), sizeof v);
  return v;
}

inline void barrier_init(uint32_t barrier, uint32_t arrivals) { host::barrier_init(barrier, arrivals); }
inline void barrier_arrive(uint32_t barrier) { host::barrier_arrive(barrier); }
inline void barrier_wait(uint32_t barrier, uint32_t parity) { host::barrier_wait(barrier, parity); }

inline uint32_t masked_or(uint32_t word, uint32_t mask, uint32_t base) { return (word & mask) | base; }

template <bool kF16>
float host_unit_value(uint32_t word, int half) {
  return kF16 ? host_half(word, half) : f32_from_bits(half ? word & 0xffff0000u : word << 16);
}

template <bool kF16>
void multiply_unit_half(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  uint32_t words[12];
  const uint32_t pairs[6] = {a[0], a[1], a[2], a[3], b0, b1};
  for (int i = 0; i < 12; ++i) words[i] = f32_bits(host_unit_value<kF16>(pairs[i / 2], i % 2));
  host_multiply(c, words);
}

}  // namespace leanedge::cuda
