// How scores become weights and places in the order. A token's place is a 50-bit key: its distance from the greatest
// score in units of 2^-27 nats, then its id; or the id alone where no filter orders.
#pragma once

#include <math.h>
#include <stdint.h>

#include "leanedge_cuda/sampling.h"

namespace leanedge::cuda::sample {

inline constexpr int kIdBits = 18;
inline constexpr int kKeyBits = 32 + kIdBits;
static_assert(kSampleVocabMax == 1 << kIdBits);
inline constexpr float kDistanceMax = 32;             // nats: beyond, weights are 0 in units of 2^-44
inline constexpr float kDistanceUnits = 0x1p27f;      // a nat; 32 of them fill 32 bits
inline constexpr float kWeightUnits = 0x1p44f;

struct Rule {
  float greatest;
  float temperature;
  float min_p;
  float inverse;  // of the temperature
  bool by_id;  // no filter needs an order: ids are the order, as in the scalar sampler

  __device__ __forceinline__ float distance(float score) const {
    return (greatest - score) / temperature;
  }
  __device__ __forceinline__ uint64_t weight(float exponential) const {
    return static_cast<uint64_t>(exponential * kWeightUnits + 0.5f);
  }
  __device__ __forceinline__ uint64_t key(float distance, int32_t token) const {
    const uint64_t place = by_id ? 0 : static_cast<uint64_t>(distance * kDistanceUnits);
    return place << kIdBits | static_cast<uint32_t>(token);
  }
  // The distances of keys that begin with `key`, with room for the error of distance_near.
  __device__ __forceinline__ float2 range(uint64_t key, int shift) const {
    const int up = shift > kIdBits ? shift - kIdBits : 0;
    const uint64_t low = (shift < kIdBits ? key >> (kIdBits - shift) : key << up);
    const float from = static_cast<float>(low) / kDistanceUnits;
    const float to = static_cast<float>(low + (uint64_t{1} << up)) / kDistanceUnits;
    return make_float2(from - to * 0x1p-20f - 0x1p-24f, to + to * 0x1p-20f + 0x1p-24f);
  }
  // Whether a token's key may begin with `key`: costs no division.
  __device__ __forceinline__ bool may_begin(float score, int32_t token, uint64_t key, int shift,
                                            float2 range) const {
    if (by_id) return static_cast<uint64_t>(token) >> shift == key;
    const float distance_near = (greatest - score) * inverse;
    return !(distance_near < range.x) && !(distance_near > range.y);  // NaN: look closer
  }
  // Whether a token can be drawn at all, and its weight and key.
  __device__ __forceinline__ bool candidate(float score, int32_t token, uint64_t* weight_out,
                                            uint64_t* key_out) const {
    const float d = distance(score);
    if (!(d < kDistanceMax)) return false;
    const float exponential = expf(-d);
    *weight_out = weight(exponential);
    *key_out = key(d, token);
    return exponential >= min_p && *weight_out > 0;
  }
};

}  // namespace leanedge::cuda::sample
