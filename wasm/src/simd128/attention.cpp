// Attention over the zones, block by block, in the order that kernels.h states. Where several query
// heads share a block, it is prepared once for all of them (f16 widened to f32, codes unpacked);
// few read it as it lies in the cache, two or three heads at a time. All KV heads of a unit take a page
// before the next page is touched, because they lie side by side.
#include <math.h>

#include "attention_scores.h"
#include "attention_unit.h"
#include "parallel.h"

namespace leanedge::kernels {
namespace {

// Query heads of one KV head up to which f16 is read in place.
constexpr int32_t kNarrowHeadsMax = 4;
// Pairs of query heads up to which codes are read in place.
constexpr int32_t kPackedPairsMax = 3;
// A query below this can be lifted without overflow.
constexpr float kLiftedQueryMax = 0x1p15f;

// Query heads h .. h + Heads - 1 of a KV head and row.
template <int32_t Heads>
struct Targets {
  const float* q[Heads];
  float* out[Heads];
  Softmax* states;

  Targets(const Unit& unit, const float* queries, int32_t row, int32_t head, int32_t h) {
    const size_t at = state_at(unit, row, head, h);
    const size_t stride = query_stride(unit.shape->head_dim);
    for (int32_t i = 0; i < Heads; ++i) {
      q[i] = queries + (at + static_cast<size_t>(i)) * stride;
      out[i] = unit.task->out + query_at(unit, row, head, h + i);
    }
    states = unit.states + at;
  }
};

// Calls act(Targets) for all query heads of a KV head and row, two at a time. With `Triples` the last
// three of an odd number go together: what they read is then decoded once, not for a pair and again
// for a single head.
template <bool Triples, typename Act>
void for_query_heads(const Unit& unit, const float* queries, int32_t row, int32_t head, Act act) {
  const int32_t triple = Triples && unit.group % 2 == 1 && unit.group > 1 ? 3 : 0;
  int32_t h = 0;
  for (; h + 2 <= unit.group - triple; h += 2) act(Targets<2>(unit, queries, row, head, h));
  if constexpr (Triples) {
    if (triple != 0) return act(Targets<3>(unit, queries, row, head, h));
  }
  if (h < unit.group) act(Targets<1>(unit, queries, row, head, h));
}

template <int32_t Heads, typename Form>
void attend_targets(const Unit& unit, const Block<Form>& block, int32_t slots,
                    const Targets<Heads>& to) {
  attend_block<Form, Heads>(block, to.q, slots, unit.scale, unit.shape->head_dim, to.states,
                            to.out);
}

template <int32_t Heads, typename Form>
void attend_targets(const Unit& unit, const Batch<Form>& batch, const Targets<Heads>& to) {
  attend_batch<Form, Heads>(batch, to.q, unit.scale, unit.shape->head_dim, to.states, to.out);
}

// Folds full rows [begin, end) of every KV head into the query rows that see them.
template <typename Form>
void attend_full(const Unit& unit, int32_t begin, int32_t end, Block<Form>* block) {
  for (; begin < end; begin += kPageSlots) {
    // Full rows are causal: the row at position p sees slots up to p.
    const int32_t behind = begin - unit.task->first_position;
    const int32_t first = unit.begin > behind ? unit.begin : behind;
    for (int32_t head = unit.head_begin; head < unit.head_end; ++head) {
      load_rows(unit, head, begin, min_i32(begin + kPageSlots, end), block);
      for (int32_t row = first; row < unit.end; ++row) {
        const int32_t slots = min_i32(row - behind + 1, block->slots);
        for_query_heads<true>(unit, unit.q_full, row, head,
                              [&](const auto& to) { attend_targets(unit, *block, slots, to); });
      }
    }
  }
}

// Brings a head's block of a page near: its sections are small, and far from those of the next
// page.
void touch(const PageHead& layout, const uint8_t* page) {
  for (uint32_t at = 0; at < layout.bytes; at += 64) {
    static_cast<void>(*static_cast<const volatile uint8_t*>(page + layout.offset + at));
  }
}

// Folds `count` pages (at most batch_pages) into rows [begin, end), in a KV head that keeps
// something.
template <typename Form>
void attend_pages(Unit* unit, int32_t head, const uint8_t* const* pages, const int32_t* indices,
                  int32_t count, int32_t begin, int32_t end, Batch<Form>* batch) {
  const PageHead& layout = unit_layout(*unit, head);
  const bool unpack = (end - begin) * ((unit->group + 1) / 2) > kPackedPairsMax;
  const bool in_order = keeps_all(*unit->plan, layout);
  for (int32_t i = 0; i < count; ++i) touch(layout, pages[indices[i]]);
  batch->count = count;
  for (int32_t i = 0; i < count; ++i) {
    load_page(unit, head, pages[indices[i]], unpack, i, &batch->pages[i]);
  }
  for (int32_t row = begin; row < end; ++row) {
    if (in_order) {
      for_query_heads<true>(*unit, unit->q_kept, row, head, [&](const auto& to) {
        for (int32_t i = 0; i < count; ++i) attend_targets(*unit, batch->pages[i], kPageSlots, to);
      });
    } else {
      for_query_heads<false>(*unit, unit->q_kept, row, head,
                             [&](const auto& to) { attend_targets(*unit, *batch, to); });
    }
  }
}

// What a row and KV head chooses of the archive.
template <typename Form>
void attend_chosen(Unit* unit, int32_t head, Batch<Form>* batch) {
  const AttentionTask& task = *unit->task;
  const PageHead& layout = unit_layout(*unit, head);
  const int32_t wanted = unit->plan->pages_per_step;
  const int32_t step = batch_pages(unit->shape->head_dim);
  const size_t stride = query_stride(unit->shape->head_dim);
  const bool lifted = Form::kLift != 1.0f && unit->plan->k_storage == PageStorage::kF16;
  for (int32_t row = unit->begin; row < unit->end; ++row) {
    const PageQueries queries = {unit->q_kept + state_at(*unit, row, head, 0) * stride, stride,
                                 unit->group, lifted};
    score_pages(*unit->plan, layout, queries, task.pages, task.page_count, unit->scores);
    page_choose(unit->scores, task.page_count, wanted, unit->chosen);
    for (int32_t i = 0; i < wanted; i += step) {
      attend_pages(unit, head, task.pages, unit->chosen + i, min_i32(step, wanted - i), row,
                   row + 1, batch);
    }
  }
}

// The archive: every page for all rows at once, or what each row chooses.
template <typename Form>
void attend_archive(Unit* unit, Batch<Form>* batch) {
  const AttentionTask& task = *unit->task;
  const bool chooses = task.selects && task.page_count > unit->plan->pages_floor;
  const int32_t step = chooses ? task.page_count : batch_pages(unit->shape->head_dim);
  for (int32_t page = 0; page < task.page_count; page += step) {
    int32_t indices[kBatchPages];
    for (int32_t i = 0; i < kBatchPages; ++i) indices[i] = page + i;
    for (int32_t head = unit->head_begin; head < unit->head_end; ++head) {
      if (unit_layout(*unit, head).width == 0) continue;
      if (chooses) {
        attend_chosen(unit, head, batch);
      } else {
        attend_pages(unit, head, task.pages, indices, min_i32(step, task.page_count - page),
                     unit->begin, unit->end, batch);
      }
    }
  }
}

template <typename Form>
void attend_unit(Unit* unit) {
  const AttentionTask& task = *unit->task;
  const int32_t sink = unit->plan->sink;
  const int32_t end = task.first_position + unit->end;  // one past the last full row
  Batch<Form> batch;
  gather_queries<Form>(unit);
  attend_full(*unit, 0, min_i32(end, sink), &batch.pages[0]);
  attend_archive(unit, &batch);
  attend_full(*unit, sink + kPageSlots * task.page_count, end, &batch.pages[0]);
}

// Whether f16 can be read in place: no rows that end within a vector, no query that lifting breaks.
bool reads_in_place(const Unit& unit) {
  if (unit.end - unit.begin > 1 || unit.group > kNarrowHeadsMax || unit.shape->head_dim % 4 != 0) {
    return false;
  }
  const float* q = unit.task->q + query_at(unit, unit.begin, unit.head_begin, 0);
  const int32_t heads = (unit.head_end - unit.head_begin) * unit.group;
  const size_t count = static_cast<size_t>(heads) * static_cast<size_t>(unit.shape->head_dim);
  v128_t small = wasm_i32x4_const_splat(-1);
  for (size_t i = 0; i < count; i += 4) {
    const v128_t magnitude = wasm_f32x4_abs(simd::f32x4_load(q + i));
    small = wasm_v128_and(small,
                          wasm_f32x4_lt(magnitude, wasm_f32x4_const_splat(kLiftedQueryMax)));
  }
  return wasm_i32x4_all_true(small);
}

void compute_unit(Unit* unit) {
  const size_t dim = static_cast<size_t>(unit->shape->head_dim);
  const int32_t heads = (unit->head_end - unit->head_begin) * unit->group;
  for (int32_t row = unit->begin; row < unit->end; ++row) {
    memset(unit->task->out + query_at(*unit, row, unit->head_begin, 0), 0,
           static_cast<size_t>(heads) * dim * sizeof(float));
    for (int32_t h = 0; h < heads; ++h) {
      unit->states[state_at(*unit, row, unit->head_begin, h)] = {-INFINITY, 0};
    }
  }
  if (reads_in_place(*unit)) {
    attend_unit<Narrow>(unit);
  } else {
    attend_unit<Wide>(unit);
  }
  for (int32_t row = unit->begin; row < unit->end; ++row) {
    for (int32_t h = 0; h < heads; ++h) {
      divide_row(unit->task->out + query_at(*unit, row, unit->head_begin, h), dim,
                 unit->states[state_at(*unit, row, unit->head_begin, h)].sum);
    }
  }
}

// ---- units and their scratch ----------------------------------------------------------------

// Query heads of the largest unit.
size_t unit_queries(int32_t rows_max, int32_t heads) {
  return static_cast<size_t>(min_i32(rows_max, kUnitRows)) * static_cast<size_t>(heads);
}

// Bytes of one thread, a multiple of 64.
size_t thread_bytes(int32_t rows_max, int32_t heads, int32_t head_dim, int32_t pages_max) {
  const size_t bytes = 2 * room_bytes(head_dim) +
                       unit_queries(rows_max, heads) *
                           (2 * query_stride(head_dim) * sizeof(float) + sizeof(Softmax)) +
                       static_cast<size_t>(pages_max) * (sizeof(float) + sizeof(int32_t));
  return (bytes + 63) / 64 * 64;
}

struct Work {
  const AttentionShape* shape;
  const AttentionTask* tasks;
  uint8_t* scratch;
  size_t thread_bytes;
  int32_t rows_max;
  int32_t task_count;
};

int32_t row_chunks(const AttentionTask& task) { return (task.rows + kUnitRows - 1) / kUnitRows; }

// Indices count task by task, in each the row chunks, in each the KV heads. Neighbouring heads of a
// chunk become one unit.
void run_units(void* arg, int32_t begin, int32_t end, int32_t thread) {
  const Work& work = *static_cast<const Work*>(arg);
  const AttentionShape& shape = *work.shape;
  const size_t queries = unit_queries(work.rows_max, shape.heads);
  const size_t floats = queries * query_stride(shape.head_dim);
  Unit unit;
  unit.shape = &shape;
  unit.group = shape.heads / shape.kv_heads;
  unit.scale = 1.0f / sqrtf(static_cast<float>(shape.head_dim));
  unit.k_room = work.scratch + static_cast<size_t>(thread) * work.thread_bytes;
  unit.v_room = unit.k_room + room_bytes(shape.head_dim);
  unit.q_full = reinterpret_cast<float*>(unit.v_room + room_bytes(shape.head_dim));
  unit.q_kept = unit.q_full + floats;
  unit.states = reinterpret_cast<Softmax*>(unit.q_kept + floats);
  unit.scores = reinterpret_cast<float*>(unit.states + queries);
  int32_t first = 0;  // index of the chunk's first head
  for (int32_t t = 0; t < work.task_count; ++t) {
    const AttentionTask& task = work.tasks[t];
    unit.task = &task;
    unit.plan = shape.plans[task.plan];
    unit.chosen = reinterpret_cast<int32_t*>(unit.scores + task.page_count);
    for (int32_t chunk = 0; chunk < row_chunks(task); ++chunk, first += shape.kv_heads) {
      unit.head_begin = begin > first ? begin - first : 0;
      unit.head_end = min_i32(end - first, shape.kv_heads);
      unit.begin = chunk * kUnitRows;
      unit.end = min_i32(unit.begin + kUnitRows, task.rows);
      if (unit.head_begin < unit.head_end) compute_unit(&unit);
    }
  }
}

}  // namespace

size_t attention_scratch_bytes(int32_t rows_max, int32_t heads, int32_t head_dim,
                               int32_t pages_max) {
  return static_cast<size_t>(parallel_threads()) *
         thread_bytes(rows_max, heads, head_dim, pages_max);
}

void attention(Context* context, const AttentionShape& shape, const AttentionTask* tasks,
               int32_t task_count, uint8_t* scratch) {
  Work work = {&shape, tasks, scratch, 0, 0, task_count};
  int32_t indices = 0;
  int32_t pages_max = 0;
  for (int32_t t = 0; t < task_count; ++t) {
    indices += row_chunks(tasks[t]) * shape.kv_heads;
    if (tasks[t].rows > work.rows_max) work.rows_max = tasks[t].rows;
    if (tasks[t].page_count > pages_max) pages_max = tasks[t].page_count;
  }
  work.thread_bytes = thread_bytes(work.rows_max, shape.heads, shape.head_dim, pages_max);
  parallel_for(context, indices, run_units, &work);
}

}  // namespace leanedge::kernels
