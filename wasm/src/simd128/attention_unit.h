// A unit of attention: some KV heads and a few query rows of one task. What it computes depends on
// nothing else, so units can run on any thread, and how heads are dealt to units changes no bit.
#pragma once

#include <string.h>

#include "attention_block.h"

namespace leanedge::kernels {

// Query rows of a unit: enough to share what preparing a block costs, few enough to share the work.
inline constexpr int32_t kUnitRows = 16;

// Most room for K, and for V, of a batch of pages in the form that many query heads share.
inline constexpr size_t kRoomBytesMax = 65536;

inline int32_t min_i32(int32_t a, int32_t b) { return a < b ? a : b; }

// Filled up so that vectors of eight channels can be read.
inline size_t query_stride(int32_t dim) { return static_cast<size_t>((dim + 7) / 8 * 8); }

// Bytes that a page's K, or V, takes in a room: as f32 with the last V group filled up, which is
// more than planes of codes take.
inline size_t room_page_bytes(int32_t head_dim) {
  const int32_t groups = (head_dim + kGroupChannels - 1) / kGroupChannels;
  return static_cast<size_t>(kPageSlots * groups * kGroupChannels) * sizeof(float);
}
static_assert(kRoomBytesMax >= kPageSlots * kHeadDimMax * sizeof(float));
static_assert(kPairPlanes * sizeof(v128_t) <= 2 * kPageSlots * sizeof(float));   // of two channels
static_assert((kPageSlots / 2) * kPairPlanes * sizeof(v128_t) <=
              kPageSlots * kGroupChannels * sizeof(float));                      // of a V group

// Pages of a batch: as many as the room holds. A function of the head's size alone.
inline int32_t batch_pages(int32_t head_dim) {
  const int32_t fit = static_cast<int32_t>(kRoomBytesMax / room_page_bytes(head_dim));
  return fit < kBatchPages ? fit : kBatchPages;
}

// Room for K, and for V, of a batch.
inline size_t room_bytes(int32_t head_dim) {
  return static_cast<size_t>(batch_pages(head_dim)) * room_page_bytes(head_dim);
}

struct Unit {
  const AttentionShape* shape;
  const AttentionTask* task;
  const CachePlan* plan;
  int32_t group;       // query heads that share a KV head
  int32_t begin;       // query rows [begin, end) of the task
  int32_t end;
  int32_t head_begin;  // KV heads [head_begin, head_end)
  int32_t head_end;
  float scale;         // 1 / sqrt(head_dim)
  // Scratch of the thread.
  uint8_t* k_room;     // (room_bytes(head_dim))
  uint8_t* v_room;     // (room_bytes(head_dim))
  float* q_full;       // (rows, query heads, query_stride(head_dim)) as full rows meet them
  float* q_kept;       // (rows, query heads, query_stride(head_dim)) as pages meet them
  Softmax* states;     // (rows, query heads)
  float* scores;       // (page_count)
  int32_t* chosen;     // (page_count)
  KeyCodes k_codes[kBatchPages];
  ValueCodes v_codes[kBatchPages];
};

inline const PageHead& unit_layout(const Unit& unit, int32_t head) {
  return plan_head(*unit.plan, unit.shape->layer, head);
}

// Where query head `h` of KV head `head`, row `row` of the task, lies in q and out.
inline size_t query_at(const Unit& unit, int32_t row, int32_t head, int32_t h) {
  const size_t index = static_cast<size_t>(head * unit.group + h);
  return (static_cast<size_t>(row) * static_cast<size_t>(unit.shape->heads) + index) *
         static_cast<size_t>(unit.shape->head_dim);
}

// Its place in the unit's own arrays.
inline size_t state_at(const Unit& unit, int32_t row, int32_t head, int32_t h) {
  const int32_t heads = (unit.head_end - unit.head_begin) * unit.group;
  const int32_t first = (head - unit.head_begin) * unit.group;
  return static_cast<size_t>((row - unit.begin) * heads + first + h);
}

// Whether a head's pages hold the very bits of the rows: they are then read in the order of
// kernels.h.
inline bool keeps_all(const CachePlan& plan, const PageHead& layout) {
  return plan.k_storage == PageStorage::kF16 && plan.v_storage == PageStorage::kF16 &&
         layout.width == static_cast<uint32_t>(plan.head_dim) && !plan.evicting;
}

// The queries of a unit, as its blocks meet them: padded with 0, lifted, gathered.
template <typename Form>
inline void gather_queries(Unit* unit) {
  const int32_t dim = unit->shape->head_dim;
  const size_t stride = query_stride(dim);
  const float kept_lift = unit->plan->k_storage == PageStorage::kF16 ? Form::kLift : 1.0f;
  for (int32_t row = unit->begin; row < unit->end; ++row) {
    for (int32_t head = unit->head_begin; head < unit->head_end; ++head) {
      const PageHead& layout = unit_layout(*unit, head);
      const uint16_t* channels = plan_channels(*unit->plan) + layout.channels;
      const size_t width = layout.width;
      for (int32_t h = 0; h < unit->group; ++h) {
        const float* q = unit->task->q + query_at(*unit, row, head, h);
        float* full = unit->q_full + state_at(*unit, row, head, h) * stride;
        float* kept = unit->q_kept + state_at(*unit, row, head, h) * stride;
        for (size_t i = 0; i < stride; ++i) {
          full[i] = i < static_cast<size_t>(dim) ? q[i] * Form::kLift : 0.0f;
        }
        for (size_t i = 0; i < width; ++i) kept[i] = q[channels[i]] * kept_lift;
        for (size_t i = width; i < (width + 7) / 8 * 8; ++i) kept[i] = 0.0f;
      }
    }
  }
}

// ---- full rows ------------------------------------------------------------------------------

// The span that holds `position`.
inline const FullSpan& span_at(const AttentionTask& task, int32_t position) {
  for (int32_t i = 0; i < task.span_count; ++i) {
    const FullSpan& span = task.spans[i];
    if (position >= span.first_position && position - span.first_position < span.rows) return span;
  }
  __builtin_trap();
}

// Enters `count` rows from slot `slot` on, `stride` values apart.
template <typename Value>
inline void enter_rows(const Value* from, size_t stride, int32_t slot, int32_t count,
                       const Value** rows) {
  for (int32_t i = 0; i < count; ++i) rows[slot + i] = from + static_cast<size_t>(i) * stride;
}

// Enters `count` f16 rows of K and V from slot `slot` on, as they are.
inline void enter_span(const Unit& unit, const uint16_t* k, const uint16_t* v, int32_t slot,
                       int32_t count, Block<Narrow>* block) {
  const size_t dim = static_cast<size_t>(unit.shape->head_dim);
  enter_rows(k, dim, slot, count, block->k);
  enter_rows(v, dim, slot, count, block->v);
}

// Widens `count` f16 rows of K and V and enters them from slot `slot` on.
inline void enter_span(const Unit& unit, const uint16_t* k, const uint16_t* v, int32_t slot,
                       int32_t count, Block<Wide>* block) {
  const int32_t dim = unit.shape->head_dim;
  const size_t stride = padded_dim(dim);
  float* k_to = reinterpret_cast<float*>(unit.k_room) + static_cast<size_t>(slot) * stride;
  float* v_to = reinterpret_cast<float*>(unit.v_room) + static_cast<size_t>(slot) * stride;
  widen_rows(k, count, dim, k_to);
  widen_rows(v, count, dim, v_to);
  enter_rows<float>(k_to, stride, slot, count, block->k);
  enter_rows<float>(v_to, stride, slot, count, block->v);
}

// Loads full rows [begin, end) of a KV head; a block may lie in several spans.
template <typename Form>
inline void load_rows(const Unit& unit, int32_t head, int32_t begin, int32_t end,
                      Block<Form>* block) {
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
    const size_t from = (static_cast<size_t>(head) * static_cast<size_t>(span.stride) +
                         static_cast<size_t>(row)) * dim;
    enter_span(unit, span.k + from, span.v + from, position - begin, run, block);
    position += run;
  }
}

