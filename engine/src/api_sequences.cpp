// The boundary (leanedge/engine.h): sequences, their logs and caches.
#include "api_state.h"
#include "error.h"
#include "memory_ops.h"
#include "observe.h"
#include "prefill.h"

namespace leanedge {
namespace {

// What take_handle returns when there is none.
constexpr int32_t kNoSequence = -1;

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

}  // namespace
}  // namespace leanedge

using namespace leanedge;

extern "C" {

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
  if (engine.observation.sequence == handle) observe_end(&engine);
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
  ENGINE_ASSERT(out);
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
                     (reading ? prefill_bytes(engine, *sequence) : 0);
  out->log_hash = log_hash(sequence->log);
  return 0;
}

int32_t le_observe(int32_t handle, int32_t query_from) {
  if (engine.phase != Phase::kRunning) return wrong_phase(Phase::kRunning);
  if (handle != kNoSequence && !find_sequence(handle)) return find_error();
  if (bad_range(query_from, engine.options.context_tokens_max,
                "queries from position # on cannot count: the context window is #")) {
    return find_error();
  }
  observe_end(&engine);
  if (handle == kNoSequence) return 0;
  const uint64_t bytes = observe_bytes(engine.config);
  const int32_t block = heap_alloc(&engine.pool.heap, bytes);
  if (block == kNoBlock) {
    const int64_t needed = static_cast<int64_t>(bytes);
    const int64_t rest = static_cast<int64_t>(engine.pool.heap.bytes_free);
    return code(error_set(&engine.error, Status::kOutOfPages, needed, rest,
                          "an observation takes # bytes of cache: # are free", {needed, rest}));
  }
  engine.observation = {handle, query_from, block};
  memory_zero(heap_address(engine.pool.heap, block), bytes);
  return 0;
}

int32_t le_observed(int32_t layer, double* out) {
  if (engine.phase != Phase::kRunning) return wrong_phase(Phase::kRunning);
  if (engine.observation.sequence < 0 || !out) {
    return code(error_set(&engine.error, Status::kWrongState, engine.observation.sequence, 0,
                          "sequence # is observed: none is", {engine.observation.sequence}));
  }
  if (bad_range(layer, engine.config.layers - 1, "layer # does not exist: the last is #")) {
    return find_error();
  }
  const size_t values = static_cast<size_t>(engine.config.kv_heads + engine.config.heads) *
                        static_cast<size_t>(engine.config.head_dim);
  memory_read(out, observe_sums(engine, layer), values * sizeof(double));
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

}  // extern "C"
