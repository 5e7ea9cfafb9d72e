// Whatever happens to a sequence, it always equals a fresh replay of its log, bit for bit.
#include "leanedge/engine.h"
#include "random.h"
#include "shadow.h"
#include "tiny_model.h"
#include "tiny_plan.h"

using namespace leanedge;
using leanedge::test::Random;
using leanedge::test::Shadow;

namespace {

constexpr int32_t kLive = 5;  // sequences that the walk keeps; one handle more replays
constexpr int32_t kVocab = 61;
constexpr int32_t kTokensMax = 200;

struct Walk {
  Random random;
  Shadow shadows[kLive];
  int32_t handles[kLive];  // -1: none
  int32_t plans[kLive];    // of each sequence
  int32_t plan_count;
  int32_t replays;
  int32_t starved;  // entries refused with kOutOfPages
};

SamplingParams random_sampling(Random* random) {
  SamplingParams p = {0, 0, 1, 0, 1, 64, random->next()};
  if (random->below(4)) p.temperature = 0.2f + 0.1f * static_cast<float>(random->below(15));
  if (random->below(2)) p.top_k = 1 + random->below(20);
  if (random->below(2)) p.top_p = 0.5f + 0.05f * static_cast<float>(random->below(10));
  if (random->below(3) == 0) p.repetition_penalty = 1.1f;
  p.repetition_window = 1 + random->below(40);
  return p;
}

void create(Walk* walk, int32_t slot) {
  walk->plans[slot] = walk->random.below(walk->plan_count);
  walk->handles[slot] = le_sequence_create(walk->plans[slot]);
  CHECK(walk->handles[slot] >= 0);
  walk->shadows[slot].tokens = 0;
  walk->shadows[slot].sampling = random_sampling(&walk->random);
  CHECK_EQ(le_sequence_sampling(walk->handles[slot], &walk->shadows[slot].sampling), 0);
}

void append(Walk* walk, int32_t slot) {
  Shadow& shadow = walk->shadows[slot];
  const int32_t count = 1 + walk->random.below(walk->random.below(4) ? 12 : 60);
  if (shadow.tokens + count > kTokensMax) return;
  int32_t ids[64];
  for (int32_t i = 0; i < count; ++i) ids[i] = walk->random.below(kVocab);
  const int32_t kind = walk->random.below(4) ? 1 : 2;
  CHECK_EQ(le_sequence_append(walk->handles[slot], kind, ids, count), 0);
  shadow.append(kind, ids, count);
}

void truncate(Walk* walk, int32_t slot) {
  Shadow& shadow = walk->shadows[slot];
  const int32_t back = walk->random.below(walk->random.below(3) ? 10 : shadow.tokens + 1);
  const int32_t tokens = back > shadow.tokens ? 0 : shadow.tokens - back;
  CHECK_EQ(le_sequence_truncate(walk->handles[slot], tokens), 0);
  shadow.tokens = tokens;
}

void fork(Walk* walk, int32_t slot) {
  const int32_t other = walk->random.below(kLive);
  if (other == slot) return;
  if (walk->handles[other] >= 0) CHECK_EQ(le_sequence_free(walk->handles[other]), 0);
  const Shadow& from = walk->shadows[slot];
  const int32_t tokens = walk->random.below(from.tokens + 1);
  walk->handles[other] = le_sequence_fork(walk->handles[slot], tokens);
  CHECK(walk->handles[other] >= 0);
  walk->plans[other] = walk->plans[slot];
  walk->shadows[other] = from;
  walk->shadows[other].tokens = tokens;
}

void check_log(Walk* walk, int32_t slot) {
  const Shadow& shadow = walk->shadows[slot];
  SequenceStats stats = {};
  CHECK_EQ(le_sequence_stats(walk->handles[slot], &stats), 0);
  CHECK_EQ(stats.tokens, shadow.tokens);
  CHECK(stats.log_hash == shadow.hash());
  // A prompt on its way through the layers of a plan that prunes holds more for a while.
  const uint64_t bytes = le_plan_sequence_bytes(walk->plans[slot], stats.computed);
  CHECK(walk->plans[slot] ? stats.cache_bytes >= bytes : stats.cache_bytes == bytes);
  int32_t ids[test::kShadowTokensMax];
  CHECK_EQ(le_sequence_ids(walk->handles[slot], 0, shadow.tokens, ids), 0);
  CHECK(memcmp(ids, shadow.ids, static_cast<size_t>(shadow.tokens) * 4) == 0);
}

// Frees what an idle sequence holds, as a scheduler does.
void starve_others(Walk* walk, int32_t slot) {
  ++walk->starved;
  for (int32_t i = 0; i < kLive; ++i) {
    if (i != slot && walk->handles[i] >= 0) CHECK_EQ(le_sequence_drop_cache(walk->handles[i]), 0);
  }
}

// Steps some sequences together; compares those that drew a token with a fresh replay.
void step(Walk* walk) {
  StepEntry entries[kLive];
  int32_t slots[kLive];
  int32_t count = 0;
  for (int32_t i = 0; i < kLive; ++i) {
    if (walk->handles[i] < 0 || walk->shadows[i].tokens == 0 || walk->random.below(3) == 0)
      continue;
    if (walk->shadows[i].tokens >= kTokensMax) continue;
    slots[count] = i;
    entries[count++] = {walk->handles[i], 1 + walk->random.below(walk->random.below(2) ? 20 : 400),
                        walk->random.below(5) ? 1 : 0, 0};
  }
  if (count == 0) return;
  StepResult results[kLive];
  CHECK_EQ(le_step(entries, count, results), 0);
  static float logits[kLive][kVocab];
  for (int32_t i = 0; i < count; ++i) {
    const float* row = le_logits(entries[i].sequence);
    if (results[i].token >= 0 && row) memcpy(logits[i], row, sizeof(logits[i]));
  }
  for (int32_t i = 0; i < count; ++i) {
    Shadow& shadow = walk->shadows[slots[i]];
    if (results[i].status == static_cast<int32_t>(Status::kOutOfPages)) {
      starve_others(walk, slots[i]);
      continue;
    }
    CHECK_EQ(results[i].status, 0);
    if (results[i].token < 0) continue;
    if (walk->random.below(3) == 0) {
      float fresh[kVocab];
      StepResult result = test::replay(shadow, walk->plans[slots[i]], kVocab, fresh);
      if (result.status == static_cast<int32_t>(Status::kOutOfPages)) {
        starve_others(walk, -1);
        result = test::replay(shadow, walk->plans[slots[i]], kVocab, fresh);
      }
      ++walk->replays;
      CHECK_EQ(result.token, results[i].token);
      CHECK_EQ(result.logprob, results[i].logprob);
      CHECK(test::same_bits(fresh, logits[i], kVocab));
    }
    shadow.append(2, &results[i].token, 1);
  }
}

void walk(uint64_t seed, const ModelConfig& config, const test::TinyOptions& options, Dtype dtype,
          int32_t steps, bool starves) {
  const test::TinyModel model = test::tiny_model(config, dtype, seed);
  CHECK_EQ(test::tiny_start(model, options), 0);
  EngineStats before = {};
  le_engine_stats(&before);
  Walk walk = {};
  walk.random = {seed};
  walk.plan_count = options.plan ? 2 : 1;
  for (int32_t i = 0; i < kLive; ++i) walk.handles[i] = -1;
  for (int32_t i = 0; i < steps; ++i) {
    const int32_t slot = walk.random.below(kLive);
    if (walk.handles[slot] < 0) create(&walk, slot);
    const int32_t choice = walk.random.below(100);
    if (choice < 20)
      append(&walk, slot);
    else if (choice < 28)
      truncate(&walk, slot);
    else if (choice < 33)
      fork(&walk, slot);
    else if (choice < 36)
      CHECK_EQ(le_sequence_drop_cache(walk.handles[slot]), 0);
    else if (choice < 38) {
      CHECK_EQ(le_sequence_free(walk.handles[slot]), 0);
      walk.handles[slot] = -1;
    } else
      step(&walk);
    if (walk.handles[slot] >= 0) check_log(&walk, slot);
  }
  CHECK(walk.replays > steps / 10);
  CHECK_EQ(walk.starved > 0, starves);
  for (int32_t i = 0; i < kLive; ++i) {
    if (walk.handles[i] >= 0) CHECK_EQ(le_sequence_free(walk.handles[i]), 0);
  }
  EngineStats after = {};
  le_engine_stats(&after);
  CHECK_EQ(after.cache_bytes_free, before.cache_bytes_free);
  CHECK_EQ(after.memory_bytes, before.memory_bytes);
  CHECK_EQ(after.allocations, uint64_t{0});
}

}  // namespace

