// Legal cache plans for tests.
#pragma once

#include <stdlib.h>

#include "../src/page_layout.h"
#include "check.h"
#include "leanedge/plan.h"

namespace leanedge::test {

// Which pages a step reads; all by default.
struct TinySelection {
  int32_t pages_per_step = 0;
  int32_t pages_floor = 0;
};

// A plan whose head i (of layers x kv_heads, in order) keeps its last widths[i] channels; free()
// it.
inline CachePlan* tiny_plan(int32_t layers, int32_t kv_heads, int32_t head_dim, int32_t sink,
                            int32_t recent, const uint32_t* widths, PageStorage k, PageStorage v,
                            const TinySelection& selection = {}) {
  const int32_t heads = layers * kv_heads;
  // An identity plan, of which less is kept afterwards.
  CachePlan* plan = static_cast<CachePlan*>(
      malloc(plan_bytes(layers, kv_heads, static_cast<size_t>(heads * head_dim))));
  plan_identity_write(plan, layers, kv_heads, head_dim, sink, recent);
  plan->k_storage = k;
  plan->v_storage = v;
  plan->pages_per_step = selection.pages_per_step;
  plan->pages_floor = selection.pages_floor;
  plan->channel_count = 0;
  for (int32_t i = 0; i < heads; ++i) {
    plan_head_mutable(plan, i / kv_heads, i % kv_heads)->width = widths[i];
    plan->channel_count += widths[i];
  }
  plan_layout_write(plan);
  uint16_t* list = plan_channels_mutable(plan);
  for (int32_t i = 0; i < heads; ++i) {
    for (uint32_t j = 0; j < widths[i]; ++j) {
      *list++ = static_cast<uint16_t>(static_cast<uint32_t>(head_dim) - widths[i] + j);
    }
  }
  ErrorDetail detail = {};
  CHECK(plan_check(plan, plan->bytes, &detail) == Status::kOk);
  if (detail.message[0]) printf("    %s\n", detail.message);
  return plan;
}

}  // namespace leanedge::test
