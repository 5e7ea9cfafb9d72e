// Attention over the zones, block by block, in the order that kernels.h states. Where several query
// rows share a block, its K and V are widened to f32 once for all of them; a single row reads f16 as
// it lies in the cache, two query heads of a group at a time.
#include <math.h>
#include <string.h>

#include "attention_block.h"

namespace leanedge::kernels {
namespace {

// What one task works on.
template <typename Form>
struct Call {
  const AttentionShape* shape;
  const AttentionTask* task;
  const CachePlan* plan;
  Softmax* states;  // (rows, heads)
  float* k;         // (kPageSlots * kHeadDimMax) room for widened K
  float* v;         // (kPageSlots * kHeadDimMax) room for widened V
  Block<Form> block;
};

constexpr size_t kBlockFloats = static_cast<size_t>(kPageSlots) * kHeadDimMax;

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
void enter_span(Call<Narrow>* call, const uint16_t* k, const uint16_t* v, int32_t slot,
                int32_t count) {
  const size_t dim = static_cast<size_t>(call->shape->head_dim);
  enter_rows(k, dim, slot, count, call->block.k);
  enter_rows(v, dim, slot, count, call->block.v);
}

// Widens `count` f16 rows of K and V and enters them from slot `slot` on.
void enter_span(Call<Wide>* call, const uint16_t* k, const uint16_t* v, int32_t slot,
                int32_t count) {
  const int32_t dim = call->shape->head_dim;
  const size_t stride = padded_dim(dim);
  const size_t to = static_cast<size_t>(slot) * stride;
  widen_rows(k, count, dim, call->k + to);
  widen_rows(v, count, dim, call->v + to);
  enter_rows<float>(call->k + to, stride, slot, count, call->block.k);
  enter_rows<float>(call->v + to, stride, slot, count, call->block.v);
}

// Loads full rows [begin, end) of KV head `head`; a block may lie in several spans.
template <typename Form>
void load_rows(Call<Form>* call, int32_t head, int32_t begin, int32_t end) {
  const size_t dim = static_cast<size_t>(call->shape->head_dim);
  Block<Form>& block = call->block;
  block.k_channels = nullptr;
  block.channels = nullptr;
  block.width = call->shape->head_dim;
  block.slots = end - begin;
  block.first_position = begin;
  for (int32_t position = begin; position < end;) {
    const FullSpan& span = span_at(*call->task, position);
    const int32_t row = position - span.first_position;
    const int32_t run = span.rows - row < end - position ? span.rows - row : end - position;
    const size_t from = (static_cast<size_t>(head) * static_cast<size_t>(span.stride) +
                         static_cast<size_t>(row)) * dim;
    enter_span(call, span.k + from, span.v + from, position - begin, run);
    position += run;
  }
}

// Enters a page of f16 values, K by channels and V by slots, as it is.
void enter_plain_page(Call<Narrow>* call, const uint16_t* k, const uint16_t* v) {
  call->block.k_channels = k;
  enter_rows(v, static_cast<size_t>(call->shape->head_dim), 0, kPageSlots, call->block.v);
}

// Widens such a page.
void enter_plain_page(Call<Wide>* call, const uint16_t* k, const uint16_t* v) {
  const int32_t dim = call->shape->head_dim;
  widen_rows(k, call->block.width, kPageSlots, call->k);
  widen_rows(v, kPageSlots, dim, call->v);
  call->block.k_channels = call->k;
  enter_rows<float>(call->v, padded_dim(dim), 0, kPageSlots, call->block.v);
}

// Whether pages hold f16 values and nothing that needs unpacking.
bool has_plain_pages(const CachePlan& plan) {
  return plan.k_storage == PageStorage::kF16 && plan.v_storage == PageStorage::kF16 &&
         !plan.evicting;
}

// Unpacks any other page.
void unpack_page(Call<Wide>* call, int32_t head, const uint8_t* bytes) {
  Block<Wide>& block = call->block;
  const int32_t dim = call->shape->head_dim;
  block.k_channels = nullptr;
  block.slots = page_unpack_ref(*call->plan, call->shape->layer, head, bytes, call->k, call->v);
  pad_rows(call->k, kPageSlots, block.width);
  pad_rows(call->v, kPageSlots, dim);
  enter_rows<float>(call->k, padded_dim(block.width), 0, kPageSlots, block.k);
  enter_rows<float>(call->v, padded_dim(dim), 0, kPageSlots, block.v);
}

// Loads archive page `page` of KV head `head`. False where the head keeps nothing.
template <typename Form>
bool load_page(Call<Form>* call, int32_t head, int32_t page) {
  const CachePlan& plan = *call->plan;
  const PageHead& layout = plan_head(plan, call->shape->layer, head);
  if (layout.width == 0) return false;
  const uint8_t* bytes = call->task->pages[page];
  Block<Form>& block = call->block;
  block.width = static_cast<int32_t>(layout.width);
  block.channels = block.width == call->shape->head_dim ? nullptr
                                                        : plan_channels(plan) + layout.channels;
  block.slots = kPageSlots;
  block.first_position = 0;  // before every query row
  if (has_plain_pages(plan)) {
    enter_plain_page(call, reinterpret_cast<const uint16_t*>(bytes + layout.k_values),
                     reinterpret_cast<const uint16_t*>(bytes + layout.v_values));
  } else if constexpr (sizeof(typename Form::Value) == sizeof(float)) {
    unpack_page(call, head, bytes);
  } else {
    __builtin_trap();
  }
  return block.slots > 0;
}

// Folds the loaded block into all rows and query heads that see it.
template <typename Form>
void attend_loaded(const Call<Form>& call, int32_t kv_head) {
  const AttentionShape& shape = *call.shape;
  const AttentionTask& task = *call.task;
  const int32_t group = shape.heads / shape.kv_heads;
  const size_t dim = static_cast<size_t>(shape.head_dim);
  const float scale = 1.0f / sqrtf(static_cast<float>(shape.head_dim));
  // Full rows are causal: the row at position p sees slots up to p.
  const int32_t behind = call.block.first_position - task.first_position;
  for (int32_t r = behind > 0 ? behind : 0; r < task.rows; ++r) {
    const int32_t seen = r - behind + 1;
    const int32_t slots = seen < call.block.slots ? seen : call.block.slots;
    const size_t first = static_cast<size_t>(r) * static_cast<size_t>(shape.heads) +
                         static_cast<size_t>(kv_head * group);
    const float* q = task.q + first * dim;
    float* out = task.out + first * dim;
    Softmax* states = call.states + first;
    int32_t h = 0;
    for (; h + 2 <= group; h += 2, q += 2 * dim, out += 2 * dim) {
      attend_block<Form, 2>(call.block, q, slots, scale, shape.head_dim, states + h, out);
    }
    if (h < group) {
      attend_block<Form, 1>(call.block, q, slots, scale, shape.head_dim, states + h, out);
    }
  }
}

template <typename Form>
void attend_task(const AttentionShape& shape, const AttentionTask& task, uint8_t* scratch) {
  float* floats = reinterpret_cast<float*>(scratch);
  Call<Form> room;
  Call<Form>* call = &room;
  call->shape = &shape;
  call->task = &task;
  call->plan = shape.plans[task.plan];
  call->k = floats;
  call->v = floats + kBlockFloats;
  call->states = reinterpret_cast<Softmax*>(floats + 2 * kBlockFloats);
  const int32_t sink = call->plan->sink;
  const int32_t end = task.first_position + task.rows;  // one past the last full row
  const size_t states = static_cast<size_t>(task.rows) * static_cast<size_t>(shape.heads);
  const size_t dim = static_cast<size_t>(shape.head_dim);
  for (size_t i = 0; i < states; ++i) call->states[i] = {-INFINITY, 0};
  memset(task.out, 0, states * dim * sizeof(float));

  for (int32_t head = 0; head < shape.kv_heads; ++head) {
    const int32_t sink_end = end < sink ? end : sink;
    for (int32_t begin = 0; begin < sink_end; begin += kPageSlots) {
      const int32_t run = sink_end - begin < kPageSlots ? sink_end - begin : kPageSlots;
      load_rows(call, head, begin, begin + run);
      attend_loaded(*call, head);
    }
    for (int32_t page = 0; page < task.page_count; ++page) {
      if (load_page(call, head, page)) attend_loaded(*call, head);
    }
    for (int32_t begin = sink + kPageSlots * task.page_count; begin < end; begin += kPageSlots) {
      const int32_t run = end - begin < kPageSlots ? end - begin : kPageSlots;
      load_rows(call, head, begin, begin + run);
      attend_loaded(*call, head);
    }
  }
  for (size_t i = 0; i < states; ++i) divide_row(task.out + i * dim, dim, call->states[i].sum);
}

}  // namespace

size_t attention_scratch_bytes(int32_t rows_max, int32_t heads, int32_t, int32_t) {
  return 2 * kBlockFloats * sizeof(float) +
         static_cast<size_t>(rows_max) * static_cast<size_t>(heads) * sizeof(Softmax);
}

void attention(Context*, const AttentionShape& shape, const AttentionTask* tasks,
               int32_t task_count, uint8_t* scratch) {
  for (int32_t t = 0; t < task_count; ++t) {
    const AttentionTask& task = tasks[t];
    // One row of two heads at most reads each value once: widening it first would cost more.
    const bool narrow = task.rows == 1 && shape.heads <= 2 * shape.kv_heads &&
                        shape.head_dim % 4 == 0 && has_plain_pages(*shape.plans[task.plan]);
    if (narrow) {
      attend_task<Narrow>(shape, task, scratch);
    } else {
      attend_task<Wide>(shape, task, scratch);
    }
  }
}

}  // namespace leanedge::kernels
