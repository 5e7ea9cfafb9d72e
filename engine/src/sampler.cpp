#include "sampler.h"

#include "error.h"
#include "numeric.h"
#include "philox.h"

namespace leanedge {
namespace {

// A more likely token comes first; of equals the lower id.
bool comes_before(const Candidate& a, const Candidate& b) {
  return a.score > b.score || (a.score == b.score && a.token < b.token);
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
    c.score =
        c.score > 0 ? c.score / params.repetition_penalty : c.score * params.repetition_penalty;
  }
  for (int32_t i = 0; i < count; ++i) {
    Candidate& c = candidates[recent[i]];
    if (c.token < 0) c.token = ~c.token;
  }
}

constexpr int32_t kSumBlock = 64;

double sum_block(const float* weights) {
  float lanes[8] = {};
  for (int32_t i = 0; i < kSumBlock; i += 8) {
    for (int32_t j = 0; j < 8; ++j) lanes[j] += weights[i + j];
  }
  return static_cast<double>(((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) +
                             ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7])));
}

// log of the sum of exp(logits), and whether all are finite.
bool log_sum_exp(const float* logits, int32_t count, double* out) {
  // A sum of differences is not finite if one of them is not, and says so without a branch each.
  float max = logits[0];
  float zero = 0;
  for (int32_t i = 0; i < count; ++i) {
    zero += logits[i] - logits[i];
    max = logits[i] > max ? logits[i] : max;
  }
  if (zero != 0) return false;
  // Blocks of float sums: few enough terms each for 2^-21, and compilers take several at a time.
  double sum = 0;
  for (int32_t begin = 0; begin < count; begin += kSumBlock) {
    const int32_t end = begin + kSumBlock < count ? begin + kSumBlock : count;
    float weights[kSumBlock] = {};
    for (int32_t i = begin; i < end; ++i) weights[i - begin] = exp_weight(logits[i] - max);
    sum += sum_block(weights);
  }
  *out = static_cast<double>(max) + log_f64(sum);
  return true;
}

// Turns logits into weights e^((logit - greatest) / temperature), the greatest of which is 1;
// returns their sum.
double weigh(Candidate* candidates, int32_t count, float temperature) {
  float max = candidates[0].score;
  for (int32_t i = 1; i < count; ++i) {
    if (candidates[i].score > max) max = candidates[i].score;
  }
  double sum = 0;
  for (int32_t begin = 0; begin < count; begin += kSumBlock) {
    const int32_t end = begin + kSumBlock < count ? begin + kSumBlock : count;
    float weights[kSumBlock] = {};
    for (int32_t i = begin; i < end; ++i) {
      weights[i - begin] = (candidates[i].score - max) / temperature;
    }
    for (float& weight : weights) weight = exp_weight(weight);
    for (int32_t i = end; i < begin + kSumBlock; ++i) weights[i - begin] = 0;
    for (int32_t i = begin; i < end; ++i) candidates[i].score = weights[i - begin];
    sum += sum_block(weights);
  }
  return sum;
}

// Keeps candidates of at least `least`, in order; returns how many.
int32_t keep_above(Candidate* candidates, int32_t count, double least) {
  int32_t kept = 0;
  for (int32_t i = 0; i < count; ++i) {
    if (static_cast<double>(candidates[i].score) >= least) candidates[kept++] = candidates[i];
  }
  return kept;
}

// Moves the candidates that the filters keep to the front, in any order; returns how many.
int32_t filter(Candidate* candidates, int32_t count, const SamplingParams& params, double total) {
  const bool all_of_p = params.top_p >= 1.0f;
  const double top_p = all_of_p ? 2.0 : static_cast<double>(params.top_p);
  // Tokens below (1 - top_p) / count add up to less than 1 - top_p: top_p is reached without them.
  const double tail = all_of_p ? 0 : (1 - top_p) * total / count;
  const double min_p = static_cast<double>(params.min_p);
  const int32_t rest = keep_above(candidates, count, tail > min_p ? tail : min_p);
  if (params.top_k == 0 && all_of_p) return rest;
  // Take the most likely one out of a heap until a rule says stop: they collect at the array's end.
  make_heap(candidates, rest);
  const int32_t top_k = params.top_k == 0 || params.top_k > rest ? rest : params.top_k;
  double sum = 0;
  int32_t kept = 0;
  while (kept < top_k && sum < top_p * total) {
    const Candidate next = candidates[0];
    const int32_t left = rest - ++kept;
    candidates[0] = candidates[left];
    sift_down(candidates, left, 0);
    candidates[left] = next;
    sum += static_cast<double>(next.score);
  }
  for (int32_t i = 0; i < kept; ++i) candidates[i] = candidates[rest - kept + i];
  return kept;
}

// Draws among candidates whose logits are final. Consumes the array.
int32_t draw(Candidate* candidates, int32_t count, const SamplingParams& params, int32_t position) {
  const double total = weigh(candidates, count, params.temperature);
  const int32_t kept = filter(candidates, count, params, total);
  double all = 0;
  for (int32_t i = 0; i < kept; ++i) all += static_cast<double>(candidates[i].score);
  const double noise = philox_uniform(params.seed, position) * all;
  double sum = 0;
  for (int32_t i = 0; i < kept; ++i) {
    sum += static_cast<double>(candidates[i].score);
    if (noise < sum) return candidates[i].token;
  }
  return candidates[0].token;  // unreachable but for rounding: noise < all
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
      if (candidates[i].score > candidates[token].score) token = i;
    }
  } else {
    token = draw(candidates, count, params, position);
  }
  const double logprob = static_cast<double>(logits[token]) - normaliser;
  return {Status::kOk, token, static_cast<float>(logprob)};
}

}  // namespace leanedge
