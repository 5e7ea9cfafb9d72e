// Prompts under a plan that prunes: what their rows see, what they take, and giving up half-way.
#include <initializer_list>

#include "random.h"
#include "shadow.h"
#include "tiny_model.h"
#include "tiny_plan.h"

using namespace leanedge;
using leanedge::test::Random;
using leanedge::test::Shadow;

namespace {

constexpr int32_t kVocab = 61;

ModelConfig config_of() {
  ModelConfig config = test::tiny_config(Architecture::kQwen2);
  config.head_dim = 32;
  config.rope_dim = 32;
  return config;
}

void start() {
  const uint32_t widths[4] = {16, 16, 0, 32};
  CachePlan* plan = test::tiny_plan(2, 2, 32, 4, 8, widths, PageStorage::kInt4, PageStorage::kInt4);
  test::TinyOptions options;
  options.plan = plan;
  CHECK_EQ(test::tiny_start(test::tiny_model(config_of(), Dtype::kF16, 21), options), 0);
  free(plan);
}

// Two prompts with a generated run between them.
Shadow make(int32_t first, int32_t generated, int32_t second) {
  Random random = {31};
  int32_t ids[250];
  for (int32_t& id : ids) id = random.below(kVocab);
  Shadow shadow = {};
  shadow.sampling = {0, 0, 1, 0, 1, 64, 0};
  shadow.append(1, ids, first);
  if (generated) shadow.append(2, ids + first, generated);
  if (second) shadow.append(1, ids + first + generated, second);
  return shadow;
}

}  // namespace

// Without an archive before it a prompt sees itself densely, however long it is: no bit of its last
// row's logits differs from the identity plan's. Behind it the archive is pruned.
TEST(a_prompt_sees_its_own_rows_densely) {
  start();
  float identity[kVocab];
  float pruned[kVocab];
  const Shadow alone = make(150, 0, 0);
  CHECK_EQ(test::replay(alone, 0, kVocab, identity).status, 0);
  CHECK_EQ(test::replay(alone, 1, kVocab, pruned).status, 0);
  CHECK(test::same_bits(identity, pruned, kVocab));
  for (const Shadow& behind : {make(150, 3, 0), make(150, 0, 5)}) {
    CHECK_EQ(test::replay(behind, 0, kVocab, identity).status, 0);
    CHECK_EQ(test::replay(behind, 1, kVocab, pruned).status, 0);
    CHECK(!test::same_bits(identity, pruned, kVocab));
  }
  // On the border no page has left, one token on the first has.
  for (const int32_t tokens : {4 + 8 + 31, 4 + 8 + 32, 4 + 8 + 33}) {
    const Shadow border = make(tokens, 1, 0);
    CHECK_EQ(test::replay(border, 0, kVocab, identity).status, 0);
    CHECK_EQ(test::replay(border, 1, kVocab, pruned).status, 0);
    CHECK_EQ(test::same_bits(identity, pruned, kVocab), tokens < 4 + 8 + 32 ? 1 : 0);
  }
}

TEST(a_prompt_takes_what_the_formula_says_and_gives_it_back) {
  start();
  EngineStats before = {};
  CHECK_EQ(le_engine_stats(&before), 0);
  const Shadow shadow = make(100, 10, 90);
  const int32_t sequence = le_sequence_create(1);
  test::replay_log(shadow, sequence);
  const uint64_t region = le_plan_sequence_bytes(1, 1);
  const uint64_t dim = 32;
  const uint64_t kv_dim = 64;
  uint64_t peak = 0;
  int32_t work = 0;
  for (int32_t pending = 200; pending > 0;) {
    const StepEntry entry = {sequence, 7, 0, 0};
    StepResult result = {};
    CHECK_EQ(le_step(&entry, 1, &result), 0);
    CHECK_EQ(result.status, 0);
    CHECK(result.work_done <= 7);
    work += result.work_done;
    pending = result.rows_pending;
    CHECK(pending == 200 || pending == 0 || pending == 90 || (pending > 90 && pending <= 100));
    EngineStats now = {};
    SequenceStats stats = {};
    CHECK_EQ(le_engine_stats(&now), 0);
    CHECK_EQ(le_sequence_stats(sequence, &stats), 0);
    CHECK_EQ(before.cache_bytes_free - now.cache_bytes_free, stats.cache_bytes);
    if (stats.cache_bytes > peak) peak = stats.cache_bytes;
  }
  CHECK_EQ(work, 200 * 2);
  CHECK_EQ(peak, le_plan_sequence_bytes(1, 200) + region + 90 * (4 * dim + 4 * kv_dim));
  SequenceStats stats = {};
  CHECK_EQ(le_sequence_stats(sequence, &stats), 0);
  CHECK_EQ(stats.cache_bytes, le_plan_sequence_bytes(1, 200));
  CHECK_EQ(le_sequence_free(sequence), 0);
  EngineStats after = {};
  CHECK_EQ(le_engine_stats(&after), 0);
  CHECK_EQ(after.cache_bytes_free, before.cache_bytes_free);
}

