// The two passes over a row that every draw begins with.
#pragma once

#include <stdint.h>

#include "cluster.cuh"
#include "sample_rule.cuh"
#include "sample_shared.cuh"
#include "sample_slice.cuh"

namespace leanedge::cuda::sample {

template <int kRanks>
struct Row {
  Shared<kRanks>* shared;
  Slice slice;
  float* scores;  // room for the slice's scores in shared memory, or null
  int rank;

  // Greatest logit and score of the row.
  __device__ Greatest find_greatest() {
    Greatest mine = none();
    each<8>(
        slice.count, [&](int32_t i) { return slice.logits[i]; },
        [&](int32_t i, float logit) {
          const float score = slice.penalise(i, logit);
          if (scores) scores[i] = score;
          mine = greater(mine, {logit, score, slice.begin + i, isfinite(logit) ? 1 : 0});
        });
    // A thread reads back only what it has written itself.
    slice.scores = scores;
    mine = warp_greatest(mine);
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if (lane == 0) shared->warp_greatest[threadIdx.x / 32] = mine;
    __syncthreads();
    if (threadIdx.x < 32) {
      const Greatest all = warp_greatest(lane < kWarps ? shared->warp_greatest[lane] : none());
      if (lane == 0) shared->greatest = all;
    }
    Cluster<kRanks>::sync();
    Greatest all = *Cluster<kRanks>::of(&shared->greatest, 0);
    for (int r = 1; r < kRanks; ++r) {
      all = greater(all, *Cluster<kRanks>::of(&shared->greatest, r));
    }
    return all;
  }

  // Sums over the row; with a temperature also the histogram of the first digit.
  __device__ Sums add_up(float greatest_logit, const Rule& rule, int shift) {
    const bool draws = rule.temperature > 0;
    if (draws) histogram_clear(&shared->histogram);
    __syncthreads();
    float exponentials = 0;
    uint64_t weights = 0;
    // Whole warps, so that they can add up what they have of one digit.
    const int32_t rounded = (slice.count + 31) / 32 * 32;
    each<4>(
        rounded, [&](int32_t i) { return i < slice.count ? slice.score(i) : -INFINITY; },
        [&](int32_t i, float score) {
          const bool real = i < slice.count;
          const float logit = real && slice.is_penalised(i) ? slice.logits[i] : score;
          exponentials += expf(logit - greatest_logit);
          if (!draws) return;
          const float d = real ? rule.distance(score) : kDistanceMax;
          const float exponential = d < kDistanceMax ? expf(-d) : 0.0f;
          const uint64_t weight = rule.weight(exponential);
          weights += weight;
          const uint64_t counted = exponential >= rule.min_p ? weight : 0;
          if (rule.by_id) {
            // 32 ids in a row share a digit: slices begin at multiples of 128.
            add_warp(&shared->histogram, (slice.begin + i) >> shift, counted);
          } else if (counted > 0) {
            histogram_add(&shared->histogram,
                          static_cast<int>(rule.key(d, slice.begin + i) >> shift), counted);
          }
        });
    const Sums mine = warp_sums({static_cast<double>(exponentials), weights});
    const int lane = static_cast<int>(threadIdx.x) % 32;
    if (lane == 0) shared->warp_sums[threadIdx.x / 32] = mine;
    __syncthreads();
    if (threadIdx.x < 32) {
      const Sums all = warp_sums(lane < kWarps ? shared->warp_sums[lane] : Sums{0, 0});
      if (lane == 0) shared->sums = all;
    }
    Cluster<kRanks>::sync();
    Sums all = {0, 0};
    for (int r = 0; r < kRanks; ++r) {
      const Sums other = *Cluster<kRanks>::of(&shared->sums, r);
      all.exponentials += other.exponentials;
      all.weights += other.weights;
    }
    return all;
  }
};

}  // namespace leanedge::cuda::sample
