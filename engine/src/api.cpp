// The C boundary (leanedge/engine.h): checks arguments, then hands over to the parts.
#include <string.h>

#include "config_check.h"
#include "engine_state.h"
#include "error.h"
#include "platform.h"
#include "prefill.h"
#include "snapshot_io.h"
#include "step.h"

namespace leanedge {
namespace {

// What take_handle returns when there is none.
constexpr int32_t kNoSequence = -1;

Engine engine;
alignas(64) uint8_t staging[kStagingBytes];

int32_t code(Status status) { return static_cast<int32_t>(status); }

int32_t wrong_phase(Phase needed) {
  return code(error_set(&engine.error, Status::kWrongState, static_cast<int32_t>(engine.phase),
                        static_cast<int32_t>(needed),
                        "the engine is in phase #, the call needs phase # (1 loading, 2 running)",
                        {static_cast<int32_t>(engine.phase), static_cast<int32_t>(needed)}));
}

int32_t no_memory(uint64_t bytes) {
  const int64_t needed = static_cast<int64_t>(engine.arena.used + bytes);
  const int64_t limit = static_cast<int64_t>(engine.arena.limit);
  return code(error_set(&engine.error, Status::kOutOfMemory, needed, limit,
                        "# bytes are needed, the engine may have #", {needed, limit}));
}

// The sequence of a handle, whole or not; null, with the error set, if there is none.
Sequence* find_any_sequence(int32_t handle) {
  if (engine.phase != Phase::kRunning) {
    wrong_phase(Phase::kRunning);
    return nullptr;
  }
  const int32_t bound = engine.options.sequences_max;
  if (handle < 0 || handle >= bound || !engine.sequences[handle].used) {
    error_set(&engine.error, Status::kInvalidArgument, handle, bound,
              "sequence # does not exist: handles are below #", {handle, bound});
    return nullptr;
  }
  return &engine.sequences[handle];
}

// The sequence of a handle that is not being restored; null, with the error set, otherwise.
Sequence* find_sequence(int32_t handle) {
  Sequence* sequence = find_any_sequence(handle);
  if (!sequence || !sequence->restoring) return sequence;
  error_set(&engine.error, Status::kWrongState, handle, 0, "sequence # is being restored", {handle});
  return nullptr;
}

int32_t find_error() { return code(engine.error.status); }

// A free handle; kNoSequence, with the error set, if the table is full.
int32_t take_handle() {
  for (int32_t i = 0; i < engine.options.sequences_max; ++i) {
    if (!engine.sequences[i].used) return i;
  }
  error_set(&engine.error, Status::kTooManySequences, engine.options.sequences_max,
            engine.options.sequences_max, "all # sequences are in use",
            {engine.options.sequences_max});
  return kNoSequence;
}

bool bad_plan(int32_t plan) {
  if (plan >= 0 && plan < engine.pool.plan_count) return false;
  error_set(&engine.error, Status::kInvalidArgument, plan, engine.pool.plan_count,
            "plan # does not exist: the engine has #", {plan, engine.pool.plan_count});
  return true;
}

bool bad_range(int32_t value, int32_t bound, const char* format) {
  if (value >= 0 && value <= bound) return false;
  error_set(&engine.error, Status::kInvalidArgument, value, bound, format, {value, bound});
  return true;
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
  if (plan_selects(*plan) || plan->evicting) {
    return code(error_set(&engine.error, Status::kUnimplemented, plan->pages_per_step, 0,
                          "plans that select pages (# a step) or evict (#) are not run here",
                          {plan->pages_per_step, plan->evicting}));
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
  return code(weights_write(&engine.weights, engine.config, index, offset, data, bytes,
                            &engine.error));
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

int32_t le_sequence_create(int32_t plan) {
  if (engine.phase != Phase::kRunning) return wrong_phase(Phase::kRunning);
  if (bad_plan(plan)) return find_error();
  const int32_t handle = take_handle();
  if (handle == kNoSequence) return find_error();
  Sequence& sequence = engine.sequences[handle];
  sequence.used = 1;
  sequence.cache.plan = plan;
  sequence.sampling = sampling_default();
  return handle;
}

int32_t le_sequence_free(int32_t handle) {
  Sequence* sequence = find_any_sequence(handle);
  if (!sequence) return find_error();
  if (sequence->restoring) engine.restore.active = 0;
  sequence->restoring = 0;
  prefill_drop(&engine, sequence);
  cache_drop(&engine.pool, &sequence->cache);
  log_truncate(&engine.logs, &sequence->log, 0);
  if (sequence->logits_row >= 0) engine.logits_owner[sequence->logits_row] = -1;
  sequence->logits_row = -1;
  sequence->used = 0;
  return 0;
}

int32_t le_sequence_append(int32_t handle, int32_t kind, const int32_t* ids, int32_t count) {
  Sequence* sequence = find_sequence(handle);
  if (!sequence) return find_error();
  if (kind != static_cast<int32_t>(SegmentKind::kPrompt) &&
      kind != static_cast<int32_t>(SegmentKind::kGenerated)) {
    return code(error_set(&engine.error, Status::kInvalidArgument, kind, 2,
                          "segment kind is #, not 1 or 2", {kind}));
  }
  if (!ids || count < 1) {
    return code(error_set(&engine.error, Status::kInvalidArgument, count, 1,
                          "a segment of # ids: at least 1 is needed", {count}));
  }
  const int32_t room = engine.options.context_tokens_max - sequence->log.tokens;
  if (count > room) {
    return code(error_set(&engine.error, Status::kContextFull,
                          static_cast<int64_t>(sequence->log.tokens) + count,
                          engine.options.context_tokens_max,
                          "the log has # tokens, # more exceed the context window of #",
                          {sequence->log.tokens, count, engine.options.context_tokens_max}));
  }
  for (int32_t i = 0; i < count; ++i) {
    if (ids[i] >= 0 && ids[i] < engine.config.vocab_size) continue;
    return code(error_set(&engine.error, Status::kInvalidArgument, ids[i], engine.config.vocab_size,
                          "id # of the segment is #: ids are below #",
                          {i, ids[i], engine.config.vocab_size}));
  }
  const SegmentKind segment = static_cast<SegmentKind>(kind);
  const Status status = log_room(engine.logs, sequence->log, segment, count, &engine.error);
  if (status != Status::kOk) return code(status);
  log_append(&engine.logs, &sequence->log, segment, ids, count);
  return 0;
}

int32_t le_sequence_truncate(int32_t handle, int32_t tokens) {
  Sequence* sequence = find_sequence(handle);
  if (!sequence) return find_error();
  if (bad_range(tokens, sequence->log.tokens, "cannot keep # tokens: the log has #")) {
    return find_error();
  }
  prefill_drop(&engine, sequence);
  log_truncate(&engine.logs, &sequence->log, tokens);
  cache_truncate(&engine.pool, &sequence->cache, tokens);
  return 0;
}

int32_t le_sequence_drop_cache(int32_t handle) {
  Sequence* sequence = find_sequence(handle);
  if (!sequence) return find_error();
  prefill_drop(&engine, sequence);
  cache_drop(&engine.pool, &sequence->cache);
  return 0;
}

int32_t le_sequence_fork(int32_t handle, int32_t tokens) {
  Sequence* from = find_sequence(handle);
  if (!from) return find_error();
  if (bad_range(tokens, from->log.tokens, "cannot fork # tokens: the log has #")) {
    return find_error();
  }
  if (!log_copy_room(engine.logs, tokens)) {
    const int64_t rest = static_cast<int64_t>(engine.logs.free_count) * kLogBlockTokens;
    return code(error_set(&engine.error, Status::kOutOfMemory, tokens, rest,
                          "a fork of # tokens does not fit the memory of all logs: room for #",
                          {tokens, rest}));
  }
  const int32_t child = le_sequence_create(from->cache.plan);
  if (child < 0) return child;
  Sequence& to = engine.sequences[child];
  to.sampling = from->sampling;
  log_copy(&engine.logs, from->log, tokens, &to.log);
  // Without memory for a copy of the region the child starts without a cache, and replays.
  if (cache_fork(&engine.pool, from->cache, &to.cache)) {
    cache_truncate(&engine.pool, &to.cache, tokens);
  }
  return child;
}

int32_t le_sequence_sampling(int32_t handle, const SamplingParams* params) {
  Sequence* sequence = find_sequence(handle);
  if (!sequence) return find_error();
  if (!params) {
    return code(error_set(&engine.error, Status::kInvalidArgument, handle, 0,
                          "sampling parameters of sequence # are missing", {handle}));
  }
  const Status status = sampling_check(*params, &engine.error);
  if (status == Status::kOk) sequence->sampling = *params;
  return code(status);
}

int32_t le_sequence_stats(int32_t handle, SequenceStats* out) {
  const Sequence* sequence = find_sequence(handle);
  if (!sequence) return find_error();
  const SequenceCache& cache = sequence->cache;
  out->tokens = sequence->log.tokens;
  out->computed = cache.computed;
  out->segments = sequence->log.segments;
  out->pages = cache.page_count;
  const PlanEntry& plan = engine.pool.plans[cache.plan];
  const bool reading = sequence->prefill.block != kNoBlock;
  const uint64_t regions = (cache.region == kNoBlock ? 0u : 1u) + (reading ? 1u : 0u);
  out->cache_bytes = plan.region_bytes * regions +
                     plan.page_bytes * static_cast<uint64_t>(cache.page_count) +
                     (reading ? prefill_bytes(engine, sequence->prefill.rows) : 0);
  out->log_hash = log_hash(sequence->log);
  return 0;
}

int32_t le_sequence_ids(int32_t handle, int32_t begin, int32_t count, int32_t* out) {
  const Sequence* sequence = find_sequence(handle);
  if (!sequence) return find_error();
  const int32_t tokens = sequence->log.tokens;
  if (!out || begin < 0 || count < 0 || begin > tokens || count > tokens - begin) {
    return code(error_set(&engine.error, Status::kInvalidArgument, begin, tokens,
                          "ids # and # more are not all in the log of # tokens",
                          {begin, count, tokens}));
  }
  for (int32_t i = 0; i < count; ++i) {
    out[i] = static_cast<int32_t>(log_word(engine.logs, sequence->log, begin + i) & kWordId);
  }
  return 0;
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
  step(&engine, entries, count, results);
  return 0;
}

const float* le_logits(int32_t handle) {
  const Sequence* sequence = find_sequence(handle);
  if (!sequence || sequence->logits_row < 0) return nullptr;
  return engine.logits + static_cast<size_t>(sequence->logits_row) *
                             static_cast<size_t>(engine.config.vocab_size);
}

int32_t le_engine_stats(EngineStats* out) {
  if (!out) return code(Status::kInvalidArgument);
  *out = EngineStats{};
  out->memory_bytes = engine.arena.used + platform_fixed_bytes();
  out->memory_bytes_max = engine.options.memory_bytes_max;
  out->weight_bytes = engine.weights.bytes;
  out->scratch_bytes = engine.scratch_bytes;
  out->cache_bytes = engine.pool.heap.bytes;
  out->cache_bytes_free = engine.pool.heap.bytes_free;
  out->steps = engine.steps;
  out->rows = engine.rows;
  out->allocations = engine.arena.allocations;
  out->weight_bytes_row = engine.weights.bytes_row;
  return 0;
}

uint64_t le_snapshot_bytes(int32_t handle) {
  const Sequence* sequence = find_sequence(handle);
  if (!sequence) return 0;
  SnapshotHeader header;
  snapshot_describe(engine, *sequence, &header);
  return header.checksum_offset;
}

int32_t le_snapshot_read(int32_t handle, uint64_t offset, uint8_t* out, int32_t bytes) {
  const Sequence* sequence = find_sequence(handle);
  if (!sequence) return find_error();
  const uint64_t all = le_snapshot_bytes(handle);
  if (!out || bytes < 0 || offset > all || static_cast<uint64_t>(bytes) > all - offset) {
    const int64_t at = static_cast<int64_t>(offset);
    const int64_t end = static_cast<int64_t>(all);
    return code(error_set(&engine.error, Status::kInvalidArgument, at, end,
                          "# bytes from # on are not all in a snapshot of # bytes",
                          {bytes, at, end}));
  }
  snapshot_copy(engine, *sequence, offset, out, bytes);
  return 0;
}

int32_t le_snapshot_begin(int32_t plan, uint64_t bytes) {
  if (engine.phase != Phase::kRunning) return wrong_phase(Phase::kRunning);
  if (engine.restore.active) {
    return code(error_set(&engine.error, Status::kWrongState, engine.restore.handle, 0,
                          "sequence # is being restored: one at a time", {engine.restore.handle}));
  }
  if (bytes < sizeof(SnapshotHeader)) {
    const int64_t value = static_cast<int64_t>(bytes);
    const int64_t bound = static_cast<int64_t>(sizeof(SnapshotHeader));
    return code(error_set(&engine.error, Status::kInvalidSnapshot, value, bound,
                          "snapshot: # bytes are fewer than a header of #", {value, bound}));
  }
  const int32_t handle = le_sequence_create(plan);
  if (handle >= 0) restore_begin(&engine, handle, bytes);
  return handle;
}

int32_t le_snapshot_write(int32_t handle, uint64_t offset, const uint8_t* data, int32_t bytes) {
  if (!find_any_sequence(handle)) return find_error();
  const Restore& restore = engine.restore;
  const bool active = restore.active && restore.handle == handle;
  const uint64_t left = active ? restore.bytes - restore.offset : 0;
  if (!active || offset != restore.offset || !data || bytes < 0 ||
      static_cast<uint64_t>(bytes) > left) {
    const int64_t at = static_cast<int64_t>(offset);
    const int64_t next = static_cast<int64_t>(active ? restore.offset : 0);
    const int64_t rest = static_cast<int64_t>(left);
    return code(error_set(&engine.error, Status::kWrongState, at, next,
                          "# bytes came for sequence # at #, expected were at most # at #",
                          {bytes, handle, at, rest, next}));
  }
  const Status status = restore_write(&engine, data, bytes);
  if (status != Status::kOk) {
    const ErrorDetail error = engine.error;
    le_sequence_free(handle);
    engine.error = error;
  }
  return code(status);
}

}  // extern "C"