// A prompt that is given up leaves the cache as it was; other sequences go on between its layers.
TEST(a_prompt_that_is_given_up_leaves_no_trace) {
  start();
  const Shadow shadow = make(80, 20, 60);
  for (const int32_t work : {1, 59, 60, 61, 100, 119}) {
    const int32_t sequence = le_sequence_create(1);
    CHECK_EQ(le_sequence_sampling(sequence, &shadow.sampling), 0);
    test::replay_log(shadow, sequence);
    CHECK_EQ(le_sequence_truncate(sequence, 100), 0);
    StepResult results[2] = {};
    const StepEntry all = {sequence, 1000, 0, 0};
    CHECK_EQ(le_step(&all, 1, results), 0);
    SequenceStats before = {};
    CHECK_EQ(le_sequence_stats(sequence, &before), 0);
    CHECK_EQ(before.computed, 100);
    CHECK_EQ(le_sequence_append(sequence, 1, shadow.ids + 100, 60), 0);
    const int32_t other = le_sequence_create(0);
    CHECK_EQ(le_sequence_append(other, 1, shadow.ids, 30), 0);
    const StepEntry both[2] = {{sequence, work, 1, 0}, {other, 100, 1, 0}};
    CHECK_EQ(le_step(both, 2, results), 0);
    CHECK_EQ(results[0].work_done, work);
    CHECK_EQ(results[0].rows_pending, 60);
    CHECK_EQ(results[0].token, -1);
    CHECK(results[1].token >= 0);
    // A fork in the middle has the rows that are computed.
    const int32_t fork = le_sequence_fork(sequence, 160);
    SequenceStats forked = {};
    CHECK_EQ(le_sequence_stats(fork, &forked), 0);
    CHECK_EQ(forked.computed, 100);
    CHECK_EQ(forked.cache_bytes, before.cache_bytes);
    CHECK_EQ(le_sequence_free(fork), 0);

    CHECK_EQ(le_sequence_truncate(sequence, 100), 0);
    SequenceStats after = {};
    CHECK_EQ(le_sequence_stats(sequence, &after), 0);
    CHECK_EQ(after.computed, 100);
    CHECK_EQ(after.cache_bytes, before.cache_bytes);
    CHECK_EQ(le_sequence_append(sequence, 1, shadow.ids + 100, 60), 0);
    float logits[kVocab];
    const StepResult fresh = test::replay(shadow, 1, kVocab, logits);
    const StepEntry rest = {sequence, 1000, 1, 0};
    CHECK_EQ(le_step(&rest, 1, results), 0);
    CHECK_EQ(results[0].token, fresh.token);
    CHECK(test::same_bits(le_logits(sequence), logits, kVocab));
    CHECK_EQ(le_sequence_free(sequence), 0);
    CHECK_EQ(le_sequence_free(other), 0);
  }
}

TEST(a_prompt_that_never_fits_is_told_so) {
  const uint32_t widths[4] = {16, 16, 0, 32};
  CachePlan* plan = test::tiny_plan(2, 2, 32, 4, 8, widths, PageStorage::kInt4, PageStorage::kInt4);
  const test::TinyModel model = test::tiny_model(config_of(), Dtype::kF16, 21);
  test::TinyOptions options;
  options.plan = plan;
  int32_t started = -1;
  for (options.memory_bytes_max = 300 * 1024; started != 0; options.memory_bytes_max += 1024) {
    started = test::tiny_start(model, options);
  }
  const Shadow shadow = make(250, 0, 0);
  const int32_t sequence = le_sequence_create(1);
  test::replay_log(shadow, sequence);
  const StepEntry entry = {sequence, 1000, 1, 0};
  StepResult result = {};
  CHECK_EQ(le_step(&entry, 1, &result), 0);
  CHECK_EQ(result.status, static_cast<int32_t>(Status::kOutOfMemory));
  CHECK_EQ(result.work_done, 0);
  SequenceStats stats = {};
  CHECK_EQ(le_sequence_stats(sequence, &stats), 0);
  CHECK_EQ(stats.cache_bytes, uint64_t{0});
  free(plan);
}
