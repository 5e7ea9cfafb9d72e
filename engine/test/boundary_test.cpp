// What the boundary refuses, with which code and message, and what it leaves behind.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <initializer_list>

#include "check.h"
#include "leanedge/engine.h"
#include "tiny_model.h"

using namespace leanedge;

namespace {

constexpr int32_t code(Status status) { return static_cast<int32_t>(status); }

const EngineOptions kOptions = {16 * 1024 * 1024, 8, 16, 256, 0};

test::TinyModel model_of(Architecture architecture) {
  return test::tiny_model(test::tiny_config(architecture), Dtype::kQ8_0, 11);
}

int32_t create(const test::TinyModel& model) {
  return le_engine_create(&kOptions, &model.config, model.tensors, model.tensor_count);
}

void refused(int32_t result, Status status, const char* part) {
  CHECK_EQ(result, code(status));
  CHECK(le_error()->status == status);
  if (strstr(le_error()->message, part)) return;
  printf("    message is: %s\n", le_error()->message);
  test::fail(__FILE__, __LINE__, part, result, 0);
}

struct BadField {
  int32_t ModelConfig::* field;
  int32_t value;
  const char* name;
};

}  // namespace

TEST(config_out_of_range_is_refused) {
  const BadField fields[] = {
      {&ModelConfig::layers, 0, "layers is 0"},
      {&ModelConfig::layers, 257, "layers is 257"},
      {&ModelConfig::dim, -8, "dim is -8"},
      {&ModelConfig::dim, 34, "multiples of 4"},
      {&ModelConfig::ff_dim, 65540, "ff_dim is 65540"},
      {&ModelConfig::heads, 3, "no multiple of kv_heads"},
      {&ModelConfig::heads, 40000, "heads x head_dim"},
      {&ModelConfig::kv_heads, 0, "kv_heads is 0"},
      {&ModelConfig::head_dim, 7, "rope_dim is 8, not in 2 .. 7"},
      {&ModelConfig::head_dim, 258, "head_dim is 258"},
      {&ModelConfig::vocab_size, 0, "vocab_size is 0"},
      {&ModelConfig::vocab_size, kVocabMax + 1, "vocab_size"},
      {&ModelConfig::context_tokens_max, 0, "context_tokens_max is 0"},
      {&ModelConfig::rope_dim, 10, "rope_dim is 10"},
      {&ModelConfig::rope_dim, 3, "multiples of 2"},
      {&ModelConfig::tied_embeddings, 2, "tied_embeddings"},
      {&ModelConfig::qkv_bias, -1, "qkv_bias"},
  };
  for (const BadField& bad : fields) {
    test::TinyModel model = model_of(Architecture::kLlama);
    model.config.*bad.field = bad.value;
    refused(create(model), Status::kInvalidModel, bad.name);
  }
  for (const float value : {NAN, -1.0f, INFINITY}) {
    test::TinyModel model = model_of(Architecture::kLlama);
    model.config.rms_eps = value;
    refused(create(model), Status::kInvalidModel, "rms_eps");
    model = model_of(Architecture::kLlama);
    model.config.rope_base = value;
    refused(create(model), Status::kInvalidModel, "rope_base");
    model = model_of(Architecture::kLlama);
    model.config.rope_scaling = RopeScaling::kYarn;
    model.config.yarn_original_context = value;
    refused(create(model), Status::kInvalidModel, "yarn_original_context");
  }
}

