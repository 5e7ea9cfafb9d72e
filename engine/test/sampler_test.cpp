// Drawing tokens: filters, penalty, ties, statistics, bad logits.
#include "../src/sampler.h"

#include <math.h>

#include "check.h"
#include "random.h"

using namespace leanedge;

namespace {

constexpr int32_t kVocab = 40;

struct Bench {
  Candidate candidates[kVocab];
  Sampler sampler = {candidates, kVocab};
  float logits[kVocab];

  SampleResult draw(const SamplingParams& params, int32_t position, const int32_t* recent = nullptr,
                    int32_t count = 0) {
    return sample(&sampler, params, logits, recent, count, position);
  }
};

SamplingParams plain(float temperature) { return {temperature, 0, 1, 0, 1, 64, 42}; }

}  // namespace

TEST(sampling_greedy_takes_the_lowest_of_equals) {
  Bench b;
  for (float& x : b.logits) x = -1;
  b.logits[7] = b.logits[31] = 2;
  CHECK_EQ(b.draw(plain(0), 0).token, 7);
  double sum = 0;
  for (const float x : b.logits) sum += exp(static_cast<double>(x));
  CHECK_NEAR(b.draw(plain(0), 0).logprob, 2 - log(sum), 1e-6);
}

TEST(sampling_follows_the_probabilities) {
  Bench b;
  test::Random random = {3};
  for (float& x : b.logits) x = 2 * random.uniform();
  const SamplingParams params = plain(0.7f);
  double p[kVocab];
  double sum = 0;
  for (int32_t i = 0; i < kVocab; ++i)
    sum += p[i] = exp(static_cast<double>(b.logits[i]) / static_cast<double>(0.7f));
  const int32_t draws = 40000;
  int32_t counts[kVocab] = {};
  for (int32_t i = 0; i < draws; ++i) ++counts[b.draw(params, i).token];
  double chi2 = 0;
  for (int32_t i = 0; i < kVocab; ++i) {
    const double expected = draws * p[i] / sum;
    chi2 += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  CHECK(chi2 < 72.1);  // 39 degrees of freedom: one in a thousand is above
}

TEST(sampling_filters_keep_what_they_say) {
  Bench b;
  // Probabilities 1/2, 1/4, 1/8, ... in a scattered order, at temperature 1.
  for (int32_t i = 0; i < kVocab; ++i)
    b.logits[(i * 7) % kVocab] = -static_cast<float>(i) * 0.69314718f;
  struct Rule {
    int32_t top_k;
    float top_p;
    float min_p;
    int32_t kept;
  };
  const Rule rules[] = {{3, 1, 0, 3},       {0, 0.5f, 0, 1}, {0, 0.51f, 0, 2},
                        {0, 0.9f, 0, 4},    {0, 1, 0.2f, 3}, {2, 0.9f, 0.01f, 2},
                        {9, 0.9f, 0.2f, 3}, {1, 1, 0, 1},    {0, 0.0001f, 0, 1},
                        {0, 1, 1, 1}};
  for (const Rule& rule : rules) {
    SamplingParams params = plain(1);
    params.top_k = rule.top_k;
    params.top_p = rule.top_p;
    params.min_p = rule.min_p;
    bool seen[kVocab] = {};
    for (int32_t position = 0; position < 2000; ++position)
      seen[b.draw(params, position).token] = true;
    for (int32_t i = 0; i < kVocab; ++i) CHECK_EQ(seen[(i * 7) % kVocab], i < rule.kept);
  }
}

TEST(sampling_penalises_each_recent_token_once) {
  Bench b;
  for (float& x : b.logits) x = -5;
  b.logits[1] = 3;
  b.logits[2] = 2;
  b.logits[3] = -1;
  SamplingParams params = plain(0);
  params.repetition_penalty = 1.4f;
  const int32_t recent[5] = {1, 1, 1, 9, 1};
  // Once: 3 / 1.4 = 2.14 stays first. More often it would not.
  CHECK_EQ(b.draw(params, 0, recent, 5).token, 1);
  params.repetition_penalty = 1.6f;
  CHECK_EQ(b.draw(params, 0, recent, 5).token, 2);
  // Negative logits are multiplied; the probability that is reported is the model's own.
  b.logits[1] = -2;
  b.logits[2] = -1.5f;
  const int32_t both[2] = {2, 3};
  CHECK_EQ(b.draw(params, 0, both, 2).token, 3);
  params.repetition_penalty = 2;
  const SampleResult result = b.draw(params, 0, both, 2);
  double sum = 0;
  for (const float x : b.logits) sum += exp(static_cast<double>(x));
  CHECK_NEAR(result.logprob, static_cast<double>(b.logits[result.token]) - log(sum), 1e-6);
}

TEST(sampling_noise_depends_on_seed_and_position_only) {
  Bench b;
  for (float& x : b.logits) x = 0;
  SamplingParams params = plain(1);
  int32_t changed = 0;
  for (int32_t position = 0; position < 100; ++position) {
    params.seed = 1;
    const int32_t first = b.draw(params, position).token;
    CHECK_EQ(b.draw(params, position).token, first);
    params.seed = uint64_t{1} << 40 | 1;
    changed += b.draw(params, position).token != first;
  }
  CHECK(changed > 80);
}

TEST(sampling_refuses_bad_logits_and_parameters) {
  Bench b;
  for (float& x : b.logits) x = 0;
  const float bad[] = {NAN, INFINITY, -INFINITY};
  for (const float x : bad) {
    b.logits[39] = x;
    CHECK(b.draw(plain(0), 0).status == Status::kNotFinite);
    CHECK(b.draw(plain(1), 0).status == Status::kNotFinite);
  }
  const SamplingParams wrong[] = {
      {-0.1f, 0, 1, 0, 1, 64, 0}, {2.1f, 0, 1, 0, 1, 64, 0},  {NAN, 0, 1, 0, 1, 64, 0},
      {1, -1, 1, 0, 1, 64, 0},    {1, 1001, 1, 0, 1, 64, 0},  {1, 0, 0, 0, 1, 64, 0},
      {1, 0, 1.1f, 0, 1, 64, 0},  {1, 0, 1, -0.1f, 1, 64, 0}, {1, 0, 1, 1.1f, 1, 64, 0},
      {1, 0, 1, 0, 0, 64, 0},     {1, 0, 1, 0, 2.1f, 64, 0},  {1, 0, 1, 0, 1, 0, 0},
      {1, 0, 1, 0, 1, 4097, 0},   {1, 0, NAN, 0, 1, 64, 0},   {INFINITY, 0, 1, 0, 1, 64, 0}};
  for (const SamplingParams& params : wrong) {
    ErrorDetail detail = {};
    CHECK(sampling_check(params, &detail) == Status::kInvalidArgument);
    CHECK(detail.message[0] != 0);
  }
  CHECK(sampling_check(sampling_default(), nullptr) == Status::kOk);
}
