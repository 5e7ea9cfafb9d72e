// Counts and sums of weights by digit of the key. Sums are integers, so they do not depend on the order of additions.
#pragma once

#include <stdint.h>

#include "sample_slice.cuh"

namespace leanedge::cuda::sample {

inline constexpr int kDigitBits = 11;
inline constexpr int kBins = 1 << kDigitBits;

// Counts and sums of weights, by digit. A sum is two words, so that its atomics are those of 32 bits.
struct Histogram {
  uint32_t count[kBins];
  uint32_t low[kBins];
  uint32_t high[kBins];
};

// The histograms of all blocks added up: each block holds its share of the digits.
template <int kRanks>
struct Totals {
  uint64_t sum[kBins / kRanks];
  uint32_t count[kBins / kRanks];
};

__device__ __forceinline__ void histogram_clear(Histogram* h) {
  for (int b = static_cast<int>(threadIdx.x); b < kBins; b += kThreads) {
    h->count[b] = h->low[b] = h->high[b] = 0;
  }
}

__device__ __forceinline__ void histogram_add(Histogram* h, int digit, uint64_t weight) {
  const uint32_t low = static_cast<uint32_t>(weight);
  uint32_t high = static_cast<uint32_t>(weight >> 32);
  atomicAdd(&h->count[digit], 1u);
  const uint32_t before = atomicAdd(&h->low[digit], low);
  if (before + low < before) ++high;
  if (high) atomicAdd(&h->high[digit], high);
}

// The same for a whole warp whose tokens share a digit.
__device__ __forceinline__ void add_warp(Histogram* h, int digit, uint64_t weight) {
  const uint32_t count = __popc(__ballot_sync(0xffffffffu, weight > 0));
#pragma unroll
  for (int step = 16; step > 0; step /= 2) weight += __shfl_xor_sync(0xffffffffu, weight, step);
  if (count == 0 || threadIdx.x % 32 != 0) return;
  atomicAdd(&h->count[digit], count - 1);
  histogram_add(h, digit, weight);
}

}  // namespace leanedge::cuda::sample