TEST(tensor_tables_that_do_not_fit_are_refused) {
  for (const Architecture architecture :
       {Architecture::kLlama, Architecture::kQwen2, Architecture::kQwen3}) {
    const test::TinyModel good = model_of(architecture);
    CHECK_EQ(create(good), 0);
    for (int32_t i = 0; i < good.tensor_count; ++i) {
      test::TinyModel model = good;
      memmove(&model.tensors[i], &model.tensors[i + 1],
              static_cast<size_t>(good.tensor_count - i - 1) * sizeof(TensorDesc));
      --model.tensor_count;
      refused(create(model), Status::kInvalidModel, "entries");
      model = good;
      model.tensors[i] = good.tensors[(i + 1) % good.tensor_count];
      refused(create(model), Status::kInvalidModel, "both have role");
      for (const int32_t change : {-1, 1, -1000000}) {
        model = good;
        model.tensors[i].rows += change;
        refused(create(model), Status::kInvalidModel, "has shape");
        model = good;
        model.tensors[i].cols += change;
        refused(create(model), Status::kInvalidModel, "has shape");
      }
      for (const int32_t layer : {-2, 2, 1 << 30}) {
        model = good;
        model.tensors[i].layer = layer;
        refused(create(model), Status::kInvalidModel, "is of layer");
      }
      for (const int32_t dtype : {-1, 4, 7, 12, 31}) {
        model = good;
        model.tensors[i].dtype = static_cast<Dtype>(dtype);
        refused(create(model), Status::kInvalidModel, "has type");
      }
      for (const int32_t role : {-1, 4, 15, 30}) {
        model = good;
        model.tensors[i].role = static_cast<TensorRole>(role);
        refused(create(model), Status::kInvalidModel, "no place");
      }
    }
  }
  test::TinyModel blocks = model_of(Architecture::kLlama);
  blocks.config.ff_dim = 60;
  const test::TinyModel odd = test::tiny_model(blocks.config, Dtype::kQ4_0, 1);
  refused(create(odd), Status::kInvalidModel, "multiple of 32");
}

TEST(weights_come_whole_and_in_order) {
  const test::TinyModel model = model_of(Architecture::kLlama);
  CHECK_EQ(create(model), 0);
  size_t bytes = 0;
  uint8_t* data = test::tiny_tensor(model, 0, &bytes);
  const int32_t all = static_cast<int32_t>(bytes);
  refused(le_weights_write(1, 0, data, 4), Status::kWrongState, "tensor 1");
  refused(le_weights_write(0, 4, data, 4), Status::kWrongState, "expected");
  refused(le_weights_write(0, 0, data, -1), Status::kInvalidArgument, "below 0");
  refused(le_weights_write(0, 0, nullptr, 4), Status::kInvalidArgument, "missing");
  CHECK_EQ(le_weights_write(0, 0, data, all - 1), 0);
  refused(le_weights_write(0, bytes - 1, data, 2), Status::kInvalidArgument, "1 left");
  refused(le_engine_start(), Status::kWrongState, "data of 0 of");
  CHECK_EQ(le_weights_write(0, bytes - 1, data + bytes - 1, 1), 0);
  refused(le_weights_write(0, bytes, data, 0), Status::kWrongState, "expected");
  refused(le_sequence_create(0), Status::kWrongState, "phase");
  free(data);
}

TEST(plans_are_checked) {
  const test::TinyModel model = model_of(Architecture::kLlama);
  CHECK_EQ(create(model), 0);
  refused(le_plan_add(nullptr, -1, 8), Status::kInvalidArgument, "sink is -1");
  refused(le_plan_add(nullptr, 0, 0), Status::kInvalidArgument, "recent is 0");
  refused(le_plan_add(nullptr, 0, kRecentMax + 1), Status::kInvalidArgument, "recent");
  for (int32_t i = 0; i < kPlansMax; ++i) CHECK_EQ(le_plan_add(nullptr, i, 8), i);
  refused(le_plan_add(nullptr, 0, 8), Status::kInvalidArgument, "plans");
}

// Whatever the limit, an engine starts or says that memory is short, and stays under it.
TEST(memory_limits_hold) {
  const test::TinyModel model = model_of(Architecture::kQwen2);
  test::TinyOptions options;
  int32_t started = 0;
  int32_t refusals = 0;
  for (options.memory_bytes_max = 0; options.memory_bytes_max < 900 * 1024;
       options.memory_bytes_max += 4999) {
    const int32_t result = test::tiny_start(model, options);
    if (result < 0) {
      CHECK_EQ(result, code(Status::kOutOfMemory));
      CHECK_EQ(started, 0);
      ++refusals;
      continue;
    }
    ++started;
    EngineStats stats = {};
    CHECK_EQ(le_engine_stats(&stats), 0);
    CHECK(stats.memory_bytes <= options.memory_bytes_max);
    CHECK(stats.cache_bytes >= le_plan_sequence_bytes(0, 1));
    CHECK(stats.weight_bytes + stats.scratch_bytes + stats.cache_bytes <= stats.memory_bytes);
    CHECK_EQ(stats.cache_bytes_free, stats.cache_bytes);
  }
  CHECK(started > 50);
  CHECK(refusals > 10);
}

