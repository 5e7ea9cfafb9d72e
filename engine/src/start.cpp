// Gives the memory that the weights leave to scratch, logs and cache.
#include "engine_state.h"
#include "error.h"
#include "memory_ops.h"
#include "numeric.h"
#include "pass.h"
#include "prefill.h"
#include "scratch.h"

namespace leanedge {
namespace {

// The part of the memory that weights leave which logs may take, where not all logs can be full.
constexpr uint64_t kLogShare = 64;

int32_t max_i32(int32_t a, int32_t b) { return a > b ? a : b; }

template <class T>
bool place(Arena* arena, T** out, uint64_t count) {
  *out = arena_array<T>(arena, count);
  return *out != nullptr;
}

bool place_step(Engine* e) {
  Arena* a = &e->arena;
  const uint64_t rows = static_cast<uint64_t>(e->logits_rows);
  const bool placed =
      place(a, &e->logits_owner, rows) && place(a, &e->draws, rows) &&
      place(a, &e->recent_ids, kRepetitionWindowMax) && place(a, &e->entries, kStepEntriesMax) &&
      place(a, &e->runs, kStepEntriesMax) && place(a, &e->sampling_runs, kStepEntriesMax) &&
      place(a, &e->sampling_rows, kStepEntriesMax);
  for (int32_t i = 0; placed && i < e->logits_rows; ++i) e->logits_owner[i] = -1;
  return placed;
}

bool place_sequences(Engine* e, int32_t pages_max) {
  Arena* a = &e->arena;
  const int32_t count = e->options.sequences_max;
  const int32_t log_blocks_max = log_blocks(e->options.context_tokens_max);
  const uint64_t all = static_cast<uint64_t>(count) * static_cast<uint64_t>(log_blocks_max);
  uint64_t blocks = arena_room(*a) / kLogShare / (kLogBlockTokens * sizeof(uint32_t));
  const uint64_t least = static_cast<uint64_t>(log_blocks_max) + static_cast<uint64_t>(count);
  if (blocks < least) blocks = least;
  if (blocks > all) blocks = all;
  uint32_t* words = nullptr;
  int32_t* next = nullptr;
  int32_t* log_tables = nullptr;
  int32_t* page_tables = nullptr;
  const bool placed =
      place(a, &e->sequences, static_cast<uint64_t>(count)) &&
      place(a, &words, blocks * kLogBlockTokens) && place(a, &next, blocks) &&
      place(a, &log_tables, all) &&
      place(a, &page_tables, static_cast<uint64_t>(count) * static_cast<uint64_t>(pages_max));
  if (!placed) return false;
  log_pool_init(&e->logs, words, next, static_cast<int32_t>(blocks));
  for (int32_t i = 0; i < count; ++i) {
    Sequence& sequence = e->sequences[i];
    log_init(&sequence.log,
             log_tables + static_cast<size_t>(i) * static_cast<size_t>(log_blocks_max));
    sequence.cache = {0, 0, kNoBlock,
                      0, 0, page_tables + static_cast<size_t>(i) * static_cast<size_t>(pages_max)};
    sequence.prefill = {kNoBlock, kNoBlock, 0, 0, 0, 0};
    sequence.logits_row = -1;
  }
  return true;
}

// The cache: all that is left, but no more than full sequences could ever use.
bool place_cache(Engine* e) {
  Arena* a = &e->arena;
  CachePool& pool = e->pool;
  uint64_t least = UINT64_MAX;
  uint64_t most = 0;
  uint64_t first = 0;
  for (int32_t i = 0; i < pool.plan_count; ++i) {
    const PlanEntry& entry = pool.plans[i];
    if (entry.page_bytes < least) least = entry.page_bytes;
    if (entry.region_bytes < least) least = entry.region_bytes;
    if (entry.region_bytes > first) first = entry.region_bytes;
    uint64_t full = cache_bytes(pool, i, pool.context_tokens_max);
    if (!entry.lossless) {
      full += entry.region_bytes + prefill_bytes_max(*e, pool.context_tokens_max);
    }
    if (full > most) most = full;
  }
  const uint64_t rest = memory_room(*e);
  uint64_t bytes = most * static_cast<uint64_t>(e->options.sequences_max);
  // Records of the heap's blocks come out of the same memory.
  const uint64_t per_block = 2 * sizeof(HeapBlock);
  if (bytes > rest) bytes = rest;
  const uint64_t blocks =
      bytes / (least + per_block) + 2 + static_cast<uint64_t>(e->options.sequences_max);
  const uint64_t records = heap_records(blocks);
  HeapBlock* table = nullptr;
  if (!place(a, &table, records)) return false;
  uint64_t left = memory_room(*e) / kHeapAlign * kHeapAlign;
  if (left > bytes) left = align_up(bytes, kHeapAlign);
  if (left > blocks * least) left = blocks * least;
  if (left < first) return false;
  uint8_t* memory = memory_take(e, left);
  if (!memory) return false;
  heap_init(&pool.heap, memory, left, table, static_cast<int32_t>(records));
  return true;
}

Status check_rope_factors(Engine* e) {
  const float* factors = e->weights.rope_factors;
  for (int32_t i = 0; factors && i < e->config.rope_dim / 2; ++i) {
    // Below 2^-10 angles would leave the range of sincos_f64.
    if (f32_finite(factors[i]) && factors[i] >= 0x1p-10f) continue;
    const int64_t value = f32_finite(factors[i]) && factors[i] > -1e12f && factors[i] < 1e12f
                              ? static_cast<int64_t>(factors[i] * 1e6f)
                              : -1;
    return error_set(&e->error, Status::kInvalidModel, value, 977,
                     "rope factor # is # millionths, the least is #", {i, value, 977});
  }
  return Status::kOk;
}

}  // namespace

Status scratch_too_large(Engine* e) {
  const int64_t limit = static_cast<int64_t>(e->arena.limit);
  const int64_t used = static_cast<int64_t>(e->arena.used);
  return error_set(&e->error, Status::kOutOfMemory, used, limit,
                   "scratch memory does not fit: # bytes are in use, the engine may have #",
                   {used, limit});
}

Status engine_start(Engine* e) {
  if (e->weights.slot_next != e->weights.slot_count) {
    return error_set(&e->error, Status::kWrongState, e->weights.slot_next, e->weights.slot_count,
                     "data of # of # tensors are here",
                     {e->weights.slot_next, e->weights.slot_count});
  }
  if (e->pool.plan_count == 0) {
    return error_set(&e->error, Status::kWrongState, 0, 1,
                     "the engine has # plans, it needs at least #", {0, 1});
  }
  const Status factors = check_rope_factors(e);
  if (factors != Status::kOk) return factors;
  rope_table_init(&e->rope, e->config, e->weights.rope_factors);
  int32_t pages_max = 0;
  for (int32_t i = 0; i < e->pool.plan_count; ++i) {
    pages_max = max_i32(pages_max, e->pool.plans[i].pages_max);
  }
  const uint64_t before = e->arena.used;
  const Status scratch = scratch_place(e, pages_max);
  if (scratch != Status::kOk) return scratch;
  if (!place_step(e) || !place_sequences(e, pages_max)) {
    return scratch_too_large(e);
  }
  e->observation = {-1, 0, kNoBlock};
  e->scratch_bytes = e->arena.used - before;
  if (!place_cache(e)) {
    const int64_t rest = static_cast<int64_t>(memory_room(*e));
    const int64_t needed = static_cast<int64_t>(e->pool.plans[0].region_bytes);
    return error_set(&e->error, Status::kOutOfMemory, needed, rest,
                     "# bytes are left for the cache, the shortest sequence needs #",
                     {rest, needed});
  }
  e->arena.closed = true;
  e->phase = Phase::kRunning;
  return Status::kOk;
}

}  // namespace leanedge
