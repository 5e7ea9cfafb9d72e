// Between two layers the hidden state of each row of a prompt stands somewhere, and the room for
// that is found where the cache will need it last: in the last layer's part of the pages that the
// segment adds, and of the region that it will leave. Nothing is written there before the last
// layer is done, and by then hidden states are needed no more. What is left over lies in the
// prefill's block, before the K and V of one layer.
//
// The second-last layer's part of those pages is free almost as long. When that layer's pages are
// flushed, one after the other, states move out of each page just before: to K and V of rows of the
// same layer that are in the zones already, and hence read no more. There the last layer reads them
// before its own K and V come: page i of those that the segment adds, from kPagesBare on, has states
// of rows below 32 (i - 1), and they move to rows 32 (i - 1) .. 32 i - 1, which are in the zones when
// page i is flushed.
#include "prefill_states.h"

#include <string.h>

#include "hidden_rows.h"

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

// Pages of a segment, from the first on, whose second-last layer holds no states.
constexpr int32_t kPagesBare = 2;

// How many rows' hidden states stand where, in the order of rows.
struct Places {
  uint64_t bytes;      // of one state
  int32_t per_second;  // in the second-last layer's part of a page
  int32_t per_run;     // of these, in K, or V, of 32 rows of one head
  int32_t in_second;   // in that part of all pages but kPagesBare
  int32_t per_page;    // in the last layer's part of a page
  int32_t in_pages;    // of all pages that the segment adds
  int32_t in_region;   // in the last layer's part of the region
  int32_t in_block;    // the others
};

int32_t min_i32(int32_t a, int32_t b) { return a < b ? a : b; }

Places places_of(const Engine& engine, int32_t plan, int32_t rows, int32_t pages) {
  const PlanEntry& entry = engine.pool.plans[plan];
  const PageLayer& last = plan_layer(*entry.plan, engine.config.layers - 1);
  Places places;
  places.bytes = state_bytes(engine.config, rows);
  const uint64_t run_bytes = static_cast<uint64_t>(kPageSlots * engine.config.head_dim) * 2;
  places.per_run = static_cast<int32_t>(run_bytes / places.bytes);
  places.per_second = 0;
  if (engine.config.layers > 1) {
    const PageLayer& second = plan_layer(*entry.plan, engine.config.layers - 2);
    const int32_t fit = static_cast<int32_t>(second.bytes / places.bytes);
    places.per_second =
        min_i32(min_i32(fit, 2 * engine.config.kv_heads * places.per_run), kPageSlots);
  }
  const int32_t holding = pages > kPagesBare ? pages - kPagesBare : 0;
  places.in_second = min_i32(rows, places.per_second * holding);
  places.per_page = static_cast<int32_t>(last.bytes / places.bytes);
  places.in_pages = min_i32(rows - places.in_second, places.per_page * pages);
  const int32_t rest = rows - places.in_second - places.in_pages;
  places.in_region = min_i32(rest, static_cast<int32_t>(entry.layer_bytes / places.bytes));
  places.in_block = rest - places.in_region;
  return places;
}

// Bytes of the states in the block.
uint64_t block_part(const Places& places) {
  return align_up(static_cast<uint64_t>(places.in_block) * places.bytes, 16);
}

Places places_of(const Engine& engine, const Sequence& sequence) {
  const Prefill& prefill = sequence.prefill;
  return places_of(engine, sequence.cache.plan, prefill.rows,
                   sequence.cache.page_count - prefill.first_page);
}

// Where state `i` of those in the second-last layer's part of page `page` of the segment stands
// before that layer's page is flushed.
uint8_t* second_before(const Engine& engine, const Sequence& sequence, const Places& places,
                       int32_t page, int32_t i) {
  return cache_page(engine.pool, sequence.cache, sequence.prefill.first_page + page,
                    engine.config.layers - 2) +
         static_cast<uint64_t>(i) * places.bytes;
}

