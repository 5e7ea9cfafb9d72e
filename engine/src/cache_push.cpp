// New rows of one layer enter the zones, one after the other, and fill pages.
#include <string.h>

#include "sequence_cache.h"

namespace leanedge {
namespace {

// First value of row `row` of head `head` in (kv_heads, stride, head_dim).
size_t row_at(const CachePool& pool, int32_t head, int32_t stride, int32_t row) {
  return (static_cast<size_t>(head) * static_cast<size_t>(stride) + static_cast<size_t>(row)) *
         static_cast<size_t>(pool.head_dim);
}

}  // namespace

void cache_push(CachePool* pool, SequenceCache* cache, kernels::Context* context, int32_t layer,
                const uint16_t* k, const uint16_t* v, int32_t rows) {
  cache_push_part(pool, cache, context, layer, k, v, rows, 0, rows);
}

void cache_push_part(CachePool* pool, SequenceCache* cache, kernels::Context* context,
                     int32_t layer, const uint16_t* k, const uint16_t* v, int32_t rows,
                     int32_t begin, int32_t end) {
  const PlanEntry& entry = pool->plans[cache->plan];
  const CachePlan& plan = *entry.plan;
  const LayerRegion region = cache_region(*pool, *cache, layer);
  const size_t row_bytes = static_cast<size_t>(pool->head_dim) * 2;
  int32_t pages = cache_pages(*pool, cache->plan, cache->computed + begin);
  for (int32_t i = begin; i < end; ++i) {
    const int32_t position = cache->computed + i;
    const bool in_sink = position < plan.sink;
    const int32_t stride = in_sink ? entry.sink_rows : entry.ring_rows;
    const int32_t row = in_sink ? position : (position - plan.sink) % entry.ring_rows;
    for (int32_t head = 0; head < pool->kv_heads; ++head) {
      const size_t from = row_at(*pool, head, rows, i);
      const size_t to = row_at(*pool, head, stride, row);
      memcpy((in_sink ? region.sink_k : region.ring_k) + to, k + from, row_bytes);
      memcpy((in_sink ? region.sink_v : region.ring_v) + to, v + from, row_bytes);
    }
    if (cache_pages(*pool, cache->plan, position + 1) == pages) continue;
    kernels::page_flush(context, plan, layer, pool->kv_heads, pool->head_dim, region.ring_k,
                        region.ring_v, entry.ring_rows, pages * kPageSlots % entry.ring_rows,
                        cache_page(*pool, *cache, pages, layer));
    ++pages;
  }
}

}  // namespace leanedge
