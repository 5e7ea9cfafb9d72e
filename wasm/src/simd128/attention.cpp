// Attention over the zones, block by block, in the order that kernels.h states. A unit of work is one
// KV head and a few query rows of one task: what it computes depends on nothing else, so units can
// run on any thread. Where several query heads share a block, it is prepared once for all of them
// (f16 widened to f32, codes unpacked); few read it as it lies in the cache, two heads at a time.
#include <math.h>
#include <string.h>

#include "attention_block.h"
#include "attention_scores.h"
#include "parallel.h"

namespace leanedge::kernels {
namespace {

// Query rows of a unit: enough to share what preparing a block costs, few enough to share the work.
constexpr int32_t kUnitRows = 16;
// Query heads of one row from which on preparing a block pays.
constexpr int32_t kNarrowHeadsMax = 4;
// Pairs of query heads from which on unpacking codes pays.
constexpr int32_t kPackedPairsMax = 3;
// A query below this can be lifted without overflow.
constexpr float kLiftedQueryMax = 0x1p15f;

constexpr size_t kRoomFloats = static_cast<size_t>(kPageSlots) * kHeadDimMax;
// Planes of the largest K or V fit into the room of widened rows.
static_assert(kHeadDimMax / 2 * kPairPlanes * sizeof(v128_t) <= kRoomFloats * sizeof(float));
static_assert(kGroupsMax * (kPageSlots / 2) * kPairPlanes * sizeof(v128_t) <=
              kRoomFloats * sizeof(float));

int32_t min_i32(int32_t a, int32_t b) { return a < b ? a : b; }

// Filled up so that vectors of eight channels can be read.
size_t query_stride(int32_t dim) { return static_cast<size_t>((dim + 7) / 8 * 8); }

// What a unit works on.
struct Unit {
  const AttentionShape* shape;
  const AttentionTask* task;
  const CachePlan* plan;
  const PageHead* layout;  // of the KV head
  int32_t head;            // KV head
  int32_t group;           // query heads that share it
  int32_t begin;           // query rows [begin, end) of the task
  int32_t end;
  bool narrow;             // f16 is read in place
  float scale;             // 1 / sqrt(head_dim)
  // Scratch of the thread.
  float* k;                // (kRoomFloats) widened or unpacked K
  float* v;                // (kRoomFloats) widened or unpacked V
  float* q_full;           // (rows, group, query_stride(head_dim)) as full rows meet it
  float* q_kept;           // (rows, group, query_stride(head_dim)) as pages meet it
  Softmax* states;         // (rows, group)
  float* scores;           // (page_count)
  int32_t* chosen;         // (page_count)
  // What was opened last.
  KeyCodes k_codes;
  ValueCodes v_codes;
};

// The output of query head `h` of the group, row `row` of the task.
size_t query_at(const Unit& unit, int32_t row, int32_t h) {
  const size_t head = static_cast<size_t>(unit.head * unit.group + h);
  return (static_cast<size_t>(row) * static_cast<size_t>(unit.shape->heads) + head) *
         static_cast<size_t>(unit.shape->head_dim);
}

// Place of a query head in the unit's own arrays.
size_t state_at(const Unit& unit, int32_t row, int32_t h) {
  return static_cast<size_t>((row - unit.begin) * unit.group + h);
}

// The span that holds `position`.
const FullSpan& span_at(const AttentionTask& task, int32_t position) {
  for (int32_t i = 0; i < task.span_count; ++i) {
    const FullSpan& span = task.spans[i];
    if (position >= span.first_position && position - span.first_position < span.rows) return span;
  }
  __builtin_trap();
}

// Enters `count` rows from slot `slot` on, `stride` values apart.
template <typename Value>
void enter_rows(const Value* from, size_t stride, int32_t slot, int32_t count, const Value** rows) {
  for (int32_t i = 0; i < count; ++i) rows[slot + i] = from + static_cast<size_t>(i) * stride;
}

// Enters `count` f16 rows of K and V from slot `slot` on, as they are.
void enter_span(const Unit& unit, const uint16_t* k, const uint16_t* v, int32_t slot, int32_t count,
                Block<Narrow>* block) {
  const size_t dim = static_cast<size_t>(unit.shape->head_dim);
  enter_rows(k, dim, slot, count, block->k);
  enter_rows(v, dim, slot, count, block->v);
}

// Widens `count` f16 rows of K and V and enters them from slot `slot` on.
void enter_span(const Unit& unit, const uint16_t* k, const uint16_t* v, int32_t slot, int32_t count,
                Block<Wide>* block) {
  const int32_t dim = unit.shape->head_dim;
  const size_t stride = padded_dim(dim);
  const size_t to = static_cast<size_t>(slot) * stride;
  widen_rows(k, count, dim, unit.k + to);
  widen_rows(v, count, dim, unit.v + to);
  enter_rows<float>(unit.k + to, stride, slot, count, block->k);
  enter_rows<float>(unit.v + to, stride, slot, count, block->v);
}

// Loads full rows [begin, end); a block may lie in several spans.
template <typename Form>
void load_rows(const Unit& unit, int32_t begin, int32_t end, Block<Form>* block) {
  const size_t dim = static_cast<size_t>(unit.shape->head_dim);
  block->k_channels = nullptr;
  block->k_codes = nullptr;
  block->v_codes = nullptr;
  block->width = unit.shape->head_dim;
  block->slots = end - begin;
  block->first_position = begin;
  for (int32_t position = begin; position < end;) {
    const FullSpan& span = span_at(*unit.task, position);
    const int32_t row = position - span.first_position;
    const int32_t run = min_i32(span.rows - row, end - position);
    const size_t from = (static_cast<size_t>(unit.head) * static_cast<size_t>(span.stride) +
                         static_cast<size_t>(row)) * dim;
    enter_span(unit, span.k + from, span.v + from, position - begin, run, block);
    position += run;
  }
}

// K of a page by channels, and V by slots, as f16.
void enter_k_channels(const Unit&, const uint16_t* k, Block<Narrow>* block) {
  block->k_channels = k;
}
void enter_k_channels(const Unit& unit, const uint16_t* k, Block<Wide>* block) {
  widen_rows(k, block->width, kPageSlots, unit.k);
  block->k_channels = unit.k;
}
void enter_v_rows(const Unit& unit, const uint16_t* v, Block<Narrow>* block) {
  enter_rows(v, static_cast<size_t>(unit.shape->head_dim), 0, kPageSlots, block->v);
}
void enter_v_rows(const Unit& unit, const uint16_t* v, Block<Wide>* block) {
  const int32_t dim = unit.shape->head_dim;
  widen_rows(v, kPageSlots, dim, unit.v);
  enter_rows<float>(unit.v, padded_dim(dim), 0, kPageSlots, block->v);
}

// Slots in use of a page.
int32_t page_slots(const Unit& unit, const uint8_t* bytes) {
  if (!unit.plan->evicting) return kPageSlots;
  uint32_t count;
  memcpy(&count, bytes + unit.layout->count, sizeof(count));
  return min_i32(static_cast<int32_t>(count), kPageSlots);
}

// Loads an archive page for `rows` query rows; the head keeps something.
template <typename Form>
void load_page(Unit* unit, const uint8_t* bytes, int32_t rows, Block<Form>* block) {
  const CachePlan& plan = *unit->plan;
  const PageHead& layout = *unit->layout;
  block->k_channels = nullptr;
  block->k_codes = nullptr;
  block->v_codes = nullptr;
  block->width = static_cast<int32_t>(layout.width);
  block->slots = page_slots(*unit, bytes);
  block->first_position = 0;  // before every query row
  const bool shared = rows * ((unit->group + 1) / 2) > kPackedPairsMax;
  if (plan.k_storage == PageStorage::kF16) {
    enter_k_channels(*unit, reinterpret_cast<const uint16_t*>(bytes + layout.k_values), block);
  } else {
    v128_t* room = shared ? reinterpret_cast<v128_t*>(unit->k) : nullptr;
    open_key_codes(plan, layout, bytes, room, &unit->k_codes);
    block->k_codes = &unit->k_codes;
  }
  if (plan.v_storage == PageStorage::kF16) {
    enter_v_rows(*unit, reinterpret_cast<const uint16_t*>(bytes + layout.v_values), block);
  } else {
    v128_t* room = shared ? reinterpret_cast<v128_t*>(unit->v) : nullptr;
    open_value_codes(plan, layout, bytes, room, &unit->v_codes);
    block->v_codes = &unit->v_codes;
  }
}

// Folds a block into Heads neighbouring query heads of one row.
template <typename Form, int32_t Heads>
void attend_heads(const Unit& unit, const Block<Form>& block, const float* queries, int32_t row,
                  int32_t h, int32_t slots) {
  const size_t stride = query_stride(unit.shape->head_dim);
  const size_t state = state_at(unit, row, h);
  const float* q[Heads];
  float* out[Heads];
  for (int32_t i = 0; i < Heads; ++i) {
    q[i] = queries + (state + static_cast<size_t>(i)) * stride;
    out[i] = unit.task->out + query_at(unit, row, h + i);
  }
  attend_block<Form, Heads>(block, q, slots, unit.scale, unit.shape->head_dim, unit.states + state,
                            out);
}

// Folds a block into all query heads of rows [begin, end) that see it.
template <typename Form>
void attend_loaded(const Unit& unit, const Block<Form>& block, const float* queries, int32_t begin,
                   int32_t end) {
  // Full rows are causal: the row at position p sees slots up to p.
  const int32_t behind = block.first_position - unit.task->first_position;
  for (int32_t row = begin > behind ? begin : behind; row < end; ++row) {
    const int32_t slots = min_i32(row - behind + 1, block.slots);
    int32_t h = 0;
    for (; h + 2 <= unit.group; h += 2) {
      attend_heads<Form, 2>(unit, block, queries, row, h, slots);
    }
    if (h < unit.group) attend_heads<Form, 1>(unit, block, queries, row, h, slots);
  }
}

// The archive: every page for all rows at once, or what each row chooses.
template <typename Form>
void attend_pages(Unit* unit, Block<Form>* block) {
  const AttentionTask& task = *unit->task;
  if (unit->layout->width == 0) return;
  const bool chooses = task.selects && task.page_count > unit->plan->pages_floor;
  if (!chooses) {
    for (int32_t page = 0; page < task.page_count; ++page) {
      load_page(unit, task.pages[page], unit->end - unit->begin, block);
      attend_loaded(*unit, *block, unit->q_kept, unit->begin, unit->end);
    }
    return;
  }
  const int32_t wanted = unit->plan->pages_per_step;
  const size_t stride = query_stride(unit->shape->head_dim);
  const bool lifted = Form::kLift != 1.0f && unit->plan->k_storage == PageStorage::kF16;
  for (int32_t row = unit->begin; row < unit->end; ++row) {
    const PageQueries queries = {unit->q_kept + state_at(*unit, row, 0) * stride, stride,
                                 unit->group, lifted};
    score_pages(*unit->plan, *unit->layout, queries, task.pages, task.page_count, unit->scores);
    page_choose(unit->scores, task.page_count, wanted, unit->chosen);
    for (int32_t i = 0; i < wanted; ++i) {
      load_page(unit, task.pages[unit->chosen[i]], 1, block);
      attend_loaded(*unit, *block, unit->q_kept, row, row + 1);
    }
  }
}

// Full rows [begin, end).
template <typename Form>
void attend_full(const Unit& unit, int32_t begin, int32_t end, Block<Form>* block) {
  for (; begin < end; begin += kPageSlots) {
    load_rows(unit, begin, min_i32(begin + kPageSlots, end), block);
    attend_loaded(unit, *block, unit.q_full, unit.begin, unit.end);
  }
}

// The queries of a unit, as its blocks meet them: padded with 0, lifted, gathered.
template <typename Form>
void gather_queries(Unit* unit) {
  const int32_t dim = unit->shape->head_dim;
  const size_t stride = query_stride(dim);
  const uint16_t* channels = plan_channels(*unit->plan) + unit->layout->channels;
  const size_t width = unit->layout->width;
  const float kept_lift = unit->plan->k_storage == PageStorage::kF16 ? Form::kLift : 1.0f;
  for (int32_t row = unit->begin; row < unit->end; ++row) {
    for (int32_t h = 0; h < unit->group; ++h) {
      const float* q = unit->task->q + query_at(*unit, row, h);
      float* full = unit->q_full + state_at(*unit, row, h) * stride;
      float* kept = unit->q_kept + state_at(*unit, row, h) * stride;
      for (size_t i = 0; i < stride; ++i) {
        full[i] = i < static_cast<size_t>(dim) ? q[i] * Form::kLift : 0.0f;
      }
      for (size_t i = 0; i < width; ++i) kept[i] = q[channels[i]] * kept_lift;
      for (size_t i = width; i < (width + 7) / 8 * 8; ++i) kept[i] = 0.0f;
    }
  }
}

template <typename Form>
void attend_unit(Unit* unit) {
  const AttentionTask& task = *unit->task;
  const int32_t sink = unit->plan->sink;
  const int32_t end = task.first_position + unit->end;  // one past the last full row
  Block<Form> block;
  gather_queries<Form>(unit);
  attend_full(*unit, 0, min_i32(end, sink), &block);
  attend_pages(unit, &block);
  attend_full(*unit, sink + kPageSlots * task.page_count, end, &block);
}

// Whether f16 can be read in place: no rows that end within a vector, no query that lifting breaks.
bool reads_in_place(const Unit& unit) {
  if (unit.end - unit.begin > 1 || unit.group > kNarrowHeadsMax || unit.shape->head_dim % 4 != 0) {
    return false;
  }
  const float* q = unit.task->q + query_at(unit, unit.begin, 0);
  const size_t count = static_cast<size_t>(unit.group * unit.shape->head_dim);
  v128_t small = wasm_i32x4_const_splat(-1);
  for (size_t i = 0; i < count; i += 4) {
    const v128_t magnitude = wasm_f32x4_abs(simd::f32x4_load(q + i));
    small = wasm_v128_and(
        small, wasm_f32x4_lt(magnitude, wasm_f32x4_const_splat(kLiftedQueryMax)));
  }
  return wasm_i32x4_all_true(small);
}

void compute_unit(Unit* unit) {
  const size_t dim = static_cast<size_t>(unit->shape->head_dim);
  for (int32_t row = unit->begin; row < unit->end; ++row) {
    memset(unit->task->out + query_at(*unit, row, 0), 0,
           static_cast<size_t>(unit->group) * dim * sizeof(float));
    for (int32_t h = 0; h < unit->group; ++h) {
      unit->states[state_at(*unit, row, h)] = {-INFINITY, 0};
    }
  }
  if (reads_in_place(*unit)) {
    attend_unit<Narrow>(unit);
  } else {
    attend_unit<Wide>(unit);
  }
  for (int32_t row = unit->begin; row < unit->end; ++row) {
    for (int32_t h = 0; h < unit->group; ++h) {
      divide_row(unit->task->out + query_at(*unit, row, h), dim,
                 unit->states[state_at(*unit, row, h)].sum);
    }
  }
}

// ---- units and their scratch ----------------------------------------------------------------

// Bytes of one thread, a multiple of 64.
size_t thread_bytes(int32_t rows_max, int32_t heads, int32_t head_dim, int32_t pages_max) {
  const size_t queries =
      static_cast<size_t>(min_i32(rows_max, kUnitRows)) * static_cast<size_t>(heads);
  const size_t bytes = 2 * kRoomFloats * sizeof(float) +
                       queries * (2 * query_stride(head_dim) * sizeof(float) + sizeof(Softmax)) +
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

int32_t task_units(const AttentionShape& shape, const AttentionTask& task) {
  return (task.rows + kUnitRows - 1) / kUnitRows * shape.kv_heads;
}

void run_units(void* arg, int32_t begin, int32_t end, int32_t thread) {
  const Work& work = *static_cast<const Work*>(arg);
  const AttentionShape& shape = *work.shape;
  const size_t queries =
      static_cast<size_t>(min_i32(work.rows_max, kUnitRows)) * static_cast<size_t>(shape.heads);
  const size_t floats = queries * query_stride(shape.head_dim);
  Unit unit;
  unit.shape = &shape;
  unit.group = shape.heads / shape.kv_heads;
  unit.scale = 1.0f / sqrtf(static_cast<float>(shape.head_dim));
  unit.k = reinterpret_cast<float*>(work.scratch + static_cast<size_t>(thread) * work.thread_bytes);
  unit.v = unit.k + kRoomFloats;
  unit.q_full = unit.v + kRoomFloats;
  unit.q_kept = unit.q_full + floats;
  unit.states = reinterpret_cast<Softmax*>(unit.q_kept + floats);
  unit.scores = reinterpret_cast<float*>(unit.states + queries);
  int32_t first = 0;  // unit of the task's first
  for (int32_t t = 0; t < work.task_count && first < end; ++t) {
    const AttentionTask& task = work.tasks[t];
    const int32_t units = task_units(shape, task);
    for (int32_t i = begin > first ? begin : first; i < min_i32(end, first + units); ++i) {
      unit.task = &task;
      unit.plan = shape.plans[task.plan];
      unit.head = (i - first) % shape.kv_heads;
      unit.layout = &plan_head(*unit.plan, shape.layer, unit.head);
      unit.begin = (i - first) / shape.kv_heads * kUnitRows;
      unit.end = min_i32(unit.begin + kUnitRows, task.rows);
      unit.chosen = reinterpret_cast<int32_t*>(unit.scores + task.page_count);
      compute_unit(&unit);
    }
    first += units;
  }
}

}  // namespace

size_t attention_scratch_bytes(int32_t rows_max, int32_t heads, int32_t head_dim,
                               int32_t pages_max) {
  return kThreadsMax * thread_bytes(rows_max, heads, head_dim, pages_max);
}

void attention(Context* context, const AttentionShape& shape, const AttentionTask* tasks,
               int32_t task_count, uint8_t* scratch) {
  Work work = {&shape, tasks, scratch, 0, 0, task_count};
  int32_t units = 0;
  int32_t pages_max = 0;
  for (int32_t t = 0; t < task_count; ++t) {
    units += task_units(shape, tasks[t]);
    if (tasks[t].rows > work.rows_max) work.rows_max = tasks[t].rows;
    if (tasks[t].page_count > pages_max) pages_max = tasks[t].page_count;
  }
  work.thread_bytes = thread_bytes(work.rows_max, shape.heads, shape.head_dim, pages_max);
  parallel_for(context, units, run_units, &work);
}

}  // namespace leanedge::kernels
