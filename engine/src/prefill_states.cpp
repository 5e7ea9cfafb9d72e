// Between two layers the hidden state of each row of a prompt stands somewhere, and the room for
// that is found where the cache will need it last: in the last layer's part of the pages that the
// segment adds, and of the region that it will leave. Nothing is written there before the last
// layer is done, and by then hidden states are needed no more. What is left over lies in the
// prefill's block.
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

// How many rows' hidden states stand where.
struct Places {
  uint64_t bytes;     // of one state
  int32_t per_page;   // in the last layer's part of a page
  int32_t in_pages;   // of all pages that the segment adds
  int32_t in_region;  // in the last layer's part of the region
  int32_t in_block;   // the others
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
uint64_t block_part(const Places& places) {
  return align_up(static_cast<uint64_t>(places.in_block) * places.bytes, 16);
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

}  // namespace leanedge
