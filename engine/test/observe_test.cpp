// Observed sums: the same bits however the prompt is read, and their memory given back.
#include <string.h>

#include <initializer_list>

#include "plan_matrix.h"
#include "random.h"
#include "shadow.h"
#include "tiny_model.h"

using namespace leanedge;
using leanedge::test::Random;

namespace {

constexpr int32_t kVocab = 61;
constexpr int32_t kRows = 70;
constexpr int32_t kValues = (4 + 2) * 32;  // of a layer

ModelConfig config_of() {
  ModelConfig config = test::tiny_config(Architecture::kQwen3);
  config.head_dim = 32;
  config.rope_dim = 32;
  return config;
}

uint64_t bytes_free() {
  EngineStats stats = {};
  CHECK_EQ(le_engine_stats(&stats), 0);
  return stats.cache_bytes_free;
}

// Reads a prompt under a plan in steps of `work`, beside another sequence; copies both layers' sums.
void observe(int32_t plan, int32_t work, double* sums) {
  Random random = {6};
  int32_t ids[kRows];
  for (int32_t& id : ids) id = random.below(kVocab);
  const uint64_t before = bytes_free();
  const int32_t sequence = le_sequence_create(plan);
  const int32_t other = le_sequence_create(0);
  CHECK_EQ(le_sequence_append(sequence, 1, ids, kRows), 0);
  CHECK_EQ(le_sequence_append(other, 1, ids, 30), 0);
  CHECK_EQ(le_observe(sequence, kRows - 32), 0);
  for (int32_t pending = kRows; pending > 0;) {
    const StepEntry entries[2] = {{sequence, work, 0, 0}, {other, 20, 1, 0}};
    StepResult results[2] = {};
    CHECK_EQ(le_step(entries, 2, results), 0);
    CHECK_EQ(results[0].status, 0);
    if (results[0].status != 0) break;
    pending = results[0].rows_pending;
  }
  for (int32_t layer = 0; layer < 2; ++layer)
    CHECK_EQ(le_observed(layer, sums + layer * kValues), 0);
  CHECK_EQ(le_sequence_free(sequence), 0);
  CHECK_EQ(le_sequence_free(other), 0);
  CHECK_EQ(le_observed(0, sums), static_cast<int32_t>(Status::kWrongState));
  CHECK_EQ(bytes_free(), before);
}

}  // namespace

TEST(observed_sums_do_not_depend_on_how_a_prompt_is_read) {
  const test::PlanMatrix matrix(2, 4, 8);
  test::TinyOptions options;
  options.plans = matrix.plans;
  options.plan_count = test::kMatrixPlans;
  double first[2 * kValues];
  double sums[2 * kValues];
  bool has_first = false;
  for (const int32_t batch : {5, 64}) {
    options.batch_rows_max = batch;
    CHECK_EQ(test::tiny_start(test::tiny_model(config_of(), Dtype::kF16, 2), options), 0);
    for (const int32_t plan : {0, 1, 3, 5}) {
      for (const int32_t work : {7, 1000}) {
        observe(plan, work, has_first ? sums : first);
        if (has_first) CHECK(memcmp(first, sums, sizeof(sums)) == 0);
        has_first = true;
      }
    }
  }
  for (int32_t i = 0; i < 2 * kValues; ++i) CHECK(first[i] > 0);
}

TEST(observing_is_refused_where_it_cannot_be) {
  test::TinyOptions options;
  CHECK_EQ(test::tiny_start(test::tiny_model(config_of(), Dtype::kF16, 2), options), 0);
  const int32_t invalid = static_cast<int32_t>(Status::kInvalidArgument);
  CHECK_EQ(le_observe(0, 0), invalid);
  CHECK_EQ(le_observe(-1, 0), 0);
  const int32_t sequence = le_sequence_create(0);
  CHECK_EQ(le_observe(sequence, -1), invalid);
  CHECK_EQ(le_observe(sequence, 257), invalid);
  const uint64_t before = bytes_free();
  CHECK_EQ(le_observe(sequence, 0), 0);
  CHECK_EQ(before - bytes_free(), uint64_t{2 * kValues * 8});
  double sums[kValues];
  CHECK_EQ(le_observed(2, sums), invalid);
  CHECK_EQ(le_observed(0, nullptr), static_cast<int32_t>(Status::kWrongState));
  // Another one takes its place.
  CHECK_EQ(le_observe(sequence, 5), 0);
  CHECK_EQ(before - bytes_free(), uint64_t{2 * kValues * 8});
  CHECK_EQ(le_observe(-1, 0), 0);
  CHECK_EQ(bytes_free(), before);
}