// ---- pages ----------------------------------------------------------------------------------

// K of a page by channels, and V by slots, as f16; page `index` of a batch.
inline void enter_k_channels(const Unit&, const uint16_t* k, int32_t, Block<Narrow>* block) {
  block->k_channels = k;
}
inline void enter_k_channels(const Unit& unit, const uint16_t* k, int32_t index,
                             Block<Wide>* block) {
  const size_t at = static_cast<size_t>(index) * room_page_bytes(unit.shape->head_dim);
  float* room = reinterpret_cast<float*>(unit.k_room + at);
  widen_rows(k, block->width, kPageSlots, room);
  block->k_channels = room;
}
inline void enter_v_rows(const Unit& unit, const uint16_t* v, int32_t, Block<Narrow>* block) {
  enter_rows(v, static_cast<size_t>(unit.shape->head_dim), 0, kPageSlots, block->v);
}
inline void enter_v_rows(const Unit& unit, const uint16_t* v, int32_t index, Block<Wide>* block) {
  const int32_t dim = unit.shape->head_dim;
  const size_t at = static_cast<size_t>(index) * room_page_bytes(dim);
  float* room = reinterpret_cast<float*>(unit.v_room + at);
  widen_rows(v, kPageSlots, dim, room);
  enter_rows<float>(room, padded_dim(dim), 0, kPageSlots, block->v);
}