TEST(sequences_are_checked) {
  CHECK_EQ(test::tiny_start(model_of(Architecture::kLlama), {}), 0);
  refused(le_sequence_create(1), Status::kInvalidArgument, "plan 1");
  refused(le_sequence_append(0, 1, nullptr, 1), Status::kInvalidArgument,
          "sequence 0 does not exist");
  for (int32_t i = 0; i < 8; ++i) CHECK_EQ(le_sequence_create(0), i);
  refused(le_sequence_create(0), Status::kTooManySequences, "8 sequences");
  refused(le_sequence_fork(0, 0), Status::kTooManySequences, "8 sequences");
  CHECK_EQ(le_sequence_free(3), 0);
  refused(le_sequence_free(3), Status::kInvalidArgument, "sequence 3");
  CHECK_EQ(le_sequence_create(0), 3);
  int32_t ids[300] = {};
  refused(le_sequence_append(0, 0, ids, 1), Status::kInvalidArgument, "kind is 0");
  refused(le_sequence_append(0, 1, ids, 0), Status::kInvalidArgument, "0 ids");
  refused(le_sequence_append(0, 1, ids, 257), Status::kContextFull, "257 more");
  ids[5] = 61;
  refused(le_sequence_append(0, 1, ids, 10), Status::kInvalidArgument, "id 5 of the segment is 61");
  ids[5] = -1;
  refused(le_sequence_append(0, 1, ids, 10), Status::kInvalidArgument, "id 5 of the segment is -1");
  ids[5] = 0;
  SequenceStats stats = {};
  CHECK_EQ(le_sequence_stats(0, &stats), 0);
  CHECK_EQ(stats.tokens, 0);
  CHECK_EQ(le_sequence_append(0, 1, ids, 256), 0);
  refused(le_sequence_append(0, 2, ids, 1), Status::kContextFull, "256");
  refused(le_sequence_truncate(0, 257), Status::kInvalidArgument, "257");
  refused(le_sequence_fork(1, 1), Status::kInvalidArgument, "cannot fork 1");
  refused(le_sequence_ids(0, 250, 7, ids), Status::kInvalidArgument, "ids 250");
  refused(le_sequence_sampling(0, nullptr), Status::kInvalidArgument, "missing");
}

TEST(steps_are_checked_and_bounded) {
  CHECK_EQ(test::tiny_start(model_of(Architecture::kLlama), {}), 0);
  const int32_t sequence = le_sequence_create(0);
  int32_t ids[256] = {};
  CHECK_EQ(le_sequence_append(sequence, 1, ids, 50), 0);
  StepResult results[4] = {};
  StepEntry entries[4] = {
      {sequence, 21, 1, 0}, {sequence, 10, 0, 0}, {7, 10, 0, 0}, {sequence + 100, 1, 0, 0}};
  refused(le_step(entries, 0, results), Status::kInvalidArgument, "0 entries");
  refused(le_step(nullptr, 1, results), Status::kInvalidArgument, "entries");
  CHECK_EQ(le_step(entries, 4, results), 0);
  // 21 rows x layers are 10 rows of 2 layers; the others are errors of their own.
  CHECK_EQ(results[0].status, 0);
  CHECK_EQ(results[0].work_done, 20);
  CHECK_EQ(results[0].rows_pending, 40);
  CHECK_EQ(results[0].token, -1);
  CHECK(le_logits(sequence) == nullptr);
  for (int32_t i = 1; i < 4; ++i) CHECK_EQ(results[i].status, code(Status::kInvalidArgument));
  const StepEntry zero = {sequence, 0, 1, 0};
  CHECK_EQ(le_step(&zero, 1, results), 0);
  CHECK_EQ(results[0].status, code(Status::kInvalidArgument));
  // One row at least; the last row without sampling, then sampling alone computes it once more.
  const StepEntry one = {sequence, 1, 1, 0};
  CHECK_EQ(le_step(&one, 1, results), 0);
  CHECK_EQ(results[0].work_done, 2);
  const StepEntry rest = {sequence, 1000, 0, 0};
  CHECK_EQ(le_step(&rest, 1, results), 0);
  CHECK_EQ(results[0].rows_pending, 0);
  CHECK_EQ(results[0].token, -1);
  CHECK_EQ(le_step(&one, 1, results), 0);
  CHECK_EQ(results[0].status, 0);
  CHECK_EQ(results[0].work_done, 2);
  CHECK(results[0].token >= 0);
  CHECK(le_logits(sequence) != nullptr);
  // A full window: the row is computed, no token can follow.
  CHECK_EQ(le_sequence_append(sequence, 1, ids, 205), 0);
  CHECK_EQ(le_step(&rest, 1, results), 0);
  CHECK_EQ(le_step(&one, 1, results), 0);
  CHECK_EQ(results[0].status, code(Status::kContextFull));
  CHECK_EQ(results[0].token, -1);
  CHECK_EQ(results[0].rows_pending, 0);
  // Nothing to do is no error.
  const int32_t empty = le_sequence_create(0);
  const StepEntry nothing = {empty, 10, 1, 0};
  CHECK_EQ(le_step(&nothing, 1, results), 0);
  CHECK_EQ(results[0].status, 0);
  CHECK_EQ(results[0].token, -1);
}

