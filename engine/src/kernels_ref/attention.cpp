// Attention over the zones, block by block, in the order that kernels.h states.
#include <math.h>

#include "../numeric.h"
#include "leanedge/half.h"
#include "leanedge/kernels.h"
#include "leanedge/status.h"

namespace leanedge::kernels {
namespace {

// One block of at most 32 slots of one KV head, as f32.
struct Block {
  float* k;  // (32, kHeadDimMax): `width` kept channels of each slot, rows `width` apart
  float* v;  // (32, head_dim)
  const uint16_t* channels;  // (width) kept channels; null: all, in order
  int32_t width;
  int32_t slots;
  int32_t first_position;  // of slot 0; archive pages: any position before the query's
};

// Running state of the online softmax of one query row and head.
struct Softmax {
  float max;
  float sum;
};

// Folds one block into a row's output (Milakov and Gimelshein 2018, algorithm 3).
void attend_block(const Block& block, const float* q, int32_t slots, float scale, int32_t head_dim,
                  Softmax* state, float* out) {
  float scores[kPageSlots];
  float block_max = -INFINITY;
  for (int32_t s = 0; s < slots; ++s) {
    const float* k = block.k + static_cast<size_t>(s) * static_cast<size_t>(block.width);
    float sums[4] = {0, 0, 0, 0};
    for (int32_t j = 0; j < block.width; ++j) {
      sums[j & 3] += q[block.channels ? block.channels[j] : j] * k[j];
    }
    scores[s] = ((sums[0] + sums[1]) + (sums[2] + sums[3])) * scale;
    if (!(scores[s] <= block_max)) block_max = scores[s];
  }
  const float max = state->max > block_max ? state->max : block_max;
  const float rescale = exp_f32(state->max - max);
  state->max = max;
  state->sum *= rescale;
  for (int32_t d = 0; d < head_dim; ++d) out[d] *= rescale;
  for (int32_t s = 0; s < slots; ++s) {
    const float p = exp_f32(scores[s] - max);
    const float* v = block.v + static_cast<size_t>(s) * static_cast<size_t>(head_dim);
    state->sum += p;
    for (int32_t d = 0; d < head_dim; ++d) out[d] += p * v[d];
  }
}

// What one call works on, so that helpers take one argument.
struct Call {
  const AttentionShape* shape;
  const AttentionTask* task;
  const CachePlan* plan;
  Softmax* states;  // (rows, heads)
  float* scores;    // (page_count) of one row and KV head; where the task selects
  int32_t* chosen;  // (page_count) pages that they choose
  Block block;
};

// The span that holds `position`, null if none does.
const FullSpan* span_at(const AttentionTask& task, int32_t position) {
  for (int32_t i = 0; i < task.span_count; ++i) {
    const FullSpan& span = task.spans[i];
    if (position >= span.first_position && position - span.first_position < span.rows) return &span;
  }
  return nullptr;
}

// Loads full rows [begin, end) of KV head `head`.
void load_rows(Call* call, int32_t head, int32_t begin, int32_t end) {
  const size_t dim = static_cast<size_t>(call->shape->head_dim);
  Block& block = call->block;
  block.channels = nullptr;
  block.width = call->shape->head_dim;
  block.slots = end - begin;
  block.first_position = begin;
  for (int32_t position = begin; position < end; ++position) {
    const FullSpan* span = span_at(*call->task, position);
    ENGINE_ASSERT(span);
    const size_t from = (static_cast<size_t>(head) * static_cast<size_t>(span->stride) +
                         static_cast<size_t>(position - span->first_position)) *
                        dim;
    const size_t to = static_cast<size_t>(position - begin) * dim;
    for (size_t d = 0; d < dim; ++d) {
      block.k[to + d] = f16_to_f32(span->k[from + d]);
      block.v[to + d] = f16_to_f32(span->v[from + d]);
    }
  }
}

// Loads archive page `page` of KV head `head`. False where the head keeps nothing.
bool load_page(Call* call, int32_t head, int32_t page) {
  Block& block = call->block;
  const PageHead& layout = plan_head(*call->plan, call->shape->layer, head);
  if (layout.width == 0) return false;
  // page_unpack_ref gives (32, width): the rows of a narrow head lie closer together.
  block.slots = page_unpack_ref(*call->plan, call->shape->layer, head, call->task->pages[page],
                                block.k, block.v);
  block.channels = plan_channels(*call->plan) + layout.channels;
  block.width = static_cast<int32_t>(layout.width);
  block.first_position = 0;
  return block.slots > 0;
}

// Folds the loaded block into the query heads of rows [begin, end) that see it.
void attend_loaded(Call* call, int32_t kv_head, int32_t begin, int32_t end) {
  const AttentionShape& shape = *call->shape;
  const AttentionTask& task = *call->task;
  const int32_t group = shape.heads / shape.kv_heads;
  const float scale = 1.0f / sqrtf(static_cast<float>(shape.head_dim));
  for (int32_t r = begin; r < end; ++r) {
    // Full rows are causal: the row at position p sees slots up to p.
    const int32_t seen = task.first_position + r - call->block.first_position + 1;
    if (seen <= 0) continue;
    const int32_t slots = seen < call->block.slots ? seen : call->block.slots;
    for (int32_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
      const size_t state =
          static_cast<size_t>(r) * static_cast<size_t>(shape.heads) + static_cast<size_t>(h);
      const size_t at = state * static_cast<size_t>(shape.head_dim);
      attend_block(call->block, task.q + at, slots, scale, shape.head_dim, call->states + state,
                   task.out + at);
    }
  }
}

// Upper bound of q.k over a page's slots: max(q lo, q hi) summed over kept channels.
float bound_of(const float* q, const uint16_t* channels, int32_t width, const float* lo,
               const float* hi) {
  float sums[4] = {0, 0, 0, 0};
  for (int32_t j = 0; j < width; ++j) {
    const float at_lo = q[channels[j]] * lo[j];
    const float at_hi = q[channels[j]] * hi[j];
    sums[j & 3] += at_lo > at_hi ? at_lo : at_hi;
  }
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// Chooses the pages that row `row` reads for KV head `head`. Returns how many.
int32_t choose_pages(Call* call, int32_t head, int32_t row) {
  const AttentionShape& shape = *call->shape;
  const AttentionTask& task = *call->task;
  const PageHead& layout = plan_head(*call->plan, shape.layer, head);
  const uint16_t* channels = plan_channels(*call->plan) + layout.channels;
  const int32_t width = static_cast<int32_t>(layout.width);
  const int32_t group = shape.heads / shape.kv_heads;
  float lo[kHeadDimMax];
  float hi[kHeadDimMax];
  for (int32_t page = 0; page < task.page_count; ++page) {
    page_bounds_ref(*call->plan, shape.layer, head, task.pages[page], lo, hi);
    float best = -INFINITY;
    for (int32_t h = head * group; h < (head + 1) * group; ++h) {
      const size_t at = static_cast<size_t>(row) * static_cast<size_t>(shape.heads) +
                        static_cast<size_t>(h);
      const float bound =
          bound_of(task.q + at * static_cast<size_t>(shape.head_dim), channels, width, lo, hi);
      if (bound > best) best = bound;  // false for NaN
    }
    call->scores[page] = best;
  }
  page_choose(call->scores, task.page_count, call->plan->pages_per_step, call->chosen);
  return call->plan->pages_per_step;
}

// The archive of KV head `head`: every page for all rows at once, or what each row chooses.
void attend_pages(Call* call, int32_t head) {
  const AttentionTask& task = *call->task;
  if (plan_head(*call->plan, call->shape->layer, head).width == 0) return;
  if (!task.selects || task.page_count <= call->plan->pages_floor) {
    for (int32_t page = 0; page < task.page_count; ++page) {
      if (load_page(call, head, page)) attend_loaded(call, head, 0, task.rows);
    }
    return;
  }
  for (int32_t row = 0; row < task.rows; ++row) {
    const int32_t count = choose_pages(call, head, row);
    for (int32_t i = 0; i < count; ++i) {
      if (load_page(call, head, call->chosen[i])) attend_loaded(call, head, row, row + 1);
    }
  }
}

void attend_task(Call* call) {
  const AttentionShape& shape = *call->shape;
  const AttentionTask& task = *call->task;
  const int32_t sink = call->plan->sink;
  const int32_t end = task.first_position + task.rows;  // one past the last full row
  const size_t states = static_cast<size_t>(task.rows) * static_cast<size_t>(shape.heads);
  for (size_t i = 0; i < states; ++i) call->states[i] = {-INFINITY, 0};
  for (size_t i = 0; i < states * static_cast<size_t>(shape.head_dim); ++i) task.out[i] = 0;

  for (int32_t head = 0; head < shape.kv_heads; ++head) {
    const int32_t sink_end = end < sink ? end : sink;
    for (int32_t begin = 0; begin < sink_end; begin += kPageSlots) {
      const int32_t run = sink_end - begin < kPageSlots ? sink_end - begin : kPageSlots;
      load_rows(call, head, begin, begin + run);
      attend_loaded(call, head, 0, task.rows);
    }
    attend_pages(call, head);
    for (int32_t begin = sink + kPageSlots * task.page_count; begin < end; begin += kPageSlots) {
      const int32_t run = end - begin < kPageSlots ? end - begin : kPageSlots;
      load_rows(call, head, begin, begin + run);
      attend_loaded(call, head, 0, task.rows);
    }
  }
  for (size_t i = 0; i < states; ++i) {
    float* out = task.out + i * static_cast<size_t>(shape.head_dim);
    for (int32_t d = 0; d < shape.head_dim; ++d) out[d] /= call->states[i].sum;
  }
}

constexpr size_t kBlockFloats = static_cast<size_t>(kPageSlots) * kHeadDimMax;

}  // namespace

size_t attention_scratch_bytes(int32_t rows_max, int32_t heads, int32_t, int32_t pages_max) {
  return 2 * kBlockFloats * sizeof(float) +
         static_cast<size_t>(rows_max) * static_cast<size_t>(heads) * sizeof(Softmax) +
         static_cast<size_t>(pages_max) * (sizeof(float) + sizeof(int32_t));
}

void attention(Context*, const AttentionShape& shape, const AttentionTask* tasks,
               int32_t task_count, uint8_t* scratch) {
  float* floats = reinterpret_cast<float*>(scratch);
  for (int32_t t = 0; t < task_count; ++t) {
    Call call = {};
    call.shape = &shape;
    call.task = &tasks[t];
    call.plan = shape.plans[tasks[t].plan];
    call.block.k = floats;
    call.block.v = floats + kBlockFloats;
    call.states = reinterpret_cast<Softmax*>(floats + 2 * kBlockFloats);
    call.scores = reinterpret_cast<float*>(
        call.states + static_cast<size_t>(call.task->rows) * static_cast<size_t>(shape.heads));
    call.chosen = reinterpret_cast<int32_t*>(call.scores + call.task->page_count);
    attend_task(&call);
  }
}

}  // namespace leanedge::kernels