// Slots in use of a page.
inline int32_t page_slots(const CachePlan& plan, const PageHead& layout, const uint8_t* bytes) {
  if (!plan.evicting) return kPageSlots;
  uint32_t count;
  memcpy(&count, bytes + layout.count, sizeof(count));
  return count < static_cast<uint32_t>(kPageSlots) ? static_cast<int32_t>(count) : kPageSlots;
}

// Loads an archive page of a KV head that keeps something, as page `index` of a batch. `unpack`:
// whether so many query heads share its codes that unpacking them pays.
template <typename Form>
inline void load_page(Unit* unit, int32_t head, const uint8_t* bytes, bool unpack, int32_t index,
                      Block<Form>* block) {
  const CachePlan& plan = *unit->plan;
  const PageHead& layout = unit_layout(*unit, head);
  const size_t at = static_cast<size_t>(index) * room_page_bytes(unit->shape->head_dim);
  block->k_channels = nullptr;
  block->k_codes = nullptr;
  block->v_codes = nullptr;
  block->width = static_cast<int32_t>(layout.width);
  block->slots = page_slots(plan, layout, bytes);
  block->first_position = 0;  // before every query row
  if (plan.k_storage == PageStorage::kF16) {
    enter_k_channels(*unit, reinterpret_cast<const uint16_t*>(bytes + layout.k_values), index,
                     block);
  } else {
    v128_t* room = unpack ? reinterpret_cast<v128_t*>(unit->k_room + at) : nullptr;
    open_key_codes(plan, layout, bytes, room, &unit->k_codes[index]);
    block->k_codes = &unit->k_codes[index];
  }
  if (plan.v_storage == PageStorage::kF16) {
    enter_v_rows(*unit, reinterpret_cast<const uint16_t*>(bytes + layout.v_values), index, block);
  } else {
    v128_t* room = unpack ? reinterpret_cast<v128_t*>(unit->v_room + at) : nullptr;
    open_value_codes(plan, layout, bytes, room, &unit->v_codes[index]);
    block->v_codes = &unit->v_codes[index];
  }
}

}  // namespace leanedge::kernels
