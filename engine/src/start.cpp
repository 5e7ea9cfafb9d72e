// Gives the memory that the weights leave to scratch, logs and cache.
#include "engine_state.h"
#include "error.h"
#include "leanedge/half.h"
#include "numeric.h"
#include "pass.h"
#include "prefill.h"

namespace leanedge {
namespace {

// Logits are kept for le_logits and drawn from in groups, so that the output matrix is read once a
// group: up to this many rows, and bytes unless one row is larger.
constexpr int32_t kLogitsRowsMax = 32;
constexpr uint64_t kLogitsBytesMax = 4 * 1024 * 1024;

// Tasks of one attention call share a table of page addresses: one long sequence, or many short.
constexpr int32_t kTaskPagesMin = 1024;

// The part of the memory that weights leave which logs may take, where not all logs can be full.
constexpr uint64_t kLogShare = 64;

int32_t max_i32(int32_t a, int32_t b) { return a > b ? a : b; }

template <class T>
bool place(Arena* arena, T** out, uint64_t count) {
  *out = arena_array<T>(arena, count);
  return *out != nullptr;
}

bool place_pass(Engine* e, int32_t pages_max) {
  const ModelConfig& c = e->config;
  PassScratch& s = e->scratch;
  Arena* a = &e->arena;
  const uint64_t rows = static_cast<uint64_t>(e->options.batch_rows_max);
  const uint64_t dim = static_cast<uint64_t>(c.dim);
  const uint64_t q_dim = static_cast<uint64_t>(c.heads) * static_cast<uint64_t>(c.head_dim);
  const uint64_t kv_dim = static_cast<uint64_t>(c.kv_heads) * static_cast<uint64_t>(c.head_dim);
  const uint64_t ff_dim = static_cast<uint64_t>(c.ff_dim);
  const uint64_t pairs = static_cast<uint64_t>(c.rope_dim / 2);
  const int32_t widest = max_i32(max_i32(c.dim, c.ff_dim), c.heads * c.head_dim);
  s.pages_max = max_i32(pages_max, kTaskPagesMin);
  return place(a, &s.x, rows * dim) && place(a, &s.normed, rows * dim) &&
         place(a, &s.q, rows * q_dim) && place(a, &s.k, rows * kv_dim) &&
         place(a, &s.v, rows * kv_dim) && place(a, &s.attended, rows * q_dim) &&
         place(a, &s.gate, rows * ff_dim) && place(a, &s.up, rows * ff_dim) &&
         place(a, &s.k_rows, rows * kv_dim) && place(a, &s.v_rows, rows * kv_dim) &&
         place(a, &s.k_dense, rows * kv_dim) && place(a, &s.v_dense, rows * kv_dim) &&
         place(a, &s.cosines, rows * pairs) && place(a, &s.sines, rows * pairs) &&
         place(a, &s.prepared, kernels::activations_bytes(e->options.batch_rows_max, widest)) &&
         place(a, &s.attention,
               kernels::attention_scratch_bytes(e->options.batch_rows_max, c.heads, c.head_dim,
                                                pages_max)) &&
         place(a, &s.pages, static_cast<uint64_t>(s.pages_max)) &&
         place(a, &s.tasks, kStepEntriesMax);
}

bool place_sampling(Engine* e) {
  Arena* a = &e->arena;
  const uint64_t row_bytes = static_cast<uint64_t>(e->config.vocab_size) * sizeof(float);
  uint64_t rows = kLogitsBytesMax / row_bytes;
  if (rows > kLogitsRowsMax) rows = kLogitsRowsMax;
  if (rows > static_cast<uint64_t>(e->options.sequences_max)) {
    rows = static_cast<uint64_t>(e->options.sequences_max);
  }
  if (rows > static_cast<uint64_t>(e->options.batch_rows_max)) {
    rows = static_cast<uint64_t>(e->options.batch_rows_max);
  }
  if (rows == 0) rows = 1;
  e->logits_rows = static_cast<int32_t>(rows);
  e->logits_next = 0;
  e->sampler.vocab_size = e->config.vocab_size;
  const bool placed =
      place(a, &e->logits, rows * static_cast<uint64_t>(e->config.vocab_size)) &&
      place(a, &e->logits_owner, rows) &&
      place(a, &e->sampler.candidates, static_cast<uint64_t>(e->config.vocab_size)) &&
      place(a, &e->recent_ids, kRepetitionWindowMax) && place(a, &e->entries, kStepEntriesMax) &&
      place(a, &e->runs, kStepEntriesMax) && place(a, &e->sampling_runs, kStepEntriesMax) &&
      place(a, &e->sampling_rows, kStepEntriesMax);
  if (!placed) return false;
  for (int32_t i = 0; i < e->logits_rows; ++i) e->logits_owner[i] = -1;
  return true;
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
  const uint64_t rest = arena_room(*a);
  uint64_t bytes = most * static_cast<uint64_t>(e->options.sequences_max);
  // Records of the heap's blocks come out of the same memory.
  const uint64_t per_block = 2 * sizeof(HeapBlock);
  if (bytes > rest) bytes = rest;
  const uint64_t blocks =
      bytes / (least + per_block) + 2 + static_cast<uint64_t>(e->options.sequences_max);
  const uint64_t records = heap_records(blocks);
  HeapBlock* table = nullptr;
  if (!place(a, &table, records)) return false;
  uint64_t left = arena_room(*a) / kHeapAlign * kHeapAlign;
  if (left > bytes) left = align_up(bytes, kHeapAlign);
  if (left > blocks * least) left = blocks * least;
  if (left < first) return false;
  uint8_t* memory = arena_alloc_unwritten(a, left);
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
  if (!place_pass(e, pages_max) || !place_sampling(e) || !place_sequences(e, pages_max)) {
    const int64_t limit = static_cast<int64_t>(e->arena.limit);
    const int64_t used = static_cast<int64_t>(e->arena.used);
    return error_set(&e->error, Status::kOutOfMemory, used, limit,
                     "scratch memory does not fit: # bytes are in use, the engine may have #",
                     {used, limit});
  }
  e->observation = {-1, 0, kNoBlock};
  e->scratch_bytes = e->arena.used - before;
  if (!place_cache(e)) {
    const int64_t rest = static_cast<int64_t>(e->arena.limit - e->arena.used);
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
