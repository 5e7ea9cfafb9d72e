// A prompt segment, layer by layer. Between two layers the hidden state of each of its rows stands
// where prefill_states.h puts it: in part in the prefill's block, beside the K and V of one layer.
#include "prefill.h"

#include "error.h"
#include "memory_ops.h"
#include "observe.h"
#include "pass.h"
#include "prefill_states.h"

namespace leanedge {
namespace {

uint64_t kv_bytes(const ModelConfig& config, int32_t rows) {
  return align_up(static_cast<uint64_t>(rows) * static_cast<uint64_t>(config.kv_heads) *
                      static_cast<uint64_t>(config.head_dim) * sizeof(uint16_t),
                  16);
}

uint64_t block_bytes(const Engine& engine, int32_t plan, int32_t rows, int32_t pages) {
  return align_up(states_bytes(engine, plan, rows, pages) + 2 * kv_bytes(engine.config, rows),
                  kHeapAlign);
}

// Bytes of the states in the block of a prefill that is under way.
uint64_t held_states(const Engine& engine, const Sequence& sequence) {
  const Prefill& prefill = sequence.prefill;
  return states_bytes(engine, sequence.cache.plan, prefill.rows,
                      sequence.cache.page_count - prefill.first_page);
}

// K and V of the layer under way, until the next heap allocation.
struct DenseRows {
  uint16_t* k;  // (kv_heads, rows, head_dim)
  uint16_t* v;  // (kv_heads, rows, head_dim)
};

DenseRows dense_rows(const Engine& engine, const Sequence& sequence) {
  uint8_t* at =
      heap_address(engine.pool.heap, sequence.prefill.block) + held_states(engine, sequence);
  return {reinterpret_cast<uint16_t*>(at),
          reinterpret_cast<uint16_t*>(at + kv_bytes(engine.config, sequence.prefill.rows))};
}

// All rows of the layer are done: its zones move on, in the new region.
void finish_layer(Engine* engine, Sequence* sequence, const DenseRows& dense) {
  CachePool& pool = engine->pool;
  Prefill& prefill = sequence->prefill;
  SequenceCache next = sequence->cache;
  next.region = prefill.region;
  if (sequence->cache.region != kNoBlock) {
    const uint64_t bytes = pool.plans[next.plan].layer_bytes;
    const uint64_t at = bytes * static_cast<uint64_t>(prefill.layer);
    memory_copy(heap_address(pool.heap, next.region) + at,
                heap_address(pool.heap, sequence->cache.region) + at, bytes);
  }
  states_push(engine, *sequence, &next, dense.k, dense.v);
  ++prefill.layer;
  prefill.row = 0;
}

// All layers are done: the segment is computed.
void finish_segment(Engine* engine, Sequence* sequence, const Run& run) {
  Prefill& prefill = sequence->prefill;
  float* x = engine->scratch.x;
  const size_t dim = static_cast<size_t>(engine->config.dim);
  if (run.x_row) memory_copy(x, x + static_cast<size_t>(run.x_row) * dim, dim * sizeof(float));
  heap_release(&engine->pool.heap, prefill.block);
  if (sequence->cache.region != kNoBlock) heap_release(&engine->pool.heap, sequence->cache.region);
  sequence->cache.region = prefill.region;
  cache_commit(engine->pool, &sequence->cache, prefill.rows);
  engine->rows += static_cast<uint64_t>(prefill.rows);
  prefill.block = kNoBlock;
  prefill.region = kNoBlock;
}

}  // namespace

uint64_t prefill_bytes_max(const Engine& engine, int32_t rows) {
  return align_up(states_bytes_max(engine, rows) + 16 + 2 * kv_bytes(engine.config, rows),
                  kHeapAlign);
}

uint64_t prefill_bytes(const Engine& engine, const Sequence& sequence) {
  return align_up(
      held_states(engine, sequence) + 2 * kv_bytes(engine.config, sequence.prefill.rows),
      kHeapAlign);
}

Status prefill_begin(Engine* engine, Sequence* sequence) {
  CachePool& pool = engine->pool;
  SequenceCache& cache = sequence->cache;
  const PlanEntry& entry = pool.plans[cache.plan];
  ENGINE_ASSERT(log_word(engine->logs, sequence->log, cache.computed) & kWordStart);
  const int32_t end =
      log_segment_end(engine->logs, sequence->log, cache.computed, sequence->log.tokens);
  const int32_t rows = end - cache.computed;
  const int32_t pages = cache_pages(pool, cache.plan, end);
  const int32_t more = pages - cache.page_count;
  const uint64_t block = block_bytes(*engine, cache.plan, rows, more);
  const uint64_t bytes =
      entry.page_bytes * static_cast<uint64_t>(more) + entry.region_bytes + block;
  if (bytes > pool.heap.bytes_free) {
    const uint64_t old = cache.region == kNoBlock ? 0 : entry.region_bytes;
    const int64_t needed = static_cast<int64_t>(cache_bytes(pool, cache.plan, end) + old + block);
    const int64_t all = static_cast<int64_t>(pool.heap.bytes);
    const int64_t rest = static_cast<int64_t>(pool.heap.bytes_free);
    const bool never = needed > all;
    return error_set(&engine->error, never ? Status::kOutOfMemory : Status::kOutOfPages,
                     static_cast<int64_t>(bytes), never ? all : rest,
                     "reading a prompt of # tokens takes # more bytes of cache: # are free, of #",
                     {rows, static_cast<int64_t>(bytes), rest, all});
  }
  Prefill& prefill = sequence->prefill;
  prefill.first_page = cache.page_count;
  cache_take_pages(&pool, &cache, pages);
  prefill.region = heap_alloc(&pool.heap, entry.region_bytes);
  prefill.block = heap_alloc(&pool.heap, block);
  prefill.rows = rows;
  prefill.layer = 0;
  prefill.row = 0;
  return Status::kOk;
}

int32_t prefill_advance(Engine* engine, Sequence* sequence, int32_t rows_max) {
  Prefill& prefill = sequence->prefill;
  const DenseRows dense = dense_rows(*engine, *sequence);
  int32_t rows = prefill.rows - prefill.row;
  if (rows > rows_max) rows = rows_max;
  if (rows > engine->options.batch_rows_max) rows = engine->options.batch_rows_max;
  Run run = {};
  run.sequence = sequence;
  run.rows = rows;
  run.first = sequence->cache.computed + prefill.row;
  run.dense_k = dense.k;
  run.dense_v = dense.v;
  run.dense_stride = prefill.rows;
  run.dense_row = prefill.row;
  const Pass pass = {engine, &run, 1, rows, states_batch(*engine, *sequence, run)};
  if (prefill.layer == 0) {
    pass_embed(pass);
  } else {
    states_load(engine, *sequence, run);
  }
  // Computed again for every layer: about 2 us a row, next to the row's products.
  pass_angles(pass);
  const bool last_layer = prefill.layer == engine->config.layers - 1;
  const bool last_row = prefill.row + rows == prefill.rows;
  if (!last_layer) {
    pass_layer(pass, prefill.layer);
    states_store(engine, *sequence, run);
  } else if (last_row || observes(pass)) {
    pass_last_layer(pass);
  } else {
    pass_keys(pass, prefill.layer);
  }
  if (run.failed) {
    prefill_drop(engine, sequence);
    cache_drop(&engine->pool, &sequence->cache);
    return 0;
  }
  prefill.row += rows;
  if (last_row) finish_layer(engine, sequence, dense);
  if (prefill.layer == engine->config.layers) finish_segment(engine, sequence, run);
  return rows;
}

void prefill_drop(Engine* engine, Sequence* sequence) {
  Prefill& prefill = sequence->prefill;
  if (prefill.block == kNoBlock) return;
  heap_release(&engine->pool.heap, prefill.block);
  heap_release(&engine->pool.heap, prefill.region);
  prefill.block = kNoBlock;
  prefill.region = kNoBlock;
  cache_trim(&engine->pool, &sequence->cache);
}

}  // namespace leanedge
