// New rows of one layer of a prompt enter the zones (engine/src/sequence_cache.h). Rows could go one after
// the other, as on a CPU; here whole pages are packed from where their rows lie:
//   1. pages whose rows are all in the ring, or all among the new rows,
//   2. new rows of the one page that has some of both join the others in the ring, and it is packed,
//   3. the rows that stay go to the sink and the ring.
#include "device.h"
#include "leanedge_cuda/page_flush.h"
#include "row_kernels.h"
#include "sequence_cache.h"

namespace leanedge {

using cuda::device;
using cuda::device_check;
using cuda::PageFlushJob;
using cuda::RowCopy;

namespace {

int32_t min_i32(int32_t a, int32_t b) { return a < b ? a : b; }
int32_t max_i32(int32_t a, int32_t b) { return a > b ? a : b; }

// One layer of the rows that come.
struct Push {
  const CachePool* pool;
  const SequenceCache* cache;
  const PlanEntry* entry;
  LayerRegion region;
  const uint16_t* k;  // (kv_heads, rows, head_dim)
  const uint16_t* v;
  int32_t layer;
  int32_t rows;
};

template <class T>
const T* send(const T* filled, const uint8_t* image, int32_t count) {
  device_check(cuda::upload_send(&device.ring, reinterpret_cast<const uint8_t*>(filled),
                                 static_cast<uint64_t>(count) * sizeof(T), device.stream));
  return reinterpret_cast<const T*>(image);
}

template <class T>
T* room(int32_t count, uint8_t** image) {
  return reinterpret_cast<T*>(cuda::upload_room(
      &device.ring, static_cast<uint64_t>(count) * sizeof(T), image, device.stream));
}

void flush(const Push& push, const PageFlushJob* jobs, int32_t count) {
  cuda::DevicePlan& plan = device.plans[push.cache->plan];
  cuda::PageFlush call = {};
  call.plan = plan.layer_blocks[push.layer];
  call.jobs = jobs;
  call.arenas = plan.arenas + push.layer;
  call.not_finite = device.bad_pages;
  call.job_count = count;
  device_check(cuda::page_flush_launch(plan.head, call, device.stream));
}

// Page `page`, packed from the ring.
PageFlushJob ring_job(const Push& push, int32_t page) {
  const CacheHeap& heap = push.pool->heap;
  return {push.region.ring_k, push.region.ring_v, push.entry->ring_rows,
          page * kPageSlots % push.entry->ring_rows,
          cuda::block_number(heap, push.cache->pages[page]), 0};
}

// The same, packed from the new rows.
PageFlushJob row_job(const Push& push, int32_t page) {
  const int32_t row = push.entry->plan->sink + page * kPageSlots - push.cache->computed;
  return {push.k, push.v, push.rows, row,
          cuda::block_number(push.pool->heap, push.cache->pages[page]), 0};
}

// Copies new rows [begin, end), by position, to their places in the sink and the ring.
void copy_rows(const Push& push, int32_t begin, int32_t end) {
  if (begin >= end) return;
  uint8_t* image = nullptr;
  RowCopy* copies = room<RowCopy>(3, &image);
  const size_t dim = static_cast<size_t>(push.pool->head_dim);
  const int32_t sink = push.entry->plan->sink;
  int32_t count = 0;
  int32_t longest = 0;
  for (int32_t position = begin; position < end;) {
    const bool in_sink = position < sink;
    const int32_t stride = in_sink ? push.entry->sink_rows : push.entry->ring_rows;
    const int32_t row = in_sink ? position : (position - sink) % stride;
    const int32_t limit = in_sink ? min_i32(end, sink) : end;
    const int32_t rows = min_i32(limit - position, stride - row);
    const size_t from = static_cast<size_t>(position - push.cache->computed) * dim;
    const size_t to = static_cast<size_t>(row) * dim;
    ENGINE_ASSERT(count < 3);  // the sink, and two parts of the ring
    copies[count++] = {push.k + from, push.v + from,
                       (in_sink ? push.region.sink_k : push.region.ring_k) + to,
                       (in_sink ? push.region.sink_v : push.region.ring_v) + to,
                       push.rows, stride, rows, 0};
    longest = max_i32(longest, rows);
    position += rows;
  }
  device_check(cuda::row_copy_launch(send(copies, image, count), count, longest,
                                     push.pool->kv_heads, push.pool->head_dim, device.stream));
}

}  // namespace

void cache_push(CachePool* pool, SequenceCache* cache, kernels::Context*, int32_t layer,
                const uint16_t* k, const uint16_t* v, int32_t rows) {
  const PlanEntry& entry = pool->plans[cache->plan];
  const Push push = {pool, cache, &entry, cache_region(*pool, *cache, layer), k, v, layer, rows};
  const int32_t sink = entry.plan->sink;
  const int32_t computed = cache->computed;
  const int32_t end = computed + rows;
  const int32_t first = cache_pages(*pool, cache->plan, computed);
  const int32_t last = cache_pages(*pool, cache->plan, end);
  int32_t mixed = -1;
  if (last > first) {
    uint8_t* image = nullptr;
    PageFlushJob* jobs = room<PageFlushJob>(last - first, &image);
    int32_t count = 0;
    for (int32_t page = first; page < last; ++page) {
      const int32_t begin = sink + page * kPageSlots;
      if (begin + kPageSlots <= computed) {
        jobs[count++] = ring_job(push, page);
      } else if (begin >= computed) {
        jobs[count++] = row_job(push, page);
      } else {
        mixed = page;
      }
    }
    flush(push, send(jobs, image, count), count);
  }
  if (mixed >= 0) {
    copy_rows(push, computed, sink + (mixed + 1) * kPageSlots);
    uint8_t* image = nullptr;
    PageFlushJob* job = room<PageFlushJob>(1, &image);
    *job = ring_job(push, mixed);
    flush(push, send(job, image, 1), 1);
  }
  // Of the ring's rows the last ring_rows stay; a sink's all.
  copy_rows(push, computed, min_i32(end, sink));
  copy_rows(push, max_i32(max_i32(computed, sink), end - entry.ring_rows), end);
}

}  // namespace leanedge
