// Drawing tokens on a device: the rules of engine/src/sampler.h, one launch for all rows of a step, so
// that logits never leave the device. What comes back is 16 bytes a row.
#pragma once

#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>

#include "leanedge/sequence.h"
#include "leanedge/status.h"

namespace leanedge::cuda {

inline constexpr int32_t kSampleRowsMax = 256;
inline constexpr int32_t kSampleVocabMax = 1 << 18;
inline constexpr int32_t kSampleRecentMax = 4096;  // repetition_window's largest

// How one row is drawn. Ranges as sampling_check has them (engine/src/sampler.h).
struct SampleRow {
  uint64_t seed;
  float temperature;         // 0: greedy, ties to the lowest id
  float top_p;
  float min_p;
  float repetition_penalty;  // 1: recent ids are not looked at
  int32_t top_k;
  int32_t position;          // of the token that is drawn; -1: padding, nothing is written
  int32_t logits_row;        // row of the logits to draw from
  int32_t recent_begin;      // the log's last ids, at most repetition_window of them:
  int32_t recent_count;      // recent[recent_begin .. recent_begin + recent_count)
  int32_t reserved;          // 0
};
static_assert(sizeof(SampleRow) == 48, "written by the host, read by kernels");

struct SampleOut {
  int32_t token;    // -1 with kNotFinite
  float logprob;    // natural log of the model's own probability: before penalty and temperature
  int32_t status;   // Status: kOk, or kNotFinite where a logit is NaN or infinite
  int32_t reserved; // 0
};
static_assert(sizeof(SampleOut) == 16, "read by the host");

struct Sampling {
  const float* logits;    // (logit rows, logits_stride)
  const SampleRow* rows;  // (row_count) in device memory
  const int32_t* recent;  // ids, each in [0, vocab_size), in device memory; null where no row has any
  SampleOut* out;         // (row_count) in device memory
  int32_t* tokens;        // (row_count) the tokens once more, as the next pass's embedding reads
                          // them; not written with kNotFinite; null: not wanted
  size_t logits_stride;   // floats from one row to the next
  int32_t vocab_size;     // 1 .. kSampleVocabMax
  int32_t row_count;      // 1 .. kSampleRowsMax; fixed in a captured graph
};

// A row of `params` that draws the token at `position`.
constexpr SampleRow sample_row(const SamplingParams& params, int32_t position, int32_t logits_row,
                               int32_t recent_begin, int32_t recent_count) {
  return {params.seed,  params.temperature,        params.top_p, params.min_p,
          params.repetition_penalty, params.top_k, position,     logits_row,
          recent_begin, recent_count,              0};
}

// Draws a token for every row. The token is the one that sample() of engine/src/sampler.h draws, but
// where a border falls between two tokens' sums closer than the error of both: sums are exact in
// units of 2^-44 of the greatest weight, a weight is within 2^-20 (relative) of its real value, and
// tokens below 2^-45 of the most likely one are never drawn. The same arguments give the same bits.
cudaError_t sampling_launch(const Sampling& call, cudaStream_t stream);

}  // namespace leanedge::cuda
