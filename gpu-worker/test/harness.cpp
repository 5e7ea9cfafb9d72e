// A C interface over the kernels and the scalar reference for the Python checks and benchmarks of
// gpu-worker/device: handles in, status out. Not part of the engine.
#include <cuda_runtime.h>
#include <stdlib.h>
#include <string.h>

#include "leanedge/page.h"
#include "leanedge/plan.h"
#include "../src/kernels/variants.h"
#include "leanedge_cuda/decode_attention.h"
#include "leanedge_cuda/page_flush.h"

#ifdef LEANEDGE_CLOCK_MARKS
#include "../src/kernels/clock_marks.h"
unsigned long long* leanedge::cuda::decode_marks = nullptr;
#endif

using namespace leanedge;

namespace {

ErrorDetail last_error;

}  // namespace

extern "C" {

// The last error's message.
const char* harness_error() { return last_error.message; }

// A plan block, or null. widths (layers, kv_heads); channels: all lists, one after the other.
CachePlan* harness_plan(int32_t layers, int32_t kv_heads, int32_t head_dim, int32_t sink,
                        int32_t recent, int32_t k_storage, int32_t v_storage,
                        int32_t pages_per_step, int32_t pages_floor, const uint32_t* widths, const uint16_t* channels) {
  size_t count = 0;
  for (int32_t i = 0; i < layers * kv_heads; ++i) count += widths[i];
  const size_t bytes = plan_bytes(layers, kv_heads, count);
  CachePlan* plan = static_cast<CachePlan*>(calloc(1, bytes));
  if (!plan) return nullptr;
  plan->magic = kPlanMagic;
  plan->version = kPlanVersion;
  plan->layers = layers;
  plan->kv_heads = kv_heads;
  plan->head_dim = head_dim;
  plan->sink = sink;
  plan->recent = recent;
  plan->k_storage = static_cast<PageStorage>(k_storage);
  plan->v_storage = static_cast<PageStorage>(v_storage);
  plan->pages_per_step = pages_per_step;
  plan->pages_floor = pages_floor;
  plan->context_tokens_max = 1 << 20;
  plan->channel_count = static_cast<uint32_t>(count);
  for (int32_t l = 0; l < layers; ++l) {
    for (int32_t h = 0; h < kv_heads; ++h) {
      const_cast<PageHead&>(plan_head(*plan, l, h)).width = widths[l * kv_heads + h];
    }
  }
  plan_layout_write(plan);
  memcpy(const_cast<uint16_t*>(plan_channels(*plan)), channels, count * 2);
  if (plan_check(plan, bytes, &last_error) != Status::kOk) {
    free(plan);
    return nullptr;
  }
  return plan;
}

size_t harness_plan_bytes(const CachePlan* plan) { return plan->bytes; }

// A layer ready to launch, or null.
cuda::DecodeLayer* harness_decode_layer(const CachePlan* plan, int32_t layer, int32_t heads) {
  cuda::DecodeLayer* out = static_cast<cuda::DecodeLayer*>(calloc(1, sizeof *out));
  if (out && cuda::decode_layer(*plan, layer, heads, out, &last_error) != Status::kOk) {
    free(out);
    return nullptr;
  }
  return out;
}

// Blocks a multiprocessor, tiles, bytes of shared memory of a warp.
void harness_decode_shape(const cuda::DecodeLayer* layer, int32_t* out) {
  out[0] = layer->blocks_per_sm;
  out[1] = layer->tile_stages;
  out[2] = layer->warp_bytes;
}

size_t harness_decode_scratch(int32_t rows, int32_t kv_heads, int32_t head_dim) {
  return cuda::decode_scratch_bytes(rows, kv_heads, head_dim);
}

// `out` is bf16 where `bf16` says so, else f32. pages_most: of the row that reads most of them.
int32_t harness_decode(const cuda::DecodeLayer* layer, const void* rows, const void* tiles_before,
                       const void* pages_before, int32_t row_count, const void* channels,
                       const void* arena, const void* q, void* out, void* scratch,
                       size_t zone_layer, int32_t layer_index, int32_t heads,
                       int32_t table_pitch, int32_t overlap, int32_t bf16, int32_t pages_most,
                       void* stream) {
  cuda::DecodeAttention call = {};
  call.step.rows = static_cast<const cuda::DecodeRow*>(rows);
  call.step.tiles_before = static_cast<const int32_t*>(tiles_before);
  call.step.pages_before = static_cast<const int32_t*>(pages_before);
  call.step.row_count = row_count;
  call.channels = static_cast<const uint16_t*>(channels);
  call.arena = static_cast<const uint8_t*>(arena);
  call.q = static_cast<const float*>(q);
  call.out = bf16 ? nullptr : static_cast<float*>(out);
  call.out_bf16 = bf16 ? static_cast<uint16_t*>(out) : nullptr;
  call.scratch = static_cast<uint8_t*>(scratch);
  call.zone_layer = zone_layer;
  call.layer = layer_index;
  call.heads = heads;
  call.table_pitch = table_pitch;
  call.overlap = overlap;
  call.form = cuda::decode_form(*layer, row_count, pages_most);
  return cuda::decode_attention_launch(*layer, call, static_cast<cudaStream_t>(stream));
}

#ifdef LEANEDGE_CLOCK_MARKS
// Launches from now on leave their sheets of clock marks (src/kernels/clock_marks.h) in `sheets`, one behind the other; null: nowhere.
void harness_decode_marks(void* sheets) { cuda::decode_marks = static_cast<unsigned long long*>(sheets); }
#endif

// Reads LEANEDGE_CUDA_VARIANTS again (src/kernels/variants.h).
void harness_variants_read() { cuda::variants_read(); }

// Flushes jobs of all layers; see page_flush.h.
int32_t harness_flush(const CachePlan* plan, const void* device_plan, const void* jobs,
                      int32_t job_count, void* const* arenas, size_t zone_layer, void* bad,
                      void* stream) {
  cuda::PageFlush call = {};
  call.plan = static_cast<const CachePlan*>(device_plan);
  call.jobs = static_cast<const cuda::PageFlushJob*>(jobs);
  call.arenas = reinterpret_cast<uint8_t* const*>(const_cast<void**>(arenas));
  call.not_finite = static_cast<uint32_t*>(bad);
  call.zone_layer = zone_layer;
  call.job_count = job_count;
  return cuda::page_flush_launch(*plan, call, static_cast<cudaStream_t>(stream));
}

// The scalar reference: one head's block; k, v (32, head_dim) f16.
int32_t harness_pack(const CachePlan* plan, int32_t layer, int32_t head, const uint16_t* k,
                     const uint16_t* v, uint8_t* block) {
  return static_cast<int32_t>(page_pack_ref(*plan, layer, head, k, v,
                                            static_cast<size_t>(plan->head_dim), kPageSlots,
                                            nullptr, block, &last_error));
}

// The scalar reference: one head's values, k (32, width), v (32, head_dim).
int32_t harness_unpack(const CachePlan* plan, int32_t layer, int32_t head, const uint8_t* block,
                       float* k, float* v) {
  return page_unpack_ref(*plan, layer, head, block, k, v);
}

}  // extern "C"