TEST(random_walk_equals_replay) {
  walk(1, test::tiny_config(Architecture::kQwen2), {}, Dtype::kF16, 900, false);
}

TEST(random_walk_without_sink_equals_replay) {
  test::TinyOptions options;
  options.sink = 0;
  options.recent = 1;
  options.batch_rows_max = 5;
  walk(2, test::tiny_config(Architecture::kLlama), options, Dtype::kQ8_0, 500, false);
}

TEST(random_walk_short_of_pages_equals_replay) {
  test::TinyOptions options;
  options.batch_rows_max = 40;
  options.memory_bytes_max = 300 * 1024;
  walk(3, test::tiny_config(Architecture::kQwen3), options, Dtype::kQ4_1, 500, true);
}

// Pruned and quantised pages: prompts go layer by layer, and what cannot be shortened is replayed.
TEST(random_walk_under_a_pruning_plan_equals_replay) {
  ModelConfig config = test::tiny_config(Architecture::kLlama);
  config.head_dim = 32;
  config.rope_dim = 32;
  const uint32_t widths[4] = {16, 32, 0, 16};
  CachePlan* plan =
      test::tiny_plan(2, 2, 32, 3, 10, widths, PageStorage::kInt4, PageStorage::kInt8);
  test::TinyOptions options;
  options.plan = plan;
  walk(4, config, options, Dtype::kQ8_0, 500, false);
  options.memory_bytes_max = 500 * 1024;
  walk(5, config, options, Dtype::kQ8_0, 300, true);
  free(plan);
}

// Zones move rows between ring and pages: with everything kept that changes no bit.
TEST(identity_pages_equal_a_dense_cache) {
  const test::TinyModel model =
      test::tiny_model(test::tiny_config(Architecture::kLlama), Dtype::kF32, 5);
  static float logits[2][kVocab];
  for (int32_t dense = 0; dense < 2; ++dense) {
    test::TinyOptions options;
    options.sink = 6;
    options.recent = dense ? 250 : 3;
    CHECK_EQ(test::tiny_start(model, options), 0);
    Random random = {9};
    Shadow shadow = {};
    shadow.sampling = {0, 0, 1, 0, 1, 64, 0};
    int32_t ids[150];
    for (int32_t& id : ids) id = random.below(kVocab);
    shadow.append(1, ids, 70);
    shadow.append(2, ids + 70, 50);
    shadow.append(1, ids + 120, 30);
    CHECK_EQ(test::replay(shadow, 0, kVocab, logits[dense]).status, 0);
    CHECK_EQ(le_plan_sequence_bytes(0, 150) > le_plan_sequence_bytes(0, 1), dense == 0);
  }
  CHECK(test::same_bits(logits[0], logits[1], kVocab));
}
