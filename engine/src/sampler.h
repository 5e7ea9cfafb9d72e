// Draws a token from the logits of one row.
#pragma once

#include "arena.h"
#include "leanedge/sequence.h"
#include "leanedge/status.h"

namespace leanedge {

inline constexpr int32_t kTopKMax = 1000;
inline constexpr int32_t kRepetitionWindowMax = 4096;

// A token and its logit, or, once drawing has begun, its probability next to the greatest one's.
struct Candidate {
  float score;
  int32_t token;
};

// Scratch of the sampler, for one vocabulary.
struct Sampler {
  Candidate* candidates;  // (vocab_size)
  int32_t vocab_size;
};

struct SampleResult {
  Status status;  // kOk or kNotFinite
  int32_t token;
  float logprob;  // natural log of the model's own probability: before penalty and temperature
};

// Greedy, no penalty.
SamplingParams sampling_default();
// Ranges of leanedge.v1.SamplingParams; kInvalidArgument otherwise.
Status sampling_check(const SamplingParams& params, ErrorDetail* detail);
// Bytes of the scratch.
uint64_t sampler_bytes(int32_t vocab_size);

// Draws the token that follows `position` tokens: repetition penalty, temperature, then top_k,
// top_p and min_p, then one draw with the noise of (seed, position).
//
// With p the probabilities after temperature and tokens ordered by falling p (ties: the lower id
// first), a token stays if its rank is below top_k, the sum of p before it is below top_p, and its
// p is at least min_p times the greatest. The rules do not see each other's effect.
//   logits (vocab_size)
//   recent (recent_count) the log's last ids, at most repetition_window of them
SampleResult sample(Sampler* sampler, const SamplingParams& params, const float* logits,
                    const int32_t* recent, int32_t recent_count, int32_t position);

}  // namespace leanedge
