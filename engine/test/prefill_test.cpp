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
  int32_t ids[253];
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
  const Shadow shadow = make(3, 2, 248);
  const int32_t sequence = le_sequence_create(1);
  test::replay_log(shadow, sequence);
  const uint64_t region = le_plan_sequence_bytes(1, 1);
  const uint64_t state_bytes = 4 * 32;
  const uint64_t kv_bytes = 2 * 2 * 64;  // of a row, K and V
  uint64_t peak = 0;
  int32_t work = 0;
  for (int32_t pending = 253; pending > 0;) {
    const StepEntry entry = {sequence, 7, 0, 0};
    StepResult result = {};
    CHECK_EQ(le_step(&entry, 1, &result), 0);
    CHECK_EQ(result.status, 0);
    CHECK(result.work_done <= 7);
    work += result.work_done;
    pending = result.rows_pending;
    CHECK(pending == 253 || pending == 0 || (pending >= 248 && pending <= 250));
    EngineStats now = {};
    SequenceStats stats = {};
    CHECK_EQ(le_engine_stats(&now), 0);
    CHECK_EQ(le_sequence_stats(sequence, &stats), 0);
    CHECK_EQ(before.cache_bytes_free - now.cache_bytes_free, stats.cache_bytes);
    if (stats.cache_bytes > peak) peak = stats.cache_bytes;
  }
  CHECK_EQ(work, 253 * 2);
  // Hidden states of the second prompt, as far as they find no place in the last layer's part of the
  // pages that it adds (a head of 32 channels in int4, and one of none) and of the region, and in the
  // second-last layer's part of those pages but two.
  const uint64_t last_layer_bytes = (16 * 32 + 2 * 64) + (32 * 16 + 2 * 64);
  const uint64_t second_layer_bytes = 2 * ((16 * 16 + 2 * 32) + (32 * 16 + 2 * 64));
  const uint64_t pages = static_cast<uint64_t>(archive_pages(253, 4, 8));
  const uint64_t places = pages * (last_layer_bytes / state_bytes) + region / 2 / state_bytes +
                          (pages - 2) * (second_layer_bytes / state_bytes);
  CHECK(places < 248);
  const uint64_t block = (248 - places) * state_bytes + 248 * kv_bytes;
  CHECK_EQ(peak, le_plan_sequence_bytes(1, 253) + region + (block + 63) / 64 * 64);
  EngineStats most = {};
  CHECK_EQ(le_engine_stats(&most), 0);
  CHECK_EQ(most.cache_bytes_peak, peak);
  SequenceStats stats = {};
  CHECK_EQ(le_sequence_stats(sequence, &stats), 0);
  CHECK_EQ(stats.cache_bytes, le_plan_sequence_bytes(1, 253));
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

// Long segments keep their hidden states packed: the same bits whatever the batch and the step, close
// to what exact states give, and less memory than exact states alone would take.
TEST(a_long_prompt_keeps_its_states_packed) {
  ModelConfig config = test::tiny_config(Architecture::kLlama);
  config.dim = 2080;  // 65 groups
  config.heads = 2;
  config.kv_heads = 1;
  config.head_dim = 32;
  config.rope_dim = 32;
  config.ff_dim = 32;
  config.context_tokens_max = 640;
  constexpr int32_t kRows = 520;  // exact up to 504
  const uint32_t widths[2] = {16, 16};
  CachePlan* plan =
      test::tiny_plan(2, 1, 32, 4, 8, widths, PageStorage::kInt4, PageStorage::kInt4);
  const test::TinyModel model = test::tiny_model(config, Dtype::kQ8_0, 8);
  static Shadow shadow;
  shadow = {};
  shadow.sampling = {0, 0, 1, 0, 1, 64, 0};
  Random random = {12};
  for (int32_t i = 0; i < kRows; ++i) {
    const int32_t id = random.below(kVocab);
    shadow.ids[i] = id;
    shadow.kinds[i] = 1;
    shadow.starts[i] = i == 0;
  }
  shadow.tokens = kRows;
  float logits[2][kVocab];
  float identity[kVocab];
  for (const int32_t batch : {16, 50}) {
    test::TinyOptions options;
    options.plan = plan;
    options.batch_rows_max = batch;
    options.memory_bytes_max = 64 * 1024 * 1024;
    CHECK_EQ(test::tiny_start(model, options), 0);
    const int32_t sequence = le_sequence_create(1);
    CHECK_EQ(le_sequence_sampling(sequence, &shadow.sampling), 0);
    test::replay_log(shadow, sequence);
    float* out = logits[batch == 50];
    for (int32_t pending = kRows; pending > 0;) {
      const StepEntry entry = {sequence, batch == 50 ? 333 : 10000, 1, 0};
      StepResult result = {};
      CHECK_EQ(le_step(&entry, 1, &result), 0);
      CHECK_EQ(result.status, 0);
      if (result.status != 0) break;
      pending = result.token < 0 ? result.rows_pending : 0;
    }
    memcpy(out, le_logits(sequence), sizeof(identity));
    EngineStats stats = {};
    CHECK_EQ(le_engine_stats(&stats), 0);
    const uint64_t packed = 65 * 42;
    const uint64_t pages = le_plan_sequence_bytes(1, kRows);
    CHECK(stats.cache_bytes_peak > pages + kRows * 128);
    CHECK(stats.cache_bytes_peak <= pages + kRows * (packed + 128));
    CHECK_EQ(le_sequence_free(sequence), 0);
    if (batch == 50) CHECK_EQ(test::replay(shadow, 0, kVocab, identity).status, 0);
  }
  CHECK(test::same_bits(logits[0], logits[1], kVocab));
  CHECK(!test::same_bits(logits[0], identity, kVocab));
  double squares = 0;
  double size = 0;
  for (int32_t i = 0; i < kVocab; ++i) {
    const double gap = static_cast<double>(logits[0][i]) - static_cast<double>(identity[i]);
    squares += gap * gap;
    size += static_cast<double>(identity[i]) * static_cast<double>(identity[i]);
  }
  CHECK(squares < 1e-4 * size);
  free(plan);
}
