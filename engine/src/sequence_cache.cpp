#include "sequence_cache.h"

#include "memory_ops.h"

namespace leanedge {
namespace {

int32_t min_i32(int32_t a, int32_t b) { return a < b ? a : b; }

// Values of one f16 row set: (kv_heads, rows, head_dim). Of sizes that may not fit yet: 64 bits.
uint64_t rows_values(const CachePool& pool, int32_t rows) {
  return static_cast<uint64_t>(pool.kv_heads) * static_cast<uint64_t>(rows) *
         static_cast<uint64_t>(pool.head_dim);
}

// Whether a page holds every channel of every head as f16.
bool plan_lossless(const CachePlan& plan) {
  if (plan.k_storage != PageStorage::kF16 || plan.v_storage != PageStorage::kF16) return false;
  if (plan.evicting) return false;
  for (int32_t layer = 0; layer < plan.layers; ++layer) {
    for (int32_t head = 0; head < plan.kv_heads; ++head) {
      if (plan_head(plan, layer, head).width != static_cast<uint32_t>(plan.head_dim)) return false;
    }
  }
  return true;
}

void release_pages(CachePool* pool, SequenceCache* cache, int32_t keep) {
  while (cache->page_count > keep) heap_release(&pool->heap, cache->pages[--cache->page_count]);
}

}  // namespace

PlanEntry plan_entry(const CachePool& pool, const CachePlan* plan) {
  PlanEntry entry = {};
  entry.plan = plan;
  entry.sink_rows = min_i32(plan->sink, pool.context_tokens_max);
  entry.ring_rows = min_i32(plan->recent + kPageSlots, pool.context_tokens_max - entry.sink_rows);
  entry.pages_max = archive_pages(pool.context_tokens_max, plan->sink, plan->recent);
  entry.lossless = plan_lossless(*plan) ? 1 : 0;
  const uint64_t values =
      2 * (rows_values(pool, entry.sink_rows) + rows_values(pool, entry.ring_rows));
  // Four sections that must each be 16-byte aligned for kernels.
  entry.layer_bytes = align_up(values * 2 + 4 * 16, kHeapAlign);
  entry.region_bytes = entry.layer_bytes * static_cast<uint64_t>(pool.layers);
  // A page of no bytes (all heads of width 0) still takes a block.
  entry.page_bytes = align_up(plan->page_bytes ? plan->page_bytes : 1, kHeapAlign);
  return entry;
}

int32_t cache_pages(const CachePool& pool, int32_t plan, int32_t computed) {
  const CachePlan& block = *pool.plans[plan].plan;
  return archive_pages(computed, block.sink, block.recent);
}

uint64_t cache_bytes(const CachePool& pool, int32_t plan, int32_t computed) {
  if (computed == 0) return 0;
  const PlanEntry& entry = pool.plans[plan];
  return entry.region_bytes +
         entry.page_bytes * static_cast<uint64_t>(cache_pages(pool, plan, computed));
}

bool cache_reserve(CachePool* pool, SequenceCache* cache, int32_t rows) {
  const PlanEntry& entry = pool->plans[cache->plan];
  const int32_t pages = cache_pages(*pool, cache->plan, cache->computed + rows);
  const int32_t more = pages > cache->page_count ? pages - cache->page_count : 0;
  const bool first = cache->region == kNoBlock;
  const uint64_t bytes =
      entry.page_bytes * static_cast<uint64_t>(more) + (first ? entry.region_bytes : 0);
  if (bytes > pool->heap.bytes_free) return false;
  if (first) cache->region = heap_alloc(&pool->heap, entry.region_bytes);
  cache_take_pages(pool, cache, pages);
  return true;
}

void cache_take_pages(CachePool* pool, SequenceCache* cache, int32_t pages) {
  const PlanEntry& entry = pool->plans[cache->plan];
  while (cache->page_count < pages) {
    const int32_t page = heap_alloc(&pool->heap, entry.page_bytes);
    ENGINE_ASSERT(page != kNoBlock);
    cache->pages[cache->page_count++] = page;
  }
}

void cache_trim(CachePool* pool, SequenceCache* cache) {
  release_pages(pool, cache, cache_pages(*pool, cache->plan, cache->computed));
  if (cache->computed == 0 && cache->region != kNoBlock) cache_drop(pool, cache);
}

void cache_drop(CachePool* pool, SequenceCache* cache) {
  release_pages(pool, cache, 0);
  if (cache->region != kNoBlock) heap_release(&pool->heap, cache->region);
  cache->region = kNoBlock;
  cache->computed = 0;
  cache->ring_from = 0;
}

void cache_truncate(CachePool* pool, SequenceCache* cache, int32_t rows) {
  ENGINE_ASSERT(rows >= 0);
  if (rows >= cache->computed) return;
  const PlanEntry& entry = pool->plans[cache->plan];
  const int32_t sink = entry.plan->sink;
  const int32_t pages = cache_pages(*pool, cache->plan, rows);
  // Rows that the shorter cache has in its ring; those before ring_from must come from pages.
  const int32_t ring_begin = sink + kPageSlots * pages;
  const int32_t ring_from = cache->ring_from;
  if (rows == 0 || (ring_begin < ring_from && ring_begin < rows && !entry.lossless)) {
    cache_drop(pool, cache);
    return;
  }
  if (!cache_restore_rows(*pool, *cache, ring_begin, min_i32(rows, ring_from))) {
    cache_drop(pool, cache);
    return;
  }
  if (ring_begin < ring_from) cache->ring_from = ring_begin;
  cache->computed = rows;
  release_pages(pool, cache, pages);
}

bool cache_fork(CachePool* pool, const SequenceCache& from, SequenceCache* to) {
  ENGINE_ASSERT(to->computed == 0 && to->region == kNoBlock && to->plan == from.plan);
  if (from.computed == 0) return true;
  const PlanEntry& entry = pool->plans[from.plan];
  const int32_t region = heap_alloc(&pool->heap, entry.region_bytes);
  if (region == kNoBlock) return false;
  memory_copy(heap_address(pool->heap, region), heap_address(pool->heap, from.region),
              entry.region_bytes);
  to->region = region;
  to->computed = from.computed;
  to->ring_from = from.ring_from;
  // Pages beyond those of the computed rows belong to a prompt that is being read.
  to->page_count = cache_pages(*pool, from.plan, from.computed);
  for (int32_t i = 0; i < to->page_count; ++i) {
    heap_hold(&pool->heap, from.pages[i]);
    to->pages[i] = from.pages[i];
  }
  return true;
}

uint8_t* cache_page(const CachePool& pool, const SequenceCache& cache, int32_t page,
                    int32_t layer) {
  const CachePlan& plan = *pool.plans[cache.plan].plan;
  return heap_address(pool.heap, cache.pages[page]) + plan_layer(plan, layer).offset;
}

LayerRegion cache_region(const CachePool& pool, const SequenceCache& cache, int32_t layer) {
  const PlanEntry& entry = pool.plans[cache.plan];
  const uint64_t sink_bytes = align_up(rows_values(pool, entry.sink_rows) * 2, 16);
  const uint64_t ring_bytes = align_up(rows_values(pool, entry.ring_rows) * 2, 16);
  uint8_t* at =
      heap_address(pool.heap, cache.region) + entry.layer_bytes * static_cast<uint64_t>(layer);
  LayerRegion region;
  region.sink_k = reinterpret_cast<uint16_t*>(at);
  region.sink_v = reinterpret_cast<uint16_t*>(at + sink_bytes);
  region.ring_k = reinterpret_cast<uint16_t*>(at + 2 * sink_bytes);
  region.ring_v = reinterpret_cast<uint16_t*>(at + 2 * sink_bytes + ring_bytes);
  return region;
}

void cache_zones(const CachePool& pool, const SequenceCache& cache, int32_t layer,
                 const uint8_t** pages, kernels::AttentionTask* task) {
  const PlanEntry& entry = pool.plans[cache.plan];
  const int32_t sink = entry.plan->sink;
  task->plan = cache.plan;
  task->pages = pages;
  task->page_count = cache_pages(pool, cache.plan, cache.computed);
  task->span_count = 0;
  for (int32_t i = 0; i < task->page_count; ++i) pages[i] = cache_page(pool, cache, i, layer);
  if (cache.computed == 0) return;

  const LayerRegion region = cache_region(pool, cache, layer);
  const int32_t in_sink = min_i32(cache.computed, sink);
  if (in_sink) {
    task->spans[task->span_count++] = {region.sink_k, region.sink_v, entry.sink_rows, in_sink, 0};
  }
  // The ring's rows, in two spans where they wrap.
  int32_t position = sink + kPageSlots * task->page_count;
  while (position < cache.computed) {
    const int32_t row = (position - sink) % entry.ring_rows;
    const int32_t run = min_i32(cache.computed - position, entry.ring_rows - row);
    const size_t at = static_cast<size_t>(row) * static_cast<size_t>(pool.head_dim);
    task->spans[task->span_count++] = {region.ring_k + at, region.ring_v + at, entry.ring_rows, run,
                                       position};
    position += run;
  }
}

void cache_commit(const CachePool& pool, SequenceCache* cache, int32_t rows) {
  cache->computed += rows;
  const int32_t oldest = cache->computed - pool.plans[cache->plan].ring_rows;
  if (oldest > cache->ring_from) cache->ring_from = oldest;
}

}  // namespace leanedge
