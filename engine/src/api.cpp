// The boundary (leanedge/engine.h): engine, weights, plans, steps.
#include <string.h>

#include "api_state.h"
#include "config_check.h"
#include "error.h"
#include "memory_ops.h"
#include "pass.h"
#include "platform.h"
#include "step.h"

namespace leanedge {
namespace {

alignas(64) uint8_t staging[kStagingBytes];

int32_t no_memory(uint64_t bytes) {
  const int64_t needed = static_cast<int64_t>(engine.arena.used + bytes);
  const int64_t limit = static_cast<int64_t>(engine.arena.limit);
  return code(error_set(&engine.error, Status::kOutOfMemory, needed, limit,
                        "# bytes are needed, the engine may have #", {needed, limit}));
}

// Enters a checked plan whose block lies in the arena.
int32_t enter_plan(const CachePlan* plan) {
  CachePool& pool = engine.pool;
  pool.plans[pool.plan_count] = plan_entry(pool, plan);
  pool.plan_blocks[pool.plan_count] = plan;
  return pool.plan_count++;
}

int32_t add_identity_plan(int32_t sink, int32_t recent) {
  const ModelConfig& c = engine.config;
  if (bad_range(sink, kSinkMax, "sink is #, not in 0 .. #")) return find_error();
  if (recent < 1 || recent > kRecentMax) {
    return code(error_set(&engine.error, Status::kInvalidArgument, recent, kRecentMax,
                          "recent is #, not in 1 .. #", {recent, kRecentMax}));
  }
  const size_t channels = static_cast<size_t>(c.layers) * static_cast<size_t>(c.kv_heads) *
                          static_cast<size_t>(c.head_dim);
  const size_t bytes = plan_bytes(c.layers, c.kv_heads, channels);
  uint8_t* memory = arena_alloc(&engine.arena, bytes);
  if (!memory) return no_memory(bytes);
  plan_identity_write(memory, c.layers, c.kv_heads, c.head_dim, sink, recent);
  const CachePlan* plan = reinterpret_cast<const CachePlan*>(memory);
  const Status status = plan_check(plan, bytes, &engine.error);
  if (status != Status::kOk) return code(status);
  return enter_plan(plan);
}

int32_t add_plan(const CachePlan* plan) {
  Status status = plan_check(plan, kStagingBytes, &engine.error);
  if (status == Status::kOk) status = plan_fits(*plan, engine.config, &engine.error);
  if (status != Status::kOk) return code(status);
  if (plan->evicting) {
    return code(error_set(&engine.error, Status::kUnimplemented, plan->evicting, 0,
                          "plan: evicting is #: nothing fills such an archive yet",
                          {plan->evicting}));
  }
  uint8_t* memory = arena_alloc(&engine.arena, plan->bytes);
  if (!memory) return no_memory(plan->bytes);
  memcpy(memory, plan, plan->bytes);
  return enter_plan(reinterpret_cast<const CachePlan*>(memory));
}

}  // namespace
}  // namespace leanedge

using namespace leanedge;

