// Attention over the zones, block by block, in the order that kernels.h states. A block's K and V
// are widened to f32 once and then serve all query rows and all query heads of their KV head.
#include <math.h>
#include <string.h>

#include "attention_block.h"

namespace leanedge::kernels {
namespace {

// What one task works on.
struct Call {
  const AttentionShape* shape;
  const AttentionTask* task;
  const CachePlan* plan;
  Softmax* states;  // (rows, heads)
  float* k;         // (kPageSlots * kHeadDimMax) of the loaded block
  float* v;         // (kPageSlots * kHeadDimMax)
  Block block;
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

// Loads full rows [begin, end) of KV head `head`; a block may lie in several spans.
void load_rows(Call* call, int32_t head, int32_t begin, int32_t end) {
  const int32_t dim = call->shape->head_dim;
  const size_t stride = padded_dim(dim);
  Block& block = call->block;
  block.k = call->k;
  block.v = call->v;
  block.channels = nullptr;
  block.width = dim;
  block.slots = end - begin;
  block.first_position = begin;
  block.channel_major = false;
  for (int32_t position = begin; position < end;) {
    const FullSpan& span = span_at(*call->task, position);
    const int32_t row = position - span.first_position;
    const int32_t run = span.rows - row < end - position ? span.rows - row : end - position;
    const size_t from = (static_cast<size_t>(head) * static_cast<size_t>(span.stride) +
                         static_cast<size_t>(row)) * static_cast<size_t>(dim);
    const size_t to = static_cast<size_t>(position - begin) * stride;
    widen_rows(span.k + from, run, dim, call->k + to);
    widen_rows(span.v + from, run, dim, call->v + to);
    position += run;
  }
}

// Loads archive page `page` of KV head `head`. False where the head keeps nothing.
bool load_page(Call* call, int32_t head, int32_t page) {
  const CachePlan& plan = *call->plan;
  const PageHead& layout = plan_head(plan, call->shape->layer, head);
  if (layout.width == 0) return false;
  const uint8_t* bytes = call->task->pages[page];
  const int32_t dim = call->shape->head_dim;
  Block& block = call->block;
  block.k = call->k;
  block.v = call->v;
  block.width = static_cast<int32_t>(layout.width);
  block.channels =
      block.width == dim ? nullptr : plan_channels(plan) + layout.channels;
  block.first_position = 0;  // before every query row
  if (plan.k_storage == PageStorage::kF16 && plan.v_storage == PageStorage::kF16 &&
      !plan.evicting) {
    block.slots = kPageSlots;
    block.channel_major = true;
    widen_rows(reinterpret_cast<const uint16_t*>(bytes + layout.k_values), block.width, kPageSlots,
               call->k);
    widen_rows(reinterpret_cast<const uint16_t*>(bytes + layout.v_values), kPageSlots, dim,
               call->v);
    return true;
  }
  block.channel_major = false;
  block.slots = page_unpack_ref(plan, call->shape->layer, head, bytes, call->k, call->v);
  pad_rows(call->k, kPageSlots, block.width);
  pad_rows(call->v, kPageSlots, dim);
  return block.slots > 0;
}

// Folds the loaded block into all rows and query heads that see it.
void attend_loaded(const Call& call, int32_t kv_head) {
  const AttentionShape& shape = *call.shape;
  const AttentionTask& task = *call.task;
  const int32_t group = shape.heads / shape.kv_heads;
  const float scale = 1.0f / sqrtf(static_cast<float>(shape.head_dim));
  // Full rows are causal: the row at position p sees slots up to p.
  const int32_t behind = call.block.first_position - task.first_position;
  for (int32_t r = behind > 0 ? behind : 0; r < task.rows; ++r) {
    const int32_t seen = r - behind + 1;
    const int32_t slots = seen < call.block.slots ? seen : call.block.slots;
    const size_t first = static_cast<size_t>(r) * static_cast<size_t>(shape.heads) +
                         static_cast<size_t>(kv_head * group);
    for (size_t state = first; state < first + static_cast<size_t>(group); ++state) {
      const size_t at = state * static_cast<size_t>(shape.head_dim);
      attend_block(call.block, task.q + at, slots, scale, shape.head_dim, call.states + state,
                   task.out + at);
    }
  }
}

void attend_task(Call* call) {
  const AttentionShape& shape = *call->shape;
  const AttentionTask& task = *call->task;
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

size_t attention_scratch_bytes(int32_t rows_max, int32_t heads, int32_t) {
  return 2 * kBlockFloats * sizeof(float) +
         static_cast<size_t>(rows_max) * static_cast<size_t>(heads) * sizeof(Softmax);
}

void attention(Context*, const AttentionShape& shape, const AttentionTask* tasks,
               int32_t task_count, uint8_t* scratch) {
  float* floats = reinterpret_cast<float*>(scratch);
  for (int32_t t = 0; t < task_count; ++t) {
    Call call = {};
    call.shape = &shape;
    call.task = &tasks[t];
    call.plan = shape.plans[tasks[t].plan];
    call.k = floats;
    call.v = floats + kBlockFloats;
    call.states = reinterpret_cast<Softmax*>(floats + 2 * kBlockFloats);
    attend_task(&call);
  }
}

}  // namespace leanedge::kernels
