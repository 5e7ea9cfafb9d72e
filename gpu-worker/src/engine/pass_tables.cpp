#include "pass_tables.h"

#include <string.h>

#include "leanedge_cuda/page_selection.h"

namespace leanedge::cuda {
namespace {

constexpr uint64_t kTableAlign = 16;

int32_t min_i32(int32_t a, int32_t b) { return a < b ? a : b; }

// Room for `count` Ts on the host; *image is where the device has them.
template <class T>
T* take(TableWriter* writer, int32_t count, const T** image) {
  const uint64_t bytes =
      align_up(static_cast<uint64_t>(count) * sizeof(T), kTableAlign);
  ENGINE_ASSERT(writer->used + bytes <= writer->bytes);
  T* host = reinterpret_cast<T*>(writer->host + writer->used);
  *image = reinterpret_cast<const T*>(writer->image + writer->used);
  writer->used += bytes;
  return host;
}

bool is_generated(const Engine& engine, const Run& run) {
  return (log_word(engine.logs, run.sequence->log, run.first) & kWordGenerated) != 0;
}

const CachePlan& plan_of(const Engine& engine, const Run& run) {
  return *engine.pool.plans[run.sequence->cache.plan].plan;
}

// Whether the rows of a run see the zones as they stand at their own position. A single row of a
// prompt does as well, unless it must not choose pages.
bool decodes(const Engine& engine, const Run& run) {
  if (is_generated(engine, run)) return true;
  return run.rows == 1 && run.dense_stride == 0 && !plan_selects(plan_of(engine, run));
}

// Spans of full rows before row `end` of a cache whose archive has `pages` pages.
int32_t full_spans(const CachePool& pool, const SequenceCache& cache, int32_t end, int32_t pages,
                   DecodeSpan* spans) {
  if (end == 0) return 0;
  const PlanEntry& entry = pool.plans[cache.plan];
  const LayerRegion region = cache_region(pool, cache, 0);
  const int32_t sink = entry.plan->sink;
  int32_t count = 0;
  const int32_t in_sink = min_i32(end, sink);
  if (in_sink > 0) spans[count++] = {region.sink_k, region.sink_v, entry.sink_rows, in_sink};
  for (int32_t position = sink + kPageSlots * pages; position < end;) {
    const int32_t row = (position - sink) % entry.ring_rows;
    const int32_t rows = min_i32(end - position, entry.ring_rows - row);
    const size_t at = static_cast<size_t>(row) * static_cast<size_t>(pool.head_dim);
    spans[count++] = {region.ring_k + at, region.ring_v + at, entry.ring_rows, rows};
    position += rows;
  }
  return count;
}

// Where K and V of a row that decodes go: to its place in the sink or the ring.
KvTarget zone_target(const CachePool& pool, const SequenceCache& cache, int32_t position) {
  const PlanEntry& entry = pool.plans[cache.plan];
  const LayerRegion region = cache_region(pool, cache, 0);
  const bool in_sink = position < entry.plan->sink;
  const int32_t stride = in_sink ? entry.sink_rows : entry.ring_rows;
  const int32_t row = in_sink ? position : (position - entry.plan->sink) % entry.ring_rows;
  const size_t at = static_cast<size_t>(row) * static_cast<size_t>(pool.head_dim);
  return {(in_sink ? region.sink_k : region.ring_k) + at,
          (in_sink ? region.sink_v : region.ring_v) + at, stride, 0};
}

int32_t tiles_of(const DecodeRow& row) {
  int32_t rows = 0;
  for (int32_t i = 0; i < row.span_count; ++i) rows += row.spans[i].rows;
  return (rows + kDecodeTileRows - 1) / kDecodeTileRows;
}

// The block numbers of the first `count` pages of a cache.
void write_pages(const Engine& engine, const SequenceCache& cache, int32_t count, uint32_t* out) {
  for (int32_t i = 0; i < count; ++i) out[i] = block_number(engine.pool.heap, cache.pages[i]);
}

// The per-row arrays that all groups share.
struct RowArrays {
  int32_t* ids;
  int32_t* positions;
  int32_t* owners;
  KvTarget* targets;
};

void write_run(const Engine& engine, const Run& run, bool decode, const RowArrays& to) {
  const CachePool& pool = engine.pool;
  const size_t dim = static_cast<size_t>(pool.head_dim);
  const int32_t owner = static_cast<int32_t>(run.sequence - engine.sequences);
  for (int32_t r = 0; r < run.rows; ++r) {
    const int32_t row = run.row + r;
    const int32_t position = run.first + r;
    to.ids[row] =
        static_cast<int32_t>(log_word(engine.logs, run.sequence->log, position) & kWordId);
    to.positions[row] = position;
    to.owners[row] = owner;
    const size_t at = static_cast<size_t>(run.dense_row + r) * dim;
    to.targets[row] = decode ? zone_target(pool, run.sequence->cache, position)
                             : KvTarget{run.dense_k + at, run.dense_v + at, run.dense_stride, 0};
  }
}

// A place in the rows of a pass.
struct Cursor {
  int32_t run;
  int32_t row;  // of the run
};

// The next `count` rows from `cursor` on decode; with the rows of padding behind them they are `padded`.
void write_decode_group(const Engine& engine, const Run* runs, Cursor* cursor, int32_t count,
                        int32_t padded, TableWriter* writer, PassGroup* group) {
  DecodeRow* rows = take(writer, padded, &group->step.rows);
  int32_t* tiles = take(writer, padded + 1, &group->step.tiles_before);
  int32_t* pages = take(writer, padded + 1, &group->step.pages_before);
  DecodeRow* chosen = take(writer, padded, &group->chosen.rows);
  int32_t* chosen_pages = take(writer, padded + 1, &group->chosen.pages_before);
  const CachePlan& plan = plan_of(engine, runs[cursor->run]);
  int32_t at = 0;
  tiles[0] = pages[0] = chosen_pages[0] = 0;
  while (at < count) {
    const Run& run = runs[cursor->run];
    const SequenceCache& cache = run.sequence->cache;
    const int32_t page_count = archive_pages(run.first, plan.sink, plan.recent);
    const uint32_t* numbers = nullptr;
    write_pages(engine, cache, page_count, take(writer, page_count, &numbers));
    for (; cursor->row < run.rows && at < count; ++cursor->row, ++at) {
      DecodeRow& row = rows[at];
      row = {};
      row.span_count =
          full_spans(engine.pool, cache, run.first + cursor->row + 1, page_count, row.spans);
      row.pages = numbers;
      row.page_count = page_count;
    }
    if (cursor->row == run.rows) *cursor = {cursor->run + 1, 0};
  }
  group->rows = padded;
  // Padding reads one full row, of the first sequence: its results are nobody's.
  for (; at < padded; ++at) {
    rows[at] = {};
    rows[at].spans[0] = rows[0].spans[0];
    rows[at].spans[0].rows = 1;
    rows[at].span_count = 1;
  }
  const size_t list =
      static_cast<size_t>(engine.config.kv_heads) * static_cast<size_t>(device.scratch.chosen_pitch);
  int32_t most = 0;  // pages that a row reads
  for (int32_t i = 0; i < padded; ++i) {
    tiles[i + 1] = tiles[i] + tiles_of(rows[i]);
    pages[i + 1] = pages[i] + rows[i].page_count;
    chosen[i] = rows[i];
    chosen[i].page_count = selected_pages(plan, rows[i].page_count);
    chosen[i].pages = device.scratch.chosen + static_cast<size_t>(i) * list;
    chosen_pages[i + 1] = chosen_pages[i] + chosen[i].page_count;
    const int32_t read = group->selects ? chosen[i].page_count : rows[i].page_count;
    if (read > most) most = read;
  }
  group->form = decode_form(device.plans[group->plan].layers[0], padded, most);
  group->step.row_count = group->chosen.row_count = padded;
  group->chosen.tiles_before = group->step.tiles_before;
}

// Runs [begin, end) are prompt rows.
void write_prompt_group(const Engine& engine, const Run* runs, int32_t begin, int32_t end,
                        TableWriter* writer, PassGroup* group) {
  const int32_t run_count = end - begin;
  const int32_t heads_per_kv = engine.config.heads / engine.config.kv_heads;
  PrefillRun* to = take(writer, run_count, &group->runs);
  for (int32_t i = 0; i < run_count; ++i) {
    const Run& run = runs[begin + i];
    const SequenceCache& cache = run.sequence->cache;
    const CachePlan& plan = plan_of(engine, run);
    PrefillRun& out = to[i];
    out = {};
    // The zones as they stand: before the dense rows.
    const int32_t before = run.first - run.dense_row;
    out.page_count = archive_pages(before, plan.sink, plan.recent);
    out.span_count = full_spans(engine.pool, cache, before, out.page_count, out.before);
    write_pages(engine, cache, out.page_count, take(writer, out.page_count, &out.pages));
    out.k = run.dense_k;
    out.v = run.dense_v;
    out.stride = run.dense_stride;
    out.first = run.dense_row;
    out.q_first = run.row - group->row;
    out.rows = run.rows;
    if (out.page_count > 0) group->has_pages = 1;
    int32_t slots = out.page_count * kPageSlots + out.first + out.rows;
    for (int32_t s = 0; s < out.span_count; ++s) slots += out.before[s].rows;
    if (slots > group->slots_max) group->slots_max = slots;
  }
  group->tile_count = prefill_tile_count(to, run_count, heads_per_kv);
  prefill_tiles(to, run_count, heads_per_kv, take(writer, group->tile_count, &group->tiles));
}

uint64_t pages_bytes(int32_t pages) {
  return align_up(static_cast<uint64_t>(pages) * sizeof(uint32_t), kTableAlign);
}

// All tables but page numbers.
uint64_t rows_bytes(const Engine& engine, int32_t rows, int32_t run_count) {
  const uint64_t heads = static_cast<uint64_t>(engine.config.heads);
  const uint64_t kv_heads = static_cast<uint64_t>(engine.config.kv_heads);
  const uint64_t all = static_cast<uint64_t>(rows);
  const uint64_t runs = static_cast<uint64_t>(run_count);
  const uint64_t row_bytes =
      7 * sizeof(int32_t) + sizeof(KvTarget) + 2 * sizeof(DecodeRow);
  const uint64_t tiles = (all * heads / kPrefillTileRows + (runs + 1) * kv_heads);
  // Every array is padded, and those of running sums have one element more.
  const uint64_t padding = (runs + 2) * 10 * 2 * kTableAlign;
  return all * row_bytes + runs * sizeof(PrefillRun) + tiles * sizeof(PrefillTile) + padding;
}

}  // namespace

uint64_t tables_bytes_max(const Engine& engine, int32_t pages_max) {
  return rows_bytes(engine, device.scratch.rows, kStepEntriesMax) +
         kPassGroupsMax * pages_bytes(pages_max);
}

uint64_t tables_bytes(const Engine& engine, const Run* runs, int32_t run_count, int32_t padded) {
  uint64_t bytes = rows_bytes(engine, padded, run_count);
  for (int32_t i = 0; i < run_count; ++i) {
    const int32_t pages = cache_pages(engine.pool, runs[i].sequence->cache.plan, runs[i].first);
    // Once in each group that has rows of the run.
    bytes += pages_bytes(pages) * static_cast<uint64_t>(2 + runs[i].rows / kDecodeRowsMax);
  }
  return bytes;
}

bool tables_uniform(const Engine& engine, const Run* runs, int32_t run_count, int32_t rows) {
  if (rows > kDecodeRowsMax) return false;
  for (int32_t i = 0; i < run_count; ++i) {
    if (!decodes(engine, runs[i])) return false;
    if (runs[i].sequence->cache.plan != runs[0].sequence->cache.plan) return false;
  }
  return true;
}

void tables_build(const Engine& engine, const Run* runs, int32_t run_count, int32_t padded,
                  TableWriter* writer, PassTables* out) {
  out->rows = padded;
  out->runs = runs;
  out->run_count = run_count;
  out->group_count = 0;
  RowArrays arrays = {};
  arrays.ids = take(writer, padded, &out->ids);
  arrays.positions = take(writer, padded, &out->positions);
  arrays.owners = take(writer, padded, &out->owners);
  arrays.targets = take(writer, padded, &out->targets);
  int32_t* last = take(writer, padded, &out->last);
  int32_t rows = 0;
  for (int32_t i = 0; i < run_count; ++i) {
    write_run(engine, runs[i], decodes(engine, runs[i]), arrays);
    rows += runs[i].rows;
    last[i] = runs[i].row + runs[i].rows - 1;
  }
  for (int32_t r = rows; r < padded; ++r) {
    arrays.ids[r] = arrays.positions[r] = arrays.owners[r] = -1;
    arrays.targets[r] = {};
  }
  for (Cursor cursor = {0, 0}; cursor.run < run_count;) {
    ENGINE_ASSERT(out->group_count < kPassGroupsMax);
    PassGroup& group = out->groups[out->group_count++];
    group = {};
    const int32_t begin = cursor.run;
    const Run& first = runs[begin];
    group.plan = first.sequence->cache.plan;
    group.decodes = decodes(engine, first) ? 1 : 0;
    group.selects = group.decodes && plan_selects(plan_of(engine, first)) ? 1 : 0;
    group.row = first.row + cursor.row;
    int32_t end = begin;
    while (end < run_count && runs[end].sequence->cache.plan == group.plan &&
           (decodes(engine, runs[end]) ? 1 : 0) == group.decodes) {
      group.rows += runs[end++].rows;
    }
    group.rows -= cursor.row;
    if (!group.decodes) {
      write_prompt_group(engine, runs, begin, end, writer, &group);
      cursor = {end, 0};
      continue;
    }
    group.zone_layer = device.plans[group.plan].zone_layer;
    const int32_t count = min_i32(group.rows, kDecodeRowsMax);
    const bool last_group = group.row + count == rows;
    write_decode_group(engine, runs, &cursor, count, last_group ? padded - group.row : count,
                       writer, &group);
  }
}

}  // namespace leanedge::cuda
