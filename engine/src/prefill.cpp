#include "prefill.h"

#include <string.h>

#include "error.h"
#include "pass.h"

namespace leanedge {
namespace {

// The parts of a prefill's block until the next heap allocation.
struct Parts {
  float* x;     // (rows, dim)
  uint16_t* k;  // (kv_heads, rows, head_dim)
  uint16_t* v;  // (kv_heads, rows, head_dim)
};

uint64_t x_bytes(const ModelConfig& config, int32_t rows) {
  return align_up(static_cast<uint64_t>(rows) * static_cast<uint64_t>(config.dim) * sizeof(float),
                  16);
}

uint64_t kv_bytes(const ModelConfig& config, int32_t rows) {
  return align_up(static_cast<uint64_t>(rows) * static_cast<uint64_t>(config.kv_heads) *
                      static_cast<uint64_t>(config.head_dim) * sizeof(uint16_t),
                  16);
}

Parts parts_of(const Engine& engine, const Prefill& prefill) {
  uint8_t* block = heap_address(engine.pool.heap, prefill.block);
  const uint64_t x = x_bytes(engine.config, prefill.rows);
  const uint64_t kv = kv_bytes(engine.config, prefill.rows);
  return {reinterpret_cast<float*>(block), reinterpret_cast<uint16_t*>(block + x),
          reinterpret_cast<uint16_t*>(block + x + kv)};
}

// All rows of the layer are done: its zones move on, in the new region.
void finish_layer(Engine* engine, Sequence* sequence, const Parts& parts) {
  CachePool& pool = engine->pool;
  Prefill& prefill = sequence->prefill;
  SequenceCache next = sequence->cache;
  next.region = prefill.region;
  if (sequence->cache.region != kNoBlock) {
    const uint64_t bytes = pool.plans[next.plan].layer_bytes;
    const uint64_t at = bytes * static_cast<uint64_t>(prefill.layer);
    memcpy(heap_address(pool.heap, next.region) + at,
           heap_address(pool.heap, sequence->cache.region) + at, static_cast<size_t>(bytes));
  }
  cache_push(&pool, &next, engine->context, prefill.layer, parts.k, parts.v, prefill.rows);
  ++prefill.layer;
  prefill.row = 0;
}

// All layers are done: the segment is computed.
void finish_segment(Engine* engine, Sequence* sequence, const Parts& parts) {
  Prefill& prefill = sequence->prefill;
  const size_t dim = static_cast<size_t>(engine->config.dim);
  memcpy(engine->scratch.x, parts.x + static_cast<size_t>(prefill.rows - 1) * dim,
         dim * sizeof(float));
  heap_release(&engine->pool.heap, prefill.block);
  if (sequence->cache.region != kNoBlock) heap_release(&engine->pool.heap, sequence->cache.region);
  sequence->cache.region = prefill.region;
  cache_commit(engine->pool, &sequence->cache, prefill.rows);
  engine->rows += static_cast<uint64_t>(prefill.rows);
  prefill.block = kNoBlock;
  prefill.region = kNoBlock;
}

}  // namespace

uint64_t prefill_bytes(const Engine& engine, int32_t rows) {
  return align_up(x_bytes(engine.config, rows) + 2 * kv_bytes(engine.config, rows), kHeapAlign);
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
  const uint64_t block = prefill_bytes(*engine, rows);
  const uint64_t bytes = entry.page_bytes * static_cast<uint64_t>(pages - cache.page_count) +
                         entry.region_bytes + block;
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
  cache_take_pages(&pool, &cache, pages);
  sequence->prefill.region = heap_alloc(&pool.heap, entry.region_bytes);
  sequence->prefill.block = heap_alloc(&pool.heap, block);
  sequence->prefill.rows = rows;
  sequence->prefill.layer = 0;
  sequence->prefill.row = 0;
  return Status::kOk;
}

int32_t prefill_advance(Engine* engine, Sequence* sequence, int32_t rows_max) {
  Prefill& prefill = sequence->prefill;
  const Parts parts = parts_of(*engine, prefill);
  int32_t rows = prefill.rows - prefill.row;
  if (rows > rows_max) rows = rows_max;
  if (rows > engine->options.batch_rows_max) rows = engine->options.batch_rows_max;
  Run run = {};
  run.sequence = sequence;
  run.rows = rows;
  run.first = sequence->cache.computed + prefill.row;
  run.dense_k = parts.k;
  run.dense_v = parts.v;
  run.dense_stride = prefill.rows;
  run.dense_row = prefill.row;
  float* x = parts.x + static_cast<size_t>(prefill.row) * static_cast<size_t>(engine->config.dim);
  const Pass pass = {engine, &run, 1, rows, x};
  if (prefill.layer == 0) pass_embed(pass);
  // Computed again for every layer: about 2 us a row, next to the row's products.
  pass_angles(pass);
  pass_layer(pass, prefill.layer);
  if (run.failed) {
    prefill_drop(engine, sequence);
    cache_drop(&engine->pool, &sequence->cache);
    return 0;
  }
  prefill.row += rows;
  if (prefill.row == prefill.rows) finish_layer(engine, sequence, parts);
  if (prefill.layer == engine->config.layers) finish_segment(engine, sequence, parts);
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