TEST(values_that_are_not_finite_are_reported) {
  for (const bool in_cache : {true, false}) {
    test::TinyModel model = model_of(Architecture::kLlama);
    const EngineOptions options = kOptions;
    CHECK_EQ(le_engine_create(&options, &model.config, model.tensors, model.tensor_count), 0);
    for (int32_t i = 0; i < model.tensor_count; ++i) {
      size_t bytes = 0;
      uint8_t* data = test::tiny_tensor(model, i, &bytes);
      const float infinite = INFINITY;
      const TensorRole bad = in_cache ? TensorRole::kAttnNorm : TensorRole::kOutputNorm;
      if (model.tensors[i].role == bad) memcpy(data + 8, &infinite, 4);
      CHECK_EQ(le_weights_write(i, 0, data, static_cast<int32_t>(bytes)), 0);
      free(data);
    }
    CHECK_EQ(le_plan_add(nullptr, 4, 8), 0);
    CHECK_EQ(le_engine_start(), 0);
    const int32_t sequence = le_sequence_create(0);
    const int32_t ids[3] = {1, 2, 3};
    CHECK_EQ(le_sequence_append(sequence, 1, ids, 3), 0);
    const StepEntry entry = {sequence, 100, 1, 0};
    StepResult result = {};
    CHECK_EQ(le_step(&entry, 1, &result), 0);
    refused(result.status, Status::kNotFinite, "not finite");
    CHECK_EQ(result.token, -1);
    CHECK_EQ(result.rows_pending, in_cache ? 3 : 0);
    SequenceStats stats = {};
    CHECK_EQ(le_sequence_stats(sequence, &stats), 0);
    CHECK_EQ(stats.tokens, 3);
    CHECK_EQ(stats.cache_bytes, in_cache ? 0 : le_plan_sequence_bytes(0, 3));
  }
}

TEST(out_of_pages_and_out_of_memory_are_told_apart) {
  const test::TinyModel model = model_of(Architecture::kLlama);
  test::TinyOptions options;
  options.memory_bytes_max = 240 * 1024;
  int32_t result = -1;
  EngineStats stats = {};
  // The least memory with which one full sequence fits and two do not.
  for (; result < 0 || stats.cache_bytes < le_plan_sequence_bytes(0, 256);
       options.memory_bytes_max += 1024) {
    result = test::tiny_start(model, options);
    if (result == 0) le_engine_stats(&stats);
  }
  const int32_t a = le_sequence_create(0);
  const int32_t b = le_sequence_create(0);
  int32_t ids[250] = {};
  CHECK_EQ(le_sequence_append(a, 1, ids, 250), 0);
  CHECK_EQ(le_sequence_append(b, 1, ids, 250), 0);
  const StepEntry entries[2] = {{a, 400, 0, 0}, {b, 400, 0, 0}};
  StepResult results[2] = {};
  CHECK_EQ(le_step(entries, 2, results), 0);
  CHECK_EQ(le_step(entries, 2, results), 0);
  const bool a_short = results[0].status != 0;
  const StepResult& starved = results[a_short ? 0 : 1];
  CHECK_EQ(starved.status, code(Status::kOutOfPages));
  CHECK(starved.rows_pending > 0);
  CHECK_EQ(le_sequence_drop_cache(a_short ? b : a), 0);
  CHECK_EQ(le_step(&entries[a_short ? 0 : 1], 1, results), 0);
  CHECK_EQ(results[0].status, 0);
  CHECK_EQ(results[0].rows_pending, 0);
}
