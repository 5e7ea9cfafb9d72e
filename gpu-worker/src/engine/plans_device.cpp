#include "plans_device.h"

#include <string.h>

#include "page_layout.h"
#include "scratch.h"

namespace leanedge::cuda {
namespace {

PageLayer* layers_of(CachePlan* plan) { return reinterpret_cast<PageLayer*>(plan + 1); }

// Copies a block of the host's arena to the device; null if it does not fit.
const CachePlan* upload(const CachePlan* block, size_t bytes) {
  uint8_t* to = device_alloc_unwritten(&device.memory, bytes);
  if (!to) return nullptr;
  device_check(cudaMemcpyAsync(to, block, bytes, cudaMemcpyHostToDevice, device.stream));
  return reinterpret_cast<const CachePlan*>(to);
}

// A plan of layer `layer` alone, with the heap's unit as pitch.
CachePlan* layer_plan(Arena* arena, const CachePlan& plan, int32_t layer, size_t* bytes) {
  uint32_t channels = 0;
  for (int32_t h = 0; h < plan.kv_heads; ++h) channels += plan_head(plan, layer, h).width;
  *bytes = plan_bytes(1, plan.kv_heads, channels);
  CachePlan* out = reinterpret_cast<CachePlan*>(arena_alloc(arena, *bytes));
  if (!out) return nullptr;
  *out = plan;
  out->layers = 1;
  out->channel_count = channels;
  out->bytes = static_cast<uint32_t>(*bytes);
  layers_of(out)[0] = {0, kHeapAlign};
  const uint32_t first = plan_head(plan, layer, 0).channels;
  for (int32_t h = 0; h < plan.kv_heads; ++h) {
    PageHead* head = plan_head_mutable(out, 0, h);
    *head = plan_head(plan, layer, h);
    head->channels -= first;
  }
  memcpy(plan_channels_mutable(out), plan_channels(plan) + first, channels * sizeof(uint16_t));
  return out;
}

Status place_plan(Engine* engine, int32_t index) {
  const CachePlan& plan = *engine->pool.plans[index].plan;
  DevicePlan& to = device.plans[index];
  const uint64_t layers = static_cast<uint64_t>(plan.layers);
  to.layers = arena_array<DecodeLayer>(&engine->arena, layers);
  to.layer_blocks = arena_array<const CachePlan*>(&engine->arena, layers);
  CachePlan* copy = reinterpret_cast<CachePlan*>(arena_alloc(&engine->arena, plan.bytes));
  to.arenas = reinterpret_cast<uint8_t* const*>(
      device_alloc_unwritten(&device.memory, layers * sizeof(uint8_t*)));
  if (!to.layers || !to.layer_blocks || !copy || !to.arenas) return scratch_too_large(engine);
  memcpy(copy, &plan, plan.bytes);
  for (int32_t l = 0; l < plan.layers; ++l) layers_of(copy)[l].bytes = kHeapAlign;
  to.block = upload(copy, plan.bytes);
  if (!to.block) return scratch_too_large(engine);
  to.channels = reinterpret_cast<const uint16_t*>(
      reinterpret_cast<const uint8_t*>(to.block) +
      (reinterpret_cast<const uint8_t*>(plan_channels(plan)) -
       reinterpret_cast<const uint8_t*>(&plan)));
  to.head = plan;
  to.head.layers = 1;
  to.zone_layer = engine->pool.plans[index].layer_bytes / sizeof(uint16_t);
  for (int32_t l = 0; l < plan.layers; ++l) {
    const Status status =
        decode_layer(plan, l, engine->config.heads, &to.layers[l], &engine->error);
    if (status != Status::kOk) return status;
    to.layers[l].block_bytes = kHeapAlign;
    size_t bytes = 0;
    CachePlan* one = layer_plan(&engine->arena, plan, l, &bytes);
    to.layer_blocks[l] = one ? upload(one, bytes) : nullptr;
    if (!to.layer_blocks[l]) return scratch_too_large(engine);
  }
  return Status::kOk;
}

}  // namespace

Status plans_place(Engine* engine) {
  for (int32_t i = 0; i < engine->pool.plan_count; ++i) {
    const Status status = place_plan(engine, i);
    if (status != Status::kOk) return status;
  }
  return Status::kOk;
}

void plans_base(const Engine& engine, const uint8_t* base) {
  const uint8_t* arenas[kLayersMax];
  for (int32_t i = 0; i < engine.pool.plan_count; ++i) {
    const CachePlan& plan = *engine.pool.plans[i].plan;
    for (int32_t l = 0; l < plan.layers; ++l) arenas[l] = base + plan_layer(plan, l).offset;
    device_check(cudaMemcpyAsync(const_cast<uint8_t**>(device.plans[i].arenas), arenas,
                                 static_cast<size_t>(plan.layers) * sizeof(uint8_t*),
                                 cudaMemcpyHostToDevice, device.stream));
  }
}

}  // namespace leanedge::cuda
