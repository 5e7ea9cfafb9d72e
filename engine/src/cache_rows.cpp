// Rows of a cache as the host reads and writes them, for snapshots and truncation.
#include "leanedge/half.h"
#include "memory_ops.h"
#include "sequence_cache.h"

namespace leanedge {
namespace {

int32_t min_i32(int32_t a, int32_t b) { return a < b ? a : b; }

// A row of the sink or the ring, and how many of the `rows` that follow it lie behind it in memory.
uint16_t* full_rows(const CachePool& pool, const SequenceCache& cache, int32_t layer, int32_t head,
                    int32_t position, bool value, int32_t* rows) {
  const PlanEntry& entry = pool.plans[cache.plan];
  const LayerRegion region = cache_region(pool, cache, layer);
  const int32_t sink = entry.plan->sink;
  const bool in_sink = position < sink;
  const int32_t stride = in_sink ? entry.sink_rows : entry.ring_rows;
  const int32_t row = in_sink ? position : (position - sink) % entry.ring_rows;
  *rows = min_i32(*rows, stride - row);
  uint16_t* base =
      in_sink ? (value ? region.sink_v : region.sink_k) : (value ? region.ring_v : region.ring_k);
  return base +
         (static_cast<size_t>(head) * static_cast<size_t>(stride) + static_cast<size_t>(row)) *
             static_cast<size_t>(pool.head_dim);
}

// Copies `rows` rows of one lossless page, from slot `slot` on.
void read_page_rows(const CachePool& pool, const SequenceCache& cache, int32_t layer, int32_t head,
                    int32_t page, int32_t slot, int32_t rows, bool value, uint16_t* out) {
  const PlanEntry& entry = pool.plans[cache.plan];
  ENGINE_ASSERT(entry.lossless);
  const uint8_t* block =
      heap_address(pool.heap, cache.pages[page]) + plan_layer(*entry.plan, layer).offset;
  const PageHead& layout = plan_head(*entry.plan, layer, head);
  const size_t dim = static_cast<size_t>(pool.head_dim);
  const size_t first = static_cast<size_t>(slot);
  if (value) {  // (32, dim)
    memory_read(out, block + layout.v_values + first * dim * 2,
                static_cast<size_t>(rows) * dim * 2);
    return;
  }
  uint16_t k[kHeadDimMax * kPageSlots];  // (dim, 32)
  memory_read(k, block + layout.k_values, dim * kPageSlots * 2);
  for (size_t r = 0; r < static_cast<size_t>(rows); ++r) {
    for (size_t d = 0; d < dim; ++d) out[r * dim + d] = k[d * kPageSlots + first + r];
  }
}

}  // namespace

void cache_read_rows(const CachePool& pool, const SequenceCache& cache, int32_t layer, int32_t head,
                     int32_t position, int32_t rows, bool value, uint16_t* out) {
  const int32_t sink = pool.plans[cache.plan].plan->sink;
  const size_t dim = static_cast<size_t>(pool.head_dim);
  ENGINE_ASSERT(position >= 0 && position + rows <= cache.computed);
  while (rows > 0) {
    int32_t run = position < sink ? min_i32(rows, sink - position) : rows;
    if (position >= sink && position < cache.ring_from) {
      const int32_t slot = (position - sink) % kPageSlots;
      run = min_i32(min_i32(run, kPageSlots - slot), cache.ring_from - position);
      read_page_rows(pool, cache, layer, head, (position - sink) / kPageSlots, slot, run, value,
                     out);
    } else {
      const uint16_t* from = full_rows(pool, cache, layer, head, position, value, &run);
      memory_read(out, from, static_cast<size_t>(run) * dim * 2);
    }
    out += static_cast<size_t>(run) * dim;
    position += run;
    rows -= run;
  }
}

void cache_write_rows(const CachePool& pool, const SequenceCache& cache, int32_t layer,
                      int32_t head, int32_t position, int32_t rows, bool value,
                      const uint16_t* in) {
  const int32_t sink = pool.plans[cache.plan].plan->sink;
  const size_t dim = static_cast<size_t>(pool.head_dim);
  while (rows > 0) {
    int32_t run = position < sink ? min_i32(rows, sink - position) : rows;
    uint16_t* to = full_rows(pool, cache, layer, head, position, value, &run);
    memory_write(to, in, static_cast<size_t>(run) * dim * 2);
    in += static_cast<size_t>(run) * dim;
    position += run;
    rows -= run;
  }
}

bool cache_restore_rows(const CachePool& pool, const SequenceCache& cache, int32_t begin,
                        int32_t end) {
  uint16_t rows[kPageSlots * kHeadDimMax];
  for (int32_t position = begin; position < end; position += kPageSlots) {
    const int32_t count = min_i32(kPageSlots, end - position);
    for (int32_t i = 0; i < pool.layers * pool.kv_heads * 2; ++i) {
      const int32_t layer = i / 2 / pool.kv_heads;
      const int32_t head = i / 2 % pool.kv_heads;
      cache_read_rows(pool, cache, layer, head, position, count, i % 2 == 1, rows);
      for (int32_t d = 0; d < count * pool.head_dim; ++d) {
        if (!f16_finite(rows[d])) return false;  // as a restored page may have
      }
      cache_write_rows(pool, cache, layer, head, position, count, i % 2 == 1, rows);
    }
  }
  return true;
}

}  // namespace leanedge
