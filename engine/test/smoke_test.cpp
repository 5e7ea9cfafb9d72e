// The shortest path through the boundary, for each architecture.
#include "check.h"
#include "tiny_model.h"

using namespace leanedge;

namespace {

void generate(Architecture architecture, Dtype dtype) {
  const test::TinyModel model = test::tiny_model(test::tiny_config(architecture), dtype, 7);
  CHECK_EQ(test::tiny_start(model, {}), 0);
  const int32_t sequence = le_sequence_create(0);
  CHECK_EQ(sequence, 0);
  const int32_t ids[5] = {1, 17, 3, 60, 3};
  CHECK_EQ(le_sequence_append(sequence, 1, ids, 5), 0);
  for (int32_t i = 0; i < 100; ++i) {
    const StepEntry entry = {sequence, 1000, 1, 0};
    StepResult result = {};
    CHECK_EQ(le_step(&entry, 1, &result), 0);
    CHECK_EQ(result.status, 0);
    CHECK(result.token >= 0 && result.token < model.config.vocab_size);
    CHECK_EQ(result.rows_pending, 1);
    CHECK_EQ(result.work_done, (i == 0 ? 5 : 1) * model.config.layers);
    CHECK(result.logprob < 0);
    CHECK(le_logits(sequence) != nullptr);
  }
  SequenceStats stats = {};
  CHECK_EQ(le_sequence_stats(sequence, &stats), 0);
  CHECK_EQ(stats.tokens, 105);
  CHECK_EQ(stats.computed, 104);
  CHECK_EQ(stats.segments, 2);
  CHECK_EQ(stats.pages, archive_pages(104, 4, 8));
  CHECK_EQ(stats.cache_bytes, le_plan_sequence_bytes(0, 104));
}

}  // namespace

TEST(llama_generates) { generate(Architecture::kLlama, Dtype::kF32); }
TEST(qwen2_generates) { generate(Architecture::kQwen2, Dtype::kQ8_0); }
TEST(qwen3_generates) { generate(Architecture::kQwen3, Dtype::kQ4_0); }
