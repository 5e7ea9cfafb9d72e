// Where the parts of a plan's block lie: plan.h's accessors for device code.
#pragma once

#include "leanedge/plan.h"

namespace leanedge::cuda {

__device__ __forceinline__ const PageLayer& device_plan_layer(const CachePlan& plan, int layer) {
  return reinterpret_cast<const PageLayer*>(&plan + 1)[layer];
}

__device__ __forceinline__ const PageHead* device_plan_heads(const CachePlan& plan) {
  return reinterpret_cast<const PageHead*>(reinterpret_cast<const PageLayer*>(&plan + 1) +
                                           plan.layers);
}

__device__ __forceinline__ const PageHead& device_plan_head(const CachePlan& plan, int layer,
                                                            int head) {
  return device_plan_heads(plan)[layer * plan.kv_heads + head];
}

__device__ __forceinline__ const uint16_t* device_plan_channels(const CachePlan& plan) {
  return reinterpret_cast<const uint16_t*>(device_plan_heads(plan) + plan.layers * plan.kv_heads);
}

}  // namespace leanedge::cuda
