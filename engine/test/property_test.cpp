// Whatever happens to a sequence, it always equals a fresh replay of its log, bit for bit.
#include "leanedge/engine.h"
#include "plan_matrix.h"
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

// What a walk does: sizes, and how often a drawn token is compared with a replay.
struct Course {
  int32_t steps;
  int32_t tokens_max = 200;  // of a log
  int32_t first_max = 0;     // tokens of the prompt that a sequence is created with; half at least
  int32_t append_max = 60;   // tokens of a long segment
  int32_t replay_every = 6;  // drawn tokens
  int32_t plan_count = 1;
  bool starves = false;  // whether entries are refused for want of memory
};

struct Walk {
  Random random;
  Course course;
  Shadow shadows[kLive];
  int32_t handles[kLive];  // -1: none
  int32_t plans[kLive];    // of each sequence
  int32_t replays;
  int32_t restores;
  int32_t starved;    // entries refused with kOutOfPages
  int32_t pages_max;  // of any sequence so far
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

// Appends random ids.
void append_ids(Walk* walk, int32_t slot, int32_t count, int32_t kind) {
  static int32_t ids[test::kShadowTokensMax];
  for (int32_t i = 0; i < count; ++i) ids[i] = walk->random.below(kVocab);
  CHECK_EQ(le_sequence_append(walk->handles[slot], kind, ids, count), 0);
  walk->shadows[slot].append(kind, ids, count);
}

void create(Walk* walk, int32_t slot) {
  walk->plans[slot] = walk->random.below(walk->course.plan_count);
  walk->handles[slot] = le_sequence_create(walk->plans[slot]);
  CHECK(walk->handles[slot] >= 0);
  walk->shadows[slot].tokens = 0;
  walk->shadows[slot].sampling = random_sampling(&walk->random);
  CHECK_EQ(le_sequence_sampling(walk->handles[slot], &walk->shadows[slot].sampling), 0);
  const int32_t half = walk->course.first_max / 2;
  if (half) append_ids(walk, slot, half + walk->random.below(half), 1);
}

void append(Walk* walk, int32_t slot) {
  Shadow& shadow = walk->shadows[slot];
  const int32_t most = walk->random.below(4) ? 12 : walk->course.append_max;
  const int32_t count = 1 + walk->random.below(most);
  if (shadow.tokens + count > walk->course.tokens_max) return;
  append_ids(walk, slot, count, walk->random.below(4) ? 1 : 2);
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

// Saves a sequence in pieces of any size, and restores it in its place or in another one's, in other
// pieces.
void restore(Walk* walk, int32_t slot) {
  const uint64_t bytes = le_snapshot_bytes(walk->handles[slot]);
  CHECK(bytes > 0);
  uint8_t* data = static_cast<uint8_t*>(malloc(bytes));
  const auto pieces = [&](const auto& take) {
    const int32_t piece_max = 1 + walk->random.below(walk->random.below(2) ? 300 : 70000);
    int32_t status = 0;
    for (uint64_t at = 0; at < bytes && status == 0;) {
      const uint64_t rest = bytes - at;
      const uint64_t piece = static_cast<uint64_t>(1 + walk->random.below(piece_max));
      const int32_t count = static_cast<int32_t>(piece < rest ? piece : rest);
      status = take(at, data + at, count);
      at += static_cast<uint64_t>(count);
    }
    return status;
  };
  CHECK_EQ(pieces([&](uint64_t at, uint8_t* to, int32_t count) {
    return le_snapshot_read(walk->handles[slot], at, to, count);
  }), 0);
  const int32_t other = walk->random.below(kLive);
  if (walk->handles[other] >= 0) CHECK_EQ(le_sequence_free(walk->handles[other]), 0);
  const int32_t restored = le_snapshot_begin(walk->plans[slot], bytes);
  CHECK(restored >= 0);
  const int32_t status = pieces([&](uint64_t at, const uint8_t* from, int32_t count) {
    return le_snapshot_write(restored, at, from, count);
  });
  free(data);
  walk->handles[other] = status == 0 ? restored : -1;
  if (status == 0) {
    ++walk->restores;
    walk->plans[other] = walk->plans[slot];
    if (other != slot) walk->shadows[other] = walk->shadows[slot];
    CHECK_EQ(le_sequence_sampling(restored, &walk->shadows[other].sampling), 0);
    return;
  }
  // Only memory may have been missing.
  CHECK(walk->course.starves);
  CHECK_EQ(status, static_cast<int32_t>(Status::kOutOfPages));
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
  if (stats.pages > walk->pages_max) walk->pages_max = stats.pages;
  static int32_t ids[test::kShadowTokensMax];
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
    if (walk->shadows[i].tokens >= walk->course.tokens_max) continue;
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
    if (walk->random.below(walk->course.replay_every) == 0) {
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

Walk walk(uint64_t seed, const ModelConfig& config, const test::TinyOptions& options, Dtype dtype,
          const Course& course) {
  const test::TinyModel model = test::tiny_model(config, dtype, seed);
  CHECK_EQ(test::tiny_start(model, options), 0);
  EngineStats before = {};
  le_engine_stats(&before);
  static Walk walk;
  walk = {};
  walk.random = {seed};
  walk.course = course;
  for (int32_t i = 0; i < kLive; ++i) walk.handles[i] = -1;
  for (int32_t i = 0; i < course.steps; ++i) {
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
    else if (choice < 41)
      restore(&walk, slot);
    else if (choice < 43) {
      CHECK_EQ(le_sequence_free(walk.handles[slot]), 0);
      walk.handles[slot] = -1;
    } else
      step(&walk);
    if (walk.handles[slot] >= 0) check_log(&walk, slot);
  }
  CHECK(walk.replays > course.steps / (4 * course.replay_every));
  CHECK(walk.restores > course.steps / 40);
  CHECK_EQ(walk.starved > 0, course.starves);
  for (int32_t i = 0; i < kLive; ++i) {
    if (walk.handles[i] >= 0) CHECK_EQ(le_sequence_free(walk.handles[i]), 0);
  }
  EngineStats after = {};
  le_engine_stats(&after);
  CHECK_EQ(after.cache_bytes_free, before.cache_bytes_free);
  CHECK_EQ(after.memory_bytes, before.memory_bytes);
  CHECK_EQ(after.allocations, uint64_t{0});
  return walk;
}

// A model with heads that can be pruned.
ModelConfig prunable(int32_t heads, int32_t kv_heads) {
  ModelConfig config = test::tiny_config(Architecture::kLlama);
  config.dim = 16;
  config.ff_dim = 16;
  config.heads = heads;
  config.kv_heads = kv_heads;
  config.head_dim = 32;
  config.rope_dim = 32;
  return config;
}

}  // namespace

TEST(random_walk_equals_replay) {
  walk(1, test::tiny_config(Architecture::kQwen2), {}, Dtype::kF16, {.steps = 900});
}

TEST(random_walk_without_sink_equals_replay) {
  test::TinyOptions options;
  options.sink = 0;
  options.recent = 1;
  options.batch_rows_max = 5;
  walk(2, test::tiny_config(Architecture::kLlama), options, Dtype::kQ8_0, {.steps = 700});
}

TEST(random_walk_short_of_pages_equals_replay) {
  test::TinyOptions options;
  options.batch_rows_max = 40;
  options.memory_bytes_max = 300 * 1024;
  walk(3, test::tiny_config(Architecture::kQwen3), options, Dtype::kQ4_1,
       {.steps = 700, .starves = true});
}

// Sequences under all plans beside each other, in one engine.
TEST(random_walk_under_every_plan_equals_replay) {
  const test::PlanMatrix matrix(2, 3, 10);
  test::TinyOptions options;
  options.plans = matrix.plans;
  options.plan_count = test::kMatrixPlans;
  options.sink = 5;
  const Walk done = walk(4, prunable(4, 2), options, Dtype::kF16,
                         {.steps = 6000, .replay_every = 12, .plan_count = 8});
  CHECK(done.pages_max >= 5);
  options.memory_bytes_max = 420 * 1024;
  walk(5, prunable(4, 2), options, Dtype::kF16,
       {.steps = 1600, .replay_every = 12, .plan_count = 8, .starves = true});
}

// Logs of more than 100 pages.
TEST(random_walk_of_long_logs_equals_replay) {
  const test::PlanMatrix matrix(1, 3, 10);
  ModelConfig config = prunable(1, 1);
  config.context_tokens_max = 3600;
  test::TinyOptions options;
  options.plans = matrix.plans;
  options.plan_count = test::kMatrixPlans;
  options.batch_rows_max = 64;
  options.memory_bytes_max = 64 * 1024 * 1024;
  const Walk done = walk(6, config, options, Dtype::kF16,
                         {.steps = 160,
                          .tokens_max = 3500,
                          .first_max = 3400,
                          .replay_every = 12,
                          .plan_count = 8});
  CHECK(done.pages_max > 100);
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
