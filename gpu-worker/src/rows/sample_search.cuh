// The token at which a running count or a running sum of weights crosses a limit, digit by digit: a histogram of 2,048
// digits with counts and sums, a scan, then the same within the digit that holds the crossing.
#pragma once

#include <stdint.h>

#include "cluster.cuh"
#include "sample_rule.cuh"
#include "sample_shared.cuh"
#include "sample_slice.cuh"

namespace leanedge::cuda::sample {

inline constexpr uint64_t kNoLimit = ~uint64_t{0};

template <int kRanks>
struct Search {
  Shared<kRanks>* shared;
  Slice slice;
  int rank;

  // Adds the blocks' histograms up. All blocks have filled theirs before, with a sync in between.
  __device__ void total(int which) {
    constexpr int kShare = kBins / kRanks;
    for (int b = static_cast<int>(threadIdx.x); b < kShare; b += kThreads) {
      uint64_t sum = 0;
      uint32_t count = 0;
      for (int r = 0; r < kRanks; ++r) {
        const Histogram* h = Cluster<kRanks>::of(&shared->histogram, r);
        const int digit = rank * kShare + b;
        sum += h->low[digit] + (static_cast<uint64_t>(h->high[digit]) << 32);
        count += h->count[digit];
      }
      shared->totals[which].sum[b] = sum;
      shared->totals[which].count[b] = count;
    }
    Cluster<kRanks>::sync();
  }

  // The digit in which the count before it and in it reaches `count_limit`, or the sum `sum_limit`,
  // whichever comes first; counts and sums start at those given.
  __device__ Found cross(int which, uint32_t count_start, uint64_t sum_start, uint64_t count_limit,
                         uint64_t sum_limit) {
    constexpr int kShare = kBins / kRanks;
    constexpr int kEach = kBins / kThreads;
    const int first = static_cast<int>(threadIdx.x) * kEach;
    const Totals<kRanks>* totals = Cluster<kRanks>::of(&shared->totals[which], first / kShare);
    uint64_t sums[kEach], sum = 0;
    uint32_t counts[kEach], count = 0;
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      sums[j] = totals->sum[first % kShare + j];
      counts[j] = totals->count[first % kShare + j];
      sum += sums[j];
      count += counts[j];
    }
    // Inclusive sums over the warp's threads, then over warps.
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    uint64_t sum_to = sum;
    uint32_t count_to = count;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const uint64_t s = __shfl_up_sync(0xffffffffu, sum_to, step);
      const uint32_t c = __shfl_up_sync(0xffffffffu, count_to, step);
      if (lane >= step) {
        sum_to += s;
        count_to += c;
      }
    }
    if (lane == 31) {
      shared->scan_sum[warp] = sum_to;
      shared->scan_count[warp] = count_to;
    }
    if (threadIdx.x == 0) shared->found.digit = -1;
    __syncthreads();
    uint64_t sum_before = sum_start + sum_to - sum;
    uint32_t count_before = count_start + count_to - count;
    uint64_t sum_all = 0;
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp) {
        sum_before += shared->scan_sum[w];
        count_before += shared->scan_count[w];
      }
      sum_all += shared->scan_sum[w];
    }
    if (threadIdx.x == 0) shared->found.sum_all = sum_all;
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const bool before = count_before >= count_limit || sum_before >= sum_limit;
      const bool within = count_before + counts[j] >= count_limit || sum_before + sums[j] >= sum_limit;
      if (!before && within) {
        shared->found.sum_before = sum_before;
        shared->found.sum = sums[j];
        shared->found.count_before = count_before;
        shared->found.count = counts[j];
        shared->found.digit = first + j;
      }
      sum_before += sums[j];
      count_before += counts[j];
    }
    __syncthreads();
    const Found found = shared->found;
    __syncthreads();
    return found;
  }

  // From the first digit's crossing on: digit by digit until one token is left. Its key is
  // `*key` << `*shift` and below it nothing.
  __device__ Found narrow(const Rule& rule, Found found, uint64_t count_limit, uint64_t sum_limit,
                          int* shift, uint64_t* key) {
    *key = static_cast<uint64_t>(found.digit);
    while (found.count > 1 && *shift > 0) {
      const int next = *shift > kDigitBits ? *shift - kDigitBits : 0;
      const uint64_t mask = (uint64_t{1} << (*shift - next)) - 1;
      const float2 range = rule.range(*key, *shift);
      histogram_clear(&shared->histogram);
      __syncthreads();
      each<4>(
          slice.count, [&](int32_t i) { return slice.score(i); },
          [&](int32_t i, float score) {
            uint64_t weight, k;
            const int32_t token = slice.begin + i;
            if (!rule.may_begin(score, token, *key, *shift, range)) return;
            if (!rule.candidate(score, token, &weight, &k) || k >> *shift != *key) return;
            histogram_add(&shared->histogram, static_cast<int>(k >> next & mask), weight);
          });
      Cluster<kRanks>::sync();
      total(1);
      found = cross(1, found.count_before, found.sum_before, count_limit, sum_limit);
      *key = *key << (*shift - next) | static_cast<uint32_t>(found.digit);
      *shift = next;
    }
    return found;
  }
};

}  // namespace leanedge::cuda::sample
