// Many sequences in one step: groups of logits, tables of page addresses, shared pages.
#include "leanedge/engine.h"
#include "random.h"
#include "shadow.h"
#include "tiny_model.h"

using namespace leanedge;
using leanedge::test::Random;
using leanedge::test::Shadow;

namespace {

constexpr int32_t kVocab = 61;
constexpr int32_t kForks = 50;

}  // namespace

// 50 forks of one long sequence hold more pages together than one attention call takes, and draw
// more tokens than logits are kept for.
TEST(fifty_forks_decode_together) {
  ModelConfig config = test::tiny_config(Architecture::kQwen3);
  config.context_tokens_max = 1024;
  const test::TinyModel model = test::tiny_model(config, Dtype::kQ4_0, 13);
  test::TinyOptions options;
  options.sequences_max = kForks + 1;
  options.batch_rows_max = 64;
  options.sink = 0;
  options.recent = 8;
  CHECK_EQ(test::tiny_start(model, options), 0);
  Random random = {77};
  static int32_t ids[900];
  for (int32_t& id : ids) id = random.below(kVocab);
  const int32_t root = le_sequence_create(0);
  CHECK_EQ(le_sequence_append(root, 1, ids, 900), 0);
  const StepEntry all = {root, 1 << 20, 0, 0};
  static StepResult results[kForks];
  CHECK_EQ(le_step(&all, 1, results), 0);
  CHECK_EQ(results[0].rows_pending, 0);
  EngineStats before = {};
  CHECK_EQ(le_engine_stats(&before), 0);
  static StepEntry entries[kForks];
  SamplingParams params = {1, 0, 1, 0, 1, 64, 0};
  for (int32_t i = 0; i < kForks; ++i) {
    const int32_t fork = le_sequence_fork(root, 900 - i % 3);
    params.seed = static_cast<uint64_t>(i);
    CHECK_EQ(le_sequence_sampling(fork, &params), 0);
    CHECK_EQ(le_sequence_append(fork, 2, ids + i, 2), 0);
    entries[i] = {fork, 4, 1, 0};
  }
  EngineStats shared = {};
  CHECK_EQ(le_engine_stats(&shared), 0);
  CHECK_EQ(before.cache_bytes_free - shared.cache_bytes_free,
           kForks * le_plan_sequence_bytes(0, 1));
  CHECK(kForks * archive_pages(900, 0, 8) > 1024);

  CHECK_EQ(le_step(entries, kForks, results), 0);
  int32_t kept = 0;
  for (int32_t i = 0; i < kForks; ++i) {
    CHECK_EQ(results[i].status, 0);
    CHECK_EQ(results[i].work_done, 4);
    CHECK(results[i].token >= 0);
    kept += le_logits(entries[i].sequence) != nullptr;
  }
  CHECK_EQ(kept, 32);
  // Alone the last of them gives the same token and the same bits.
  const int32_t last = entries[kForks - 1].sequence;
  float logits[kVocab];
  memcpy(logits, le_logits(last), sizeof(logits));
  CHECK_EQ(le_sequence_drop_cache(last), 0);
  CHECK_EQ(le_sequence_truncate(last, 900 - (kForks - 1) % 3 + 2), 0);
  StepResult alone = {};
  const StepEntry again = {last, 1 << 20, 1, 0};
  CHECK_EQ(le_step(&again, 1, &alone), 0);
  CHECK_EQ(alone.token, results[kForks - 1].token);
  CHECK(test::same_bits(le_logits(last), logits, kVocab));
}

// A few bytes more than 32 bits can count are refused before anything wraps.
TEST(sizes_beyond_32_bits_are_refused) {
  ModelConfig config = test::tiny_config(Architecture::kLlama);
  config.vocab_size = kVocabMax;
  config.dim = kDimMax;
  const test::TinyModel model = test::tiny_model(config, Dtype::kF32, 1);
  const EngineOptions options = {uint64_t{1} << 31, 8, 16, 256, 0};
  CHECK_EQ(le_engine_create(&options, &model.config, model.tensors, model.tensor_count),
           static_cast<int32_t>(Status::kOutOfMemory));
}
