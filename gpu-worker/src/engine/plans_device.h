// Cache plans on the device.
#pragma once

#include "device.h"

namespace leanedge::cuda {

// Copies all plans of the engine to the device and plans their layers. kUnimplemented where the kernels
// do not serve one, kOutOfMemory.
Status plans_place(Engine* engine);
// Enters where the cache begins: what kernels count blocks from.
void plans_base(const Engine& engine, const uint8_t* base);
// The arena of one layer: where a page whose block is number 0 would have it.
inline const uint8_t* plan_arena(const Engine& engine, int32_t plan, int32_t layer) {
  return engine.pool.heap.base + plan_layer(*engine.pool.plans[plan].plan, layer).offset;
}

}  // namespace leanedge::cuda
