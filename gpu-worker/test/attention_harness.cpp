// The C interface of prefill attention, page selection and the scalar reference's attention for the
// Python checks of gpu-worker/device. Not part of the engine.
#include <cuda_runtime.h>
#include <stdlib.h>

#include "leanedge/kernels.h"
#include "leanedge/page.h"
#include "leanedge_cuda/page_selection.h"
#include "leanedge_cuda/prefill_attention.h"

using namespace leanedge;

extern "C" {

// Tiles of the runs (host memory) into `out`, which may be null. Returns how many.
int32_t harness_prefill_tiles(const cuda::PrefillRun* runs, int32_t run_count, int32_t group,
                              cuda::PrefillTile* out) {
  if (out) cuda::prefill_tiles(runs, run_count, group, out);
  return cuda::prefill_tile_count(runs, run_count, group);
}

size_t harness_prefill_scratch(int32_t head_dim) { return cuda::prefill_scratch_bytes(head_dim); }

// `sizes`: q_pitch, out_pitch, zone_layer. `numbers`: q_type, out_type, tile_count, layer, heads,
// has_pages, overlap, slots_max.
int32_t harness_prefill(const cuda::DecodeLayer* layer, const void* runs, const void* tiles,
                        const void* channels, const void* arena, const void* q, void* out,
                        void* scratch, const size_t* sizes, const int32_t* numbers, void* stream) {
  cuda::PrefillAttention call = {};
  call.runs = static_cast<const cuda::PrefillRun*>(runs);
  call.tiles = static_cast<const cuda::PrefillTile*>(tiles);
  call.channels = static_cast<const uint16_t*>(channels);
  call.arena = static_cast<const uint8_t*>(arena);
  call.q = q;
  call.out = out;
  call.q_pitch = sizes[0];
  call.out_pitch = sizes[1];
  call.zone_layer = sizes[2];
  call.q_type = static_cast<cuda::RowType>(numbers[0]);
  call.out_type = static_cast<cuda::RowType>(numbers[1]);
  call.tile_count = numbers[2];
  call.layer = numbers[3];
  call.heads = numbers[4];
  call.has_pages = numbers[5];
  call.overlap = numbers[6];
  call.slots_max = numbers[7];
  call.scratch = static_cast<uint8_t*>(scratch);
  return cuda::prefill_attention_launch(*layer, call, static_cast<cudaStream_t>(stream));
}

size_t harness_selection_scratch(int32_t rows, int32_t kv_heads, int32_t pages) {
  return cuda::page_selection_scratch_bytes(rows, kv_heads, pages);
}

int32_t harness_selection(const cuda::DecodeLayer* layer, const void* rows, const void* channels,
                          const void* arena, const void* q, void* chosen, void* scratch,
                          int32_t chosen_pitch, int32_t pages_max, int32_t row_count,
                          int32_t heads, int32_t overlap, void* stream) {
  cuda::PageSelection call = {};
  call.rows = static_cast<const cuda::DecodeRow*>(rows);
  call.channels = static_cast<const uint16_t*>(channels);
  call.arena = static_cast<const uint8_t*>(arena);
  call.q = static_cast<const float*>(q);
  call.chosen = static_cast<uint32_t*>(chosen);
  call.scratch = static_cast<uint8_t*>(scratch);
  call.chosen_pitch = chosen_pitch;
  call.pages_max = pages_max;
  call.row_count = row_count;
  call.heads = heads;
  call.overlap = overlap;
  return cuda::page_selection_launch(*layer, call, static_cast<cudaStream_t>(stream));
}

// The scalar reference's attention for one task in host memory: query rows at positions
// `first_position` on. spans (span_count). Returns 0, or 1 where memory is short.
int32_t harness_reference(const CachePlan* plan, int32_t layer, int32_t heads, const float* q,
                          float* out, int32_t rows, int32_t first_position,
                          const uint8_t* const* pages, int32_t page_count,
                          const kernels::FullSpan* spans, int32_t span_count, int32_t selects) {
  const kernels::AttentionShape shape = {&plan, layer, heads, plan->kv_heads, plan->head_dim};
  kernels::AttentionTask task = {};
  task.q = q;
  task.out = out;
  task.pages = pages;
  for (int32_t i = 0; i < span_count; ++i) task.spans[i] = spans[i];
  task.page_count = page_count;
  task.span_count = span_count;
  task.rows = rows;
  task.first_position = first_position;
  task.selects = selects;
  uint8_t* scratch = static_cast<uint8_t*>(
      malloc(kernels::attention_scratch_bytes(rows, heads, plan->head_dim, page_count)));
  if (!scratch) return 1;
  kernels::attention(nullptr, shape, &task, 1, scratch);
  free(scratch);
  return 0;
}

// The scores that the reference chooses by: (page_count) f32 of one KV head and one query row.
void harness_page_scores(const CachePlan* plan, int32_t layer, int32_t head, int32_t group,
                         const float* q, const uint8_t* const* pages, int32_t page_count,
                         float* scores) {
  const PageHead& layout = plan_head(*plan, layer, head);
  const uint16_t* channels = plan_channels(*plan) + layout.channels;
  float lo[kHeadDimMax];
  float hi[kHeadDimMax];
  for (int32_t page = 0; page < page_count; ++page) {
    page_bounds_ref(*plan, layer, head, pages[page], lo, hi);
    scores[page] = -1e30f;
    for (int32_t n = 0; n < group; ++n) {
      float sums[4] = {0, 0, 0, 0};
      for (uint32_t j = 0; j < layout.width; ++j) {
        const float x = q[n * plan->head_dim + channels[j]];
        const float at_lo = x * lo[j];
        const float at_hi = x * hi[j];
        sums[j & 3] += at_lo > at_hi ? at_lo : at_hi;
      }
      const float sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
      if (sum > scores[page]) scores[page] = sum;
    }
  }
}

}  // extern "C"
