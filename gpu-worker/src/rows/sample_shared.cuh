// Shared memory of a block that draws. The blocks of a cluster read each other's.
#pragma once

#include <stdint.h>

#include "sample_histogram.cuh"
#include "sample_sums.cuh"

namespace leanedge::cuda::sample {

// Where a search stands: the digit that holds the crossing, and what lies before it.
struct Found {
  uint64_t sum_before;
  uint64_t sum;        // of the digit
  uint64_t sum_all;    // of all digits that were searched
  uint32_t count_before;
  uint32_t count;
  int32_t digit;       // -1: the limits are not reached
};

template <int kRanks>
struct Shared {
  Histogram histogram;
  Totals<kRanks> totals[2];  // of the first digit, and of the digit at hand
  Greatest greatest;
  Sums sums;
  Found found;
  Greatest warp_greatest[kWarps];
  Sums warp_sums[kWarps];
  uint64_t scan_sum[kWarps];
  uint32_t scan_count[kWarps];
  uint32_t penalised[1];  // a bit a token of the slice: its real length is the launch's
};

}  // namespace leanedge::cuda::sample