// And afterwards: in K of rows 32 (page - 1) on of one head after the other, then in V.
uint8_t* second_after(const Engine& engine, const Sequence& sequence, const Places& places,
                      int32_t page, int32_t i) {
  const ModelConfig& c = engine.config;
  const uint64_t row_bytes = static_cast<uint64_t>(c.head_dim) * sizeof(uint16_t);
  const uint64_t head_bytes = static_cast<uint64_t>(sequence.prefill.rows) * row_bytes;
  const uint64_t k_bytes = align_up(static_cast<uint64_t>(c.kv_heads) * head_bytes, 16);
  const int32_t run = i / places.per_run;
  return heap_address(engine.pool.heap, sequence.prefill.block) + block_part(places) +
         (run < c.kv_heads ? 0 : k_bytes) +
         static_cast<uint64_t>(run % c.kv_heads) * head_bytes +
         static_cast<uint64_t>(kPageSlots * (page - kPagesBare + 1)) * row_bytes +
         static_cast<uint64_t>(i % places.per_run) * places.bytes;
}

// Where the state of row `row` of the segment stands until the next heap allocation.
uint8_t* state_of(const Engine& engine, const Sequence& sequence, const Places& places,
                  int32_t row) {
  const CachePool& pool = engine.pool;
  const Prefill& prefill = sequence.prefill;
  const PlanEntry& entry = pool.plans[sequence.cache.plan];
  const int32_t last = engine.config.layers - 1;
  if (row < places.in_second) {
    const int32_t page = kPagesBare + row / places.per_second;
    const int32_t i = row % places.per_second;
    return prefill.layer < last ? second_before(engine, sequence, places, page, i)
                                : second_after(engine, sequence, places, page, i);
  }
  row -= places.in_second;
  if (row < places.in_pages) {
    const int32_t page = prefill.first_page + row / places.per_page;
    return cache_page(pool, sequence.cache, page, last) +
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

// Moves the states in the second-last layer's part of page `page` out of it.
void move_states(const Engine& engine, const Sequence& sequence, const Places& places,
                 int32_t page) {
  for (int32_t i = 0; i < places.per_second; ++i) {
    if ((page - kPagesBare) * places.per_second + i >= places.in_second) return;
    memcpy(second_after(engine, sequence, places, page, i),
           second_before(engine, sequence, places, page, i), static_cast<size_t>(places.bytes));
  }
}

}  // namespace

uint64_t states_bytes_max(const Engine& engine, int32_t rows) {
  // Packed states of many rows may take less than exact ones of few.
  return static_cast<uint64_t>(rows) * hidden_row_bytes(engine.config.dim) + kPrefillExactBytes;
}

uint64_t states_bytes(const Engine& engine, int32_t plan, int32_t rows, int32_t pages) {
  return block_part(places_of(engine, plan, rows, pages));
}

float* states_batch(const Engine& engine, const Sequence&, const Run&) { return engine.scratch.x; }

void states_load(Engine* engine, const Sequence& sequence, const Run& run) {
  const Places places = places_of(*engine, sequence);
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

void states_store(Engine* engine, const Sequence& sequence, const Run& run) {
  const Places places = places_of(*engine, sequence);
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

void states_push(Engine* engine, const Sequence& sequence, SequenceCache* next, const uint16_t* k,
                 const uint16_t* v) {
  CachePool* pool = &engine->pool;
  const Prefill& prefill = sequence.prefill;
  const Places places = places_of(*engine, sequence);
  int32_t pushed = 0;
  if (prefill.layer == engine->config.layers - 2 && places.in_second > 0) {
    const CachePlan& plan = *pool->plans[next->plan].plan;
    for (int32_t page = prefill.first_page + kPagesBare; page < next->page_count; ++page) {
      // The row that flushes the page waits until its states have moved.
      const int32_t flush = plan.sink + plan.recent + kPageSlots * (page + 1) - 1 - next->computed;
      cache_push_part(pool, next, engine->context, prefill.layer, k, v, prefill.rows, pushed, flush);
      pushed = flush;
      move_states(*engine, sequence, places, page - prefill.first_page);
    }
  }
  cache_push_part(pool, next, engine->context, prefill.layer, k, v, prefill.rows, pushed,
                  prefill.rows);
}

}  // namespace leanedge