extern "C" {

int32_t le_abi_version(void) { return kAbiVersion; }

int32_t le_backend(void) { return platform_backend(); }

const ErrorDetail* le_error(void) { return &engine.error; }

uint8_t* le_staging(void) { return staging; }

int32_t le_engine_create(const EngineOptions* options, const ModelConfig* config,
                         const TensorDesc* tensors, int32_t tensor_count) {
  engine = Engine{};
  if (!options || !config || !tensors || tensor_count < 0) {
    return code(error_set(&engine.error, Status::kInvalidArgument, tensor_count, 0,
                          "options, config or tensors are missing (# tensors)", {tensor_count}));
  }
  Status status = config_check(*config, &engine.error);
  if (status == Status::kOk) status = options_check(*options, *config, &engine.error);
  if (status == Status::kOk) status = weights_check(*config, tensors, tensor_count, &engine.error);
  if (status != Status::kOk) return code(status);
  engine.options = *options;
  engine.config = *config;
  const uint64_t fixed = platform_fixed_bytes();
  const uint64_t limit = options->memory_bytes_max > fixed ? options->memory_bytes_max - fixed : 0;
  if (!arena_init(&engine.arena, limit)) return no_memory(0);
  status = weights_reserve(&engine.weights, &engine.arena, *config, tensors, tensor_count,
                           &engine.error);
  if (status != Status::kOk) return code(status);
  engine.context = platform_context();
  engine.pool.layers = config->layers;
  engine.pool.kv_heads = config->kv_heads;
  engine.pool.head_dim = config->head_dim;
  engine.pool.context_tokens_max = options->context_tokens_max;
  engine.phase = Phase::kLoading;
  return 0;
}

int32_t le_weights_write(int32_t index, uint64_t offset, const uint8_t* data, int32_t bytes) {
  if (engine.phase != Phase::kLoading) return wrong_phase(Phase::kLoading);
  if (!data || bytes < 0) {
    return code(error_set(&engine.error, Status::kInvalidArgument, bytes, 0,
                          "data are missing, or their length # is below 0", {bytes}));
  }
  return code(
      weights_write(&engine.weights, engine.config, index, offset, data, bytes, &engine.error));
}

int32_t le_plan_add(const CachePlan* plan, int32_t sink, int32_t recent) {
  if (engine.phase != Phase::kLoading) return wrong_phase(Phase::kLoading);
  if (engine.pool.plan_count == kPlansMax) {
    return code(error_set(&engine.error, Status::kInvalidArgument, kPlansMax + 1, kPlansMax,
                          "the engine would have # plans, the bound is #",
                          {kPlansMax + 1, kPlansMax}));
  }
  if (!plan) return add_identity_plan(sink, recent);
  if (engine.pool.plan_count == 0) {
    return code(error_set(&engine.error, Status::kWrongState, 0, 1,
                          "the engine has # plans: the identity plan comes first", {0}));
  }
  return add_plan(plan);
}

int32_t le_engine_start(void) {
  if (engine.phase != Phase::kLoading) return wrong_phase(Phase::kLoading);
  return code(engine_start(&engine));
}

uint64_t le_plan_sequence_bytes(int32_t plan, int32_t tokens) {
  if (plan < 0 || plan >= engine.pool.plan_count || tokens < 0) return 0;
  return cache_bytes(engine.pool, plan, tokens);
}

int32_t le_step(const StepEntry* entries, int32_t count, StepResult* results) {
  if (engine.phase != Phase::kRunning) return wrong_phase(Phase::kRunning);
  if (!entries || !results || count < 1 || count > kStepEntriesMax) {
    return code(error_set(&engine.error, Status::kInvalidArgument, count, kStepEntriesMax,
                          "a step has # entries, not 1 .. #", {count, kStepEntriesMax}));
  }
  return code(step(&engine, entries, count, results));
}

const float* le_logits(int32_t handle) {
  const Sequence* sequence = find_sequence(handle);
  if (!sequence || sequence->logits_row < 0) return nullptr;
  return pass_logits_row(&engine, sequence->logits_row);
}

int32_t le_engine_stats(EngineStats* out) {
  if (!out) return code(Status::kInvalidArgument);
  *out = EngineStats{};
  out->memory_bytes = memory_used(engine);
  out->memory_bytes_max = engine.options.memory_bytes_max;
  out->weight_bytes = engine.weights.bytes;
  out->scratch_bytes = engine.scratch_bytes;
  out->cache_bytes = engine.pool.heap.bytes;
  out->cache_bytes_free = engine.pool.heap.bytes_free;
  out->steps = engine.steps;
  out->rows = engine.rows;
  out->allocations = engine.arena.allocations;
  out->weight_bytes_row = engine.weights.bytes_row;
  out->cache_bytes_peak = engine.pool.heap.bytes - engine.pool.heap.bytes_free_least;
  return 0;
}

}  // extern "C"
