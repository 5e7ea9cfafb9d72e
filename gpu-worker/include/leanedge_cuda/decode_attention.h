// Decode attention on a device: one query row a sequence, over sink, archive and recent, in one
// launch a layer. What the graph hands over, and what stays fixed while a CUDA graph replays.
//
// All that changes from step to step lies in device memory (DecodeStep) and is the same for every
// layer, so that a captured step needs no new argument: the layers of a sequence's zones lie at a
// fixed pitch, and one page table names its pages in every layer's arena.
//
// Rows of one launch share a plan. A replayed segment is decoded row by row: each of its rows is a
// DecodeRow with its own zone border.
#pragma once

#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>

#include "leanedge/plan.h"

namespace leanedge::cuda {

inline constexpr int32_t kDecodeSpansMax = 4;     // sink, two parts of a ring, the row itself
inline constexpr int32_t kDecodeKvHeadsMax = 64;  // heads travel as kernel parameters (4 KiB)
inline constexpr int32_t kDecodeGroupMax = 8;     // query heads a KV head: columns of one mma
inline constexpr int32_t kDecodeTileRows = 8;     // full rows of one unit of work

// A run of full rows, layer 0: row i of KV head h at (h * stride + i) * head_dim.
struct DecodeSpan {
  const uint16_t* k;  // (kv_heads, stride, head_dim) f16, after RoPE; 16-byte aligned
  const uint16_t* v;  // (kv_heads, stride, head_dim) f16; 16-byte aligned
  int32_t stride;     // rows between heads
  int32_t rows;
};

// One sequence as this step sees it. Full rows in all: at least 1 (its own).
struct DecodeRow {
  DecodeSpan spans[kDecodeSpansMax];  // (span_count); none of them empty
  const uint32_t* pages;              // (page_count) block numbers, the same in every layer's arena
  int32_t page_count;
  int32_t span_count;
};

// One step. All arrays in device memory.
struct DecodeStep {
  const DecodeRow* rows;         // (row_count)
  const int32_t* tiles_before;   // (row_count + 1) tiles of full rows of earlier rows
  const int32_t* pages_before;   // (row_count + 1) pages of earlier rows
  int32_t row_count;             // 1 .. kSequencesMax; fixed in a captured graph
};

// What the kernel must know of one KV head: offsets in a layer's block, sizes in bytes.
struct DecodeHead {
  uint32_t k_values;
  uint32_t v_values;
  uint16_t k_bytes;   // values, and where K is quantised scales and minima, which follow at once
  uint16_t v_bytes;
  uint16_t width;     // 0: no archive
  uint16_t reserved;
  uint32_t channels;  // index into DecodeLayer::channels
};

// How a launch shares out its work.
enum class DecodeForm : int32_t {
  kShares,    // equal shares of all bytes, one a thread block (split.h)
  kWide,      // the same, a thread block a multiprocessor: few pairs, long zones
  kClusters,  // a cluster of thread blocks for each pair of row and KV head (cluster_split.h): few rows, short zones
};
inline constexpr int32_t kDecodeForms = 3;

// One layer of one plan on one device: computed once, when the plan is loaded.
struct DecodeLayer {
  DecodeHead head[kDecodeKvHeadsMax];  // (kv_heads)
  PageStorage k_storage;
  PageStorage v_storage;
  int32_t kv_heads;
  int32_t head_dim;       // 64 or 128
  int32_t stage_bytes;    // room for the page of the widest head, in shared memory
  int32_t tile_stages;    // tiles of full rows in a warp's ring
  int32_t warp_bytes;     // shared memory of a warp
  int32_t blocks_per_sm;
  int32_t warps;          // of a thread block
  int32_t grid;           // thread blocks of a launch
  int32_t processors;     // of the device
  int32_t wide_warp_bytes;     // shared memory of a wide block's warp; 0: such blocks do not serve this layer
  int32_t wide_tile_stages;
  int32_t cluster_stages;      // pages in the ring of a cluster's warp; 0: clusters do not serve this layer
  int32_t cluster_warp_bytes;  // shared memory of such a warp
  uint32_t block_bytes;   // pitch of the layer's arena
  int32_t pages_per_step;  // of the plan; 0: no page selection
  int32_t pages_floor;
};

// Arguments of a launch.
struct DecodeAttention {
  DecodeStep step;
  const uint16_t* channels;  // the plan's list of kept channels, in device memory
  const uint8_t* arena;      // this layer's blocks: number i at arena + i * block_bytes
  const float* q;            // (row_count, heads, head_dim) f32, after RoPE; 16-byte aligned, as are the outputs
  float* out;                // (row_count, heads, head_dim) f32; not written where out_bf16 is given
  uint16_t* out_bf16;        // the same as bf16, as matrix products take it; null: f32
  uint8_t* scratch;          // decode_scratch_bytes(); zero before its first use, then left alone
  size_t zone_layer;         // f16 elements from one layer of a span to the next
  DecodeForm form;  // of decode_form(); kShares serves everything
  int32_t layer;
  int32_t heads;
  // 0: the KV heads of a row share DecodeRow::pages. Else each has its own list, that of KV head h at
  // pages + h * table_pitch, written by the kernel before this one (page_selection.h).
  int32_t table_pitch;
  // 1: the kernel may begin to read its page tables and pages while the kernel before it in the
  // stream still runs (sm_90, programmatic dependent launch). They and the step's arrays must then
  // have been written before that kernel began. 0: it starts when that kernel has finished.
  int32_t overlap;
};

// Plans layer `layer` for the current device. kUnimplemented with a message in `detail` where the
// kernels do not reach: evicting plans, other head sizes, more heads than the limits above.
Status decode_layer(const CachePlan& plan, int32_t layer, int32_t heads, DecodeLayer* out,
                    ErrorDetail* detail);

// The form for launches of `rows` rows, the longest of which has `pages` pages. A captured launch serves sequences that
// grow, in either form.
DecodeForm decode_form(const DecodeLayer& layer, int32_t rows, int32_t pages);

// Scratch that launches of up to `rows_max` rows share, one stream at a time.
size_t decode_scratch_bytes(int32_t rows_max, int32_t kv_heads, int32_t head_dim);

// Launches. The same arguments over the same cache give the same bits every time: which thread
// block reads what follows from the step's sizes only, and partial results are merged in order.
cudaError_t decode_attention_launch(const DecodeLayer& layer, const DecodeAttention& call,
                                    cudaStream_t stream);

}  // namespace leanedge::cuda
