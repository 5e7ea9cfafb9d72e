// One plan of each kind, and of what they make together, for a model of 2 layers, KV heads of 32.
#pragma once

#include <stdlib.h>

#include "leanedge/engine.h"
#include "tiny_plan.h"

namespace leanedge::test {

inline constexpr int32_t kMatrixPlans = 7;  // with the identity plan as many as an engine takes

struct PlanMatrix {
  CachePlan* plans[kMatrixPlans];
  const char* names[kMatrixPlans];

  // sink and recent of all plans.
  PlanMatrix(int32_t kv_heads, int32_t sink, int32_t recent) {
    constexpr PageStorage f16 = PageStorage::kF16;
    constexpr PageStorage int8 = PageStorage::kInt8;
    constexpr PageStorage int4 = PageStorage::kInt4;
    constexpr PageStorage int2 = PageStorage::kInt2;
    const uint32_t lean[4] = {16, 32, 0, 16};
    const uint32_t full[4] = {32, 32, 32, 32};
    const uint32_t duo[4] = {32, 0, 0, 32};
    const auto set = [&](int32_t i, const char* name, const uint32_t* widths, PageStorage k,
                         PageStorage v, const TinySelection& selection) {
      plans[i] = tiny_plan(2, kv_heads, 32, sink, recent, widths, k, v, selection);
      names[i] = name;
    };
    set(0, "LeanK", lean, f16, f16, {});
    set(1, "KIVI", full, int4, int2, {});
    set(2, "LeanK and KIVI", lean, int2, int4, {});
    set(3, "Quest", full, f16, f16, {2, 2});
    set(4, "LeanK, KIVI and Quest", lean, int4, int8, {1, 2});
    set(5, "DuoAttention", duo, f16, f16, {});
    set(6, "DuoAttention, KIVI and Quest", duo, int8, int4, {2, 3});
  }
  ~PlanMatrix() {
    for (CachePlan* plan : plans) free(plan);
  }
  PlanMatrix(const PlanMatrix&) = delete;
  PlanMatrix& operator=(const PlanMatrix&) = delete;
};

}  // namespace leanedge::test
