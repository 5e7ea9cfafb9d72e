// The part of a row's vocabulary that a thread block looks after, and how its threads go through it.
#pragma once

#include <stdint.h>

namespace leanedge::cuda::sample {

inline constexpr int kThreads = 512;
inline constexpr int kWarps = kThreads / 32;

// The part of the vocabulary that a block looks after.
struct Slice {
  const float* logits;
  float* scores;              // (count) in shared memory, once find_greatest was there; or null
  const uint32_t* penalised;  // null: none is
  float penalty;
  int32_t begin;
  int32_t count;

  __device__ __forceinline__ bool is_penalised(int32_t i) const {
    return penalised && (penalised[i / 32] >> i % 32 & 1);
  }
  __device__ __forceinline__ float penalise(int32_t i, float logit) const {
    if (!is_penalised(i)) return logit;
    return logit > 0 ? logit / penalty : logit * penalty;
  }
  __device__ __forceinline__ float score(int32_t i) const {
    return scores ? scores[i] : penalise(i, logits[i]);
  }
};

// Calls use(i, value(i)) for every i below `count` that is this thread's; values are read kBatch at a
// time, so that their latencies overlap.
template <int kBatch, typename Value, typename Use>
__device__ __forceinline__ void each(int32_t count, Value value, Use use) {
  for (int32_t first = static_cast<int32_t>(threadIdx.x); first < count;
       first += kBatch * kThreads) {
    float values[kBatch];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int32_t i = first + j * kThreads;
      values[j] = i < count ? value(i) : 0.0f;
    }
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int32_t i = first + j * kThreads;
      if (i < count) use(i, values[j]);
    }
  }
}

}  // namespace leanedge::cuda::sample
