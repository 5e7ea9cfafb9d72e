// A prompt segment, layer by layer. Between two layers the hidden state of each of its rows stands
// somewhere, and the room for that is found where the cache will need it last: in the last layer's
// part of the pages that the segment adds, and of the region that it will leave. Nothing is written
// there before the last layer is done, and by then hidden states are needed no more. What is left
// over lies in a block of its own, beside the K and V of one layer.
#include "prefill.h"

#include <string.h>

#include "error.h"
#include "hidden_rows.h"
#include "observe.h"
#include "pass.h"

namespace leanedge {
namespace {

bool is_exact(const ModelConfig& config, int32_t rows) {
  return static_cast<uint64_t>(rows) * static_cast<uint64_t>(config.dim) * sizeof(float) <=
         kPrefillExactBytes;
}

// Bytes of one row's hidden state.
uint64_t state_bytes(const ModelConfig& config, int32_t rows) {
  return is_exact(config, rows) ? static_cast<uint64_t>(config.dim) * sizeof(float)
                                : hidden_row_bytes(config.dim);
}

uint64_t kv_bytes(const ModelConfig& config, int32_t rows) {
  return align_up(static_cast<uint64_t>(rows) * static_cast<uint64_t>(config.kv_heads) *
                      static_cast<uint64_t>(config.head_dim) * sizeof(uint16_t),
                  16);
}

// How many rows' hidden states stand where.
struct Places {
  uint64_t bytes;    // of one state
  int32_t per_page;  // in the last layer's part of a page
  int32_t in_pages;  // of all pages that the segment adds
  int32_t in_region; // in the last layer's part of the region
  int32_t in_block;  // the others
};

int32_t min_i32(int32_t a, int32_t b) { return a < b ? a : b; }

Places places_of(const Engine& engine, int32_t plan, int32_t rows, int32_t pages) {
  const PlanEntry& entry = engine.pool.plans[plan];
  const PageLayer& last = plan_layer(*entry.plan, engine.config.layers - 1);
  Places places;
  places.bytes = state_bytes(engine.config, rows);
  places.per_page = static_cast<int32_t>(last.bytes / places.bytes);
  places.in_pages = min_i32(rows, places.per_page * pages);
  places.in_region =
      min_i32(rows - places.in_pages, static_cast<int32_t>(entry.layer_bytes / places.bytes));
  places.in_block = rows - places.in_pages - places.in_region;
  return places;
}

// Bytes of the states in the block.
uint64_t states_bytes(const Places& places) {
  return align_up(static_cast<uint64_t>(places.in_block) * places.bytes, 16);
}

uint64_t block_bytes(const Engine& engine, const Places& places, int32_t rows) {
  return align_up(states_bytes(places) + 2 * kv_bytes(engine.config, rows), kHeapAlign);
}

Places places_of(const Engine& engine, const Sequence& sequence) {
  const Prefill& prefill = sequence.prefill;
  return places_of(engine, sequence.cache.plan, prefill.rows,
                   sequence.cache.page_count - prefill.first_page);
}

// Where the state of row `row` of the segment stands until the next heap allocation.
uint8_t* state_of(const Engine& engine, const Sequence& sequence, const Places& places,
                  int32_t row) {
  const CachePool& pool = engine.pool;
  const Prefill& prefill = sequence.prefill;
  const PlanEntry& entry = pool.plans[sequence.cache.plan];
  const int32_t last = engine.config.layers - 1;
  if (row < places.in_pages) {
    const int32_t page = sequence.cache.pages[prefill.first_page + row / places.per_page];
    return heap_address(pool.heap, page) + plan_layer(*entry.plan, last).offset +
           static_cast<uint64_t>(row % places.per_page) * places.bytes;
  }
  row -= places.in_pages;
  if (row < places.in_region) {
    return heap_address(pool.heap, prefill.region) +
           entry.layer_bytes * static_cast<uint64_t>(last) +
           static_cast<uint64_t>(row) * places.bytes;
  }
  row -= places.in_region;
  return heap_address(pool.heap, prefill.block) + static_cast<uint64_t>(row) * places.bytes;
}

// Copies the states of a run between their places and the batch.
void load_states(Engine* engine, const Sequence& sequence, const Places& places, const Run& run) {
  const int32_t dim = engine->config.dim;
  const bool exact = is_exact(engine->config, sequence.prefill.rows);
  for (int32_t r = 0; r < run.rows; ++r) {
    const uint8_t* state = state_of(*engine, sequence, places, run.dense_row + r);
    float* x = engine->scratch.x + static_cast<size_t>(r) * static_cast<size_t>(dim);
    if (exact) {
      memcpy(x, state, static_cast<size_t>(places.bytes));
    } else {
      hidden_unpack(state, dim, x);
    }
  }
}

void store_states(Engine* engine, const Sequence& sequence, const Places& places, const Run& run) {
  const int32_t dim = engine->config.dim;
  const bool exact = is_exact(engine->config, sequence.prefill.rows);
  for (int32_t r = 0; r < run.rows; ++r) {
    uint8_t* state = state_of(*engine, sequence, places, run.dense_row + r);
    const float* x = engine->scratch.x + static_cast<size_t>(r) * static_cast<size_t>(dim);
    if (exact) {
      memcpy(state, x, static_cast<size_t>(places.bytes));
    } else {
      hidden_pack(x, dim, state);
    }
  }
}

// K and V of the layer under way, until the next heap allocation.
struct DenseRows {
  uint16_t* k;  // (kv_heads, rows, head_dim)
  uint16_t* v;  // (kv_heads, rows, head_dim)
};

DenseRows dense_rows(const Engine& engine, const Prefill& prefill, const Places& places) {
  uint8_t* at = heap_address(engine.pool.heap, prefill.block) + states_bytes(places);
  return {reinterpret_cast<uint16_t*>(at),
          reinterpret_cast<uint16_t*>(at + kv_bytes(engine.config, prefill.rows))};
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
    memcpy(heap_address(pool.heap, next.region) + at,
           heap_address(pool.heap, sequence->cache.region) + at, static_cast<size_t>(bytes));
  }
  cache_push(&pool, &next, engine->context, prefill.layer, dense.k, dense.v, prefill.rows);
  ++prefill.layer;
  prefill.row = 0;
}

// All layers are done: the segment is computed.
void finish_segment(Engine* engine, Sequence* sequence, const Run& run) {
  Prefill& prefill = sequence->prefill;
  float* x = engine->scratch.x;
  const size_t dim = static_cast<size_t>(engine->config.dim);
  if (run.x_row) memcpy(x, x + static_cast<size_t>(run.x_row) * dim, dim * sizeof(float));
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
  // Packed states of many rows may take less than exact ones of few.
  const uint64_t states = static_cast<uint64_t>(rows) * hidden_row_bytes(engine.config.dim);
  return align_up(states + kPrefillExactBytes + 16 + 2 * kv_bytes(engine.config, rows), kHeapAlign);
}

uint64_t prefill_bytes(const Engine& engine, const Sequence& sequence) {
  return block_bytes(engine, places_of(engine, sequence), sequence.prefill.rows);
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
  const uint64_t block =
      block_bytes(*engine, places_of(*engine, cache.plan, rows, more), rows);
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
  const Places places = places_of(*engine, *sequence);
  const DenseRows dense = dense_rows(*engine, prefill, places);
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
  const Pass pass = {engine, &run, 1, rows, engine->scratch.x};
  if (prefill.layer == 0) {
    pass_embed(pass);
  } else {
    load_states(engine, *sequence, places, run);
  }
  // Computed again for every layer: about 2 us a row, next to the row's products.
  pass_angles(pass);
  const bool last_layer = prefill.layer == engine->config.layers - 1;
  const bool last_row = prefill.row + rows == prefill.rows;
  if (!last_layer) {
    pass_layer(pass, prefill.layer);
    store_states(engine, *sequence, places, run);
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
