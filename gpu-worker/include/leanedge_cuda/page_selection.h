// Choice of pages on a device (docs/plan-format.md, 'Page selection'): every archive page of every
// row and KV head is scored by the bound of q.k, the best are listed, and decode attention then
// reads only those. One launch before decode attention, no word to the host: it can be captured.
//
// How a step of a plan that selects is run, once a layer:
//   1. page_selection_launch() with the rows' whole page tables writes `chosen`.
//   2. decode_attention_launch() with a second DecodeStep: the same spans, DecodeRow::pages at
//      chosen + row * kv_heads * chosen_pitch, DecodeRow::page_count and pages_before counted in
//      selected_pages(), and DecodeAttention::table_pitch = chosen_pitch.
// Both steps are written by the host before the graph is replayed: how many pages a row reads
// follows from its page count alone, and is the same for all KV heads that keep an archive.
#pragma once

#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>

#include "leanedge_cuda/decode_attention.h"

namespace leanedge::cuda {

// Pages that a row with `page_count` archive pages reads per KV head: all of them up to the plan's
// floor, then pages_per_step.
inline int32_t selected_pages(const CachePlan& plan, int32_t page_count) {
  return plan.pages_per_step != 0 && page_count > plan.pages_floor ? plan.pages_per_step
                                                                   : page_count;
}

// Entries of a list of chosen pages: pages_per_step or pages_floor, whichever is more.
inline int32_t selected_pages_max(const CachePlan& plan) {
  return plan.pages_per_step > plan.pages_floor ? plan.pages_per_step : plan.pages_floor;
}

// Arguments of a launch.
struct PageSelection {
  const DecodeRow* rows;     // (row_count) in device memory: pages and page_count are read
  const uint16_t* channels;  // the plan's list of kept channels, in device memory
  const uint8_t* arena;      // this layer's blocks: number i at arena + i * block_bytes
  const float* q;            // (row_count, heads, head_dim) f32, after RoPE
  uint32_t* chosen;          // (row_count, kv_heads, chosen_pitch) numbers, in the table's order
  uint8_t* scratch;          // page_selection_scratch_bytes(); zero before its first use, then left
                             // alone. All layers of a stream share it
  int32_t chosen_pitch;      // at least selected_pages_max(plan)
  int32_t pages_max;         // most pages of a row, what the scratch was sized for
  int32_t row_count;         // 1 .. kSequencesMax; fixed in a captured graph. A row without pages
                             // (padding too) is left alone
  int32_t heads;
  int32_t overlap;           // as in DecodeAttention: rows, tables and pages must have been written
                             // before the kernel before this one began; q may come from that kernel
};

// Bytes of scratch of launches of up to `rows_max` rows of up to `pages_max` pages.
size_t page_selection_scratch_bytes(int32_t rows_max, int32_t kv_heads, int32_t pages_max);

// Launches. `layer` is the plan's layer as decode_layer() gives it. Scores are f32 sums: two pages
// whose scores differ by less than kernels.h' page_score_error_max may change places against the
// reference; equal scores go to the older page. cudaErrorInvalidValue where the plan does not
// select or a list is too short for it.
cudaError_t page_selection_launch(const DecodeLayer& layer, const PageSelection& call,
                                  cudaStream_t stream);

}  // namespace leanedge::cuda
