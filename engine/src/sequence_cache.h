// The cache of a sequence: a region of full rows (the sink, and a ring of recent rows) and archive
// pages. With c rows computed it holds exactly archive_pages(c) pages; the ring holds rows
// [sink + 32 * pages, c). A page is flushed as soon as the ring is full, so that what it held may
// be overwritten by the next 32 rows only.
#pragma once

#include "cache_heap.h"
#include "leanedge/engine.h"
#include "leanedge/kernels.h"
#include "leanedge/sequence.h"

namespace leanedge {

// A plan, and what follows from it and the engine's context bound.
struct PlanEntry {
  const CachePlan* plan;
  int32_t sink_rows;      // rows of the sink that a region has room for
  int32_t ring_rows;      // rows of the ring: recent + 32, fewer if no log gets that far
  int32_t pages_max;      // of the longest log
  int32_t lossless;       // 1: pages hold the very bits of the rows
  uint64_t layer_bytes;   // of one layer of a region
  uint64_t region_bytes;  // of all layers
  uint64_t page_bytes;    // of a page, rounded up to what the heap takes
};

// What all caches of an engine share.
struct CachePool {
  CacheHeap heap;
  PlanEntry plans[kPlansMax];               // (plan_count)
  const CachePlan* plan_blocks[kPlansMax];  // (plan_count) for AttentionShape
  int32_t plan_count;
  int32_t layers;
  int32_t kv_heads;
  int32_t head_dim;
  int32_t context_tokens_max;
};

struct SequenceCache {
  int32_t plan;        // index into CachePool::plans
  int32_t computed;    // rows whose K and V are here
  int32_t region;      // heap block; kNoBlock before the first row
  int32_t ring_from;   // the ring holds rows [ring_from, computed): some that are in pages as well
  int32_t page_count;  // pages held; more than archive_pages(computed) while a batch is under way
  int32_t* pages;      // (pages_max of any plan) heap blocks, oldest first
};

// One layer of a region: rows of all KV heads.
struct LayerRegion {
  uint16_t* sink_k;  // (kv_heads, sink_rows, head_dim)
  uint16_t* sink_v;  // (kv_heads, sink_rows, head_dim)
  uint16_t* ring_k;  // (kv_heads, ring_rows, head_dim); row of position p: (p - sink) % ring_rows
  uint16_t* ring_v;  // (kv_heads, ring_rows, head_dim)
};

// Fills in what follows from a plan.
PlanEntry plan_entry(const CachePool& pool, const CachePlan* plan);
// Bytes of a cache of `computed` rows; 0 for none.
uint64_t cache_bytes(const CachePool& pool, int32_t plan, int32_t computed);
// Pages of a cache of `computed` rows.
int32_t cache_pages(const CachePool& pool, int32_t plan, int32_t computed);

// Takes the memory that `rows` more rows will need. False, and nothing changes, if it is not free.
bool cache_reserve(CachePool* pool, SequenceCache* cache, int32_t rows);
// Takes pages until the cache has `pages`, for which the memory is free.
void cache_take_pages(CachePool* pool, SequenceCache* cache, int32_t pages);
// Gives back what cache_reserve took and no row has come to use.
void cache_trim(CachePool* pool, SequenceCache* cache);
// Frees everything; computed becomes 0.
void cache_drop(CachePool* pool, SequenceCache* cache);
// Keeps the first `rows` rows if that can be done in place; drops everything otherwise.
void cache_truncate(CachePool* pool, SequenceCache* cache, int32_t rows);
// Makes the empty cache `to` (of the same plan) one with the same rows: pages are shared, the
// region is copied. False, and `to` stays empty, if the memory is not free.
bool cache_fork(CachePool* pool, const SequenceCache& from, SequenceCache* to);

// Where layer `layer` of page number `page` of the cache lies until the next heap allocation.
uint8_t* cache_page(const CachePool& pool, const SequenceCache& cache, int32_t page, int32_t layer);
// Where layer `layer` of the region lies until the next heap allocation.
LayerRegion cache_region(const CachePool& pool, const SequenceCache& cache, int32_t layer);
// Fills in pages and spans of the zones as they stand now, for one layer. `pages`
// (cache_pages(computed)) is where the task's page addresses go.
void cache_zones(const CachePool& pool, const SequenceCache& cache, int32_t layer,
                 const uint8_t** pages, kernels::AttentionTask* task);
// Copies rows [position, position + rows) of one head's K, or of V where `value`, to `out` (rows,
// head_dim) f16; rows that have left the ring are read from a lossless plan's pages.
void cache_read_rows(const CachePool& pool, const SequenceCache& cache, int32_t layer, int32_t head,
                     int32_t position, int32_t rows, bool value, uint16_t* out);
// Writes rows likewise, to where the sink and the ring have them; for restores.
void cache_write_rows(const CachePool& pool, const SequenceCache& cache, int32_t layer,
                      int32_t head, int32_t position, int32_t rows, bool value, const uint16_t* in);
// Brings rows [begin, end), none if end <= begin, back from a lossless plan's pages to the ring;
// false if a value is not finite.
bool cache_restore_rows(const CachePool& pool, const SequenceCache& cache, int32_t begin,
                        int32_t end);
// Moves `rows` new rows of one layer (positions computed .. computed + rows - 1) into the zones;
// flushes the pages that this fills. k, v: (kv_heads, rows, head_dim) f16. Every layer gets the
// same rows before cache_commit raises `computed`.
void cache_push(CachePool* pool, SequenceCache* cache, kernels::Context* context, int32_t layer,
                const uint16_t* k, const uint16_t* v, int32_t rows);
// The same for rows [begin, end) of them, behind those before `begin`. Builds for a CPU only.
void cache_push_part(CachePool* pool, SequenceCache* cache, kernels::Context* context,
                     int32_t layer, const uint16_t* k, const uint16_t* v, int32_t rows,
                     int32_t begin, int32_t end);
// All layers have `rows` new rows.
void cache_commit(const CachePool& pool, SequenceCache* cache, int32_t rows);

}  // namespace leanedge
