#include "sampler.h"

#include "error.h"
#include "numeric.h"
#include "philox.h"

namespace leanedge {
namespace {

// A more likely token comes first; of equals the lower id.
bool comes_before(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
}

// Restores the heap (first of the order at the root) below `root`.
void sift_down(Candidate* heap, int32_t count, int32_t root) {
  const Candidate moved = heap[root];
  for (;;) {
    int32_t child = 2 * root + 1;
    if (child >= count) break;
    if (child + 1 < count && comes_before(heap[child + 1], heap[child])) ++child;
    if (!comes_before(heap[child], moved)) break;
    heap[root] = heap[child];
    root = child;
  }
  heap[root] = moved;
}

void make_heap(Candidate* heap, int32_t count) {
  for (int32_t i = count / 2 - 1; i >= 0; --i) sift_down(heap, count, i);
}

// Penalises every id of `recent` once: a penalised candidate's token is marked by its complement
// until all are done, so that repeated ids need no set.
void penalise(Candidate* candidates, const SamplingParams& params, const int32_t* recent,
              int32_t count) {
  if (params.repetition_penalty == 1.0f) return;
  for (int32_t i = 0; i < count; ++i) {
    Candidate& c = candidates[recent[i]];
    if (c.token < 0) continue;
    c.token = ~c.token;
    c.logit =
        c.logit > 0 ? c.logit / params.repetition_penalty : c.logit * params.repetition_penalty;
  }
  for (int32_t i = 0; i < count; ++i) {
    Candidate& c = candidates[recent[i]];
    if (c.token < 0) c.token = ~c.token;
  }
}

// log of the sum of exp(logits), and whether all are finite.
bool log_sum_exp(const float* logits, int32_t count, double* out) {
  float max = logits[0];
  for (int32_t i = 0; i < count; ++i) {
    if (!f32_finite(logits[i])) return false;
    if (logits[i] > max) max = logits[i];
  }
  double sum = 0;
  for (int32_t i = 0; i < count; ++i) {
    sum += exp_f64(static_cast<double>(logits[i]) - static_cast<double>(max));
  }
  *out = static_cast<double>(max) + log_f64(sum);
  return true;
}

// Draws among candidates whose logits are final. Consumes the array.
int32_t draw(Candidate* candidates, int32_t count, const SamplingParams& params, int32_t position) {
  make_heap(candidates, count);
  const double temperature = static_cast<double>(params.temperature);
  const double max = static_cast<double>(candidates[0].logit);
  double total = 0;  // weights are e^((logit - max) / temperature); the greatest is 1
  for (int32_t i = 0; i < count; ++i) {
    total += exp_f64((static_cast<double>(candidates[i].logit) - max) / temperature);
  }
  // Popped candidates collect at the array's end, the most likely one last.
  const int32_t top_k = params.top_k == 0 || params.top_k > count ? count : params.top_k;
  const double top_p = params.top_p >= 1.0f ? 2.0 : static_cast<double>(params.top_p);
  double kept = 0;
  int32_t left = count;
  while (count - left < top_k && kept < top_p * total) {
    const double weight = exp_f64((static_cast<double>(candidates[0].logit) - max) / temperature);
    if (weight < static_cast<double>(params.min_p)) break;
    const Candidate popped = candidates[0];
    candidates[0] = candidates[--left];
    sift_down(candidates, left, 0);
    candidates[left] = popped;
    kept += weight;
    if (left == 0) break;
  }
  const double noise = philox_uniform(params.seed, position) * kept;
  double sum = 0;
  for (int32_t i = count - 1; i >= left; --i) {
    sum += exp_f64((static_cast<double>(candidates[i].logit) - max) / temperature);
    if (noise < sum) return candidates[i].token;
  }
  return candidates[left].token;  // rounding left a crumb at the end
}

}  // namespace

SamplingParams sampling_default() { return {0.0f, 0, 1.0f, 0.0f, 1.0f, 64, 0}; }

Status sampling_check(const SamplingParams& p, ErrorDetail* detail) {
  struct Rule {
    const char* format;  // '#': the value in millionths
    float value;
    bool good;
  };
  const Rule rules[] = {
      {"temperature is # millionths, not in [0, 2]", p.temperature,
       p.temperature >= 0 && p.temperature <= 2},
      {"top_p is # millionths, not in (0, 1]", p.top_p, p.top_p > 0 && p.top_p <= 1},
      {"min_p is # millionths, not in [0, 1]", p.min_p, p.min_p >= 0 && p.min_p <= 1},
      {"repetition_penalty is # millionths, not in (0, 2]", p.repetition_penalty,
       p.repetition_penalty > 0 && p.repetition_penalty <= 2},
  };
  for (const Rule& rule : rules) {
    if (rule.good) continue;
    const bool shown = rule.value > -1e12f && rule.value < 1e12f;
    const int64_t value = shown ? static_cast<int64_t>(rule.value * 1e6f) : -1;
    return error_set(detail, Status::kInvalidArgument, value, 0, rule.format, {value});
  }
  if (p.top_k < 0 || p.top_k > kTopKMax) {
    return error_set(detail, Status::kInvalidArgument, p.top_k, kTopKMax,
                     "top_k is #, not in 0 .. #", {p.top_k, kTopKMax});
  }
  if (p.repetition_window < 1 || p.repetition_window > kRepetitionWindowMax) {
    return error_set(detail, Status::kInvalidArgument, p.repetition_window, kRepetitionWindowMax,
                     "repetition_window is #, not in 1 .. #",
                     {p.repetition_window, kRepetitionWindowMax});
  }
  return Status::kOk;
}

uint64_t sampler_bytes(int32_t vocab_size) {
  return static_cast<uint64_t>(vocab_size) * sizeof(Candidate);
}

SampleResult sample(Sampler* sampler, const SamplingParams& params, const float* logits,
                    const int32_t* recent, int32_t recent_count, int32_t position) {
  const int32_t count = sampler->vocab_size;
  double normaliser = 0;
  if (!log_sum_exp(logits, count, &normaliser)) return {Status::kNotFinite, -1, 0};
  Candidate* candidates = sampler->candidates;
  for (int32_t i = 0; i < count; ++i) candidates[i] = {logits[i], i};
  penalise(candidates, params, recent, recent_count);
  int32_t token = 0;
  if (params.temperature == 0) {
    for (int32_t i = 1; i < count; ++i) {
      if (candidates[i].logit > candidates[token].logit) token = i;
    }
  } else {
    token = draw(candidates, count, params, position);
  }
  const double logprob = static_cast<double>(logits[token]) - normaliser;
  return {Status::kOk, token, static_cast<float>(logprob)};
}

}  // namespace leanedge
