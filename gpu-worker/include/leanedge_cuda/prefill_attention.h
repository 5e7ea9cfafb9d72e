// Attention of prompt rows on a device: query rows of one or several sequences of one layer, each
// over the dense rows of its own segment (causal) and over everything before the segment through
// the zones as they stood at its start: full rows (sink, recent) and archive pages.
//
// Rows of *generated* segments that are replayed in a batch do not come here: each has its own
// zone border. Give every one of them a DecodeRow of its own (its spans and page count at its
// position) and call decode_attention_launch(), up to kSequencesMax rows a call. The same goes for
// the single row of a decode step.
//
// What a prompt needs over all layers is the same but for the layer: runs and tiles are written and
// uploaded once a row block, and serve every layer.
#pragma once

#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>

#include "leanedge_cuda/decode_attention.h"

namespace leanedge::cuda {

// Packed rows of a tile: a tile is kPrefillTileRows consecutive pairs (query row, query head of the
// group), heads fastest, of one run and one KV head.
inline constexpr int32_t kPrefillTileRows = 128;
// Query rows of one run at most, so that packed rows fit 32 bits with room.
inline constexpr int32_t kPrefillRowsMax = 1 << 20;

// How activations are stored.
enum class RowType : int32_t { kF32 = 0, kF16 = 1, kBf16 = 2 };

// Consecutive query rows of one segment of one sequence. Lies in device memory; the host keeps a
// copy for prefill_tiles(). Query row i sees dense rows 0 .. first + i, all full rows of `before`
// and all pages.
struct PrefillRun {
  DecodeSpan before[kDecodeSpansMax];  // (span_count) full rows before the segment, layer 0 (others
                                       // at the pitch zone_layer); none of them empty
  const uint32_t* pages;  // (page_count) block numbers, the same in every layer's arena
  // Dense rows of the segment, at least the first `first + rows`; scratch that all layers share.
  const uint16_t* k;      // (kv_heads, stride, head_dim) f16, after RoPE
  const uint16_t* v;      // (kv_heads, stride, head_dim) f16
  int32_t page_count;  // archive pages before the segment
  int32_t span_count;  // 0 .. kDecodeSpansMax
  int32_t stride;      // dense rows between heads
  int32_t first;       // dense row of the run's first query row
  int32_t q_first;     // its row of PrefillAttention::q and out
  int32_t rows;        // query rows: 1 .. kPrefillRowsMax
};

// One unit of work. Lies in device memory.
struct PrefillTile {
  int32_t run;
  int32_t row;    // first packed row: a multiple of kPrefillTileRows
  int32_t units;  // runs of 32 slots that it reads: what the list is ordered by
  int32_t reserved;
};

// Tiles of all runs: what `out` of prefill_tiles() must hold.
int32_t prefill_tile_count(const PrefillRun* runs, int32_t run_count, int32_t group);

// Lists the tiles of all runs, those with most to read first. `group` is query heads a KV head. On
// the host; upload the list with the runs.
//   out  (prefill_tile_count(...))
void prefill_tiles(const PrefillRun* runs, int32_t run_count, int32_t group, PrefillTile* out);

// Arguments of a launch.
struct PrefillAttention {
  const PrefillRun* runs;    // in device memory
  const PrefillTile* tiles;  // (tile_count) in device memory
  // The plan's list of kept channels, in device memory, and this layer's blocks: number i at
  // arena + i * block_bytes. Neither is read where no run has pages.
  const uint16_t* channels;
  const uint8_t* arena;
  const void* q;   // (rows, heads, head_dim) q_type, after RoPE; row r at q + r * q_pitch elements.
                   // Used as f16: |q| < 65,504. 16-byte aligned, q_pitch a multiple of 8
  void* out;       // (rows, heads, head_dim) out_type; row r at out + r * out_pitch; aligned as q
  size_t q_pitch;  // elements from one row to the next: heads * head_dim, or more
  size_t out_pitch;
  size_t zone_layer;  // f16 elements from one layer of a `before` span to the next
  // prefill_scratch_bytes(), or null. With it, a launch of few tiles that see many slots (a short
  // turn behind a long history) shares each tile among several thread blocks.
  uint8_t* scratch;
  RowType q_type;
  RowType out_type;
  int32_t tile_count;
  int32_t layer;
  int32_t heads;
  int32_t has_pages;  // 0: no run has pages (a faster kernel); else 1
  int32_t slots_max;  // most slots that a query row of the call sees; not read without scratch
  // 1: the kernel may start while the one before it in the stream still runs; it touches nothing
  // until that one has finished. 0: plain stream order.
  int32_t overlap;
};

// Scratch that all launches of a stream share. It need not be cleared.
size_t prefill_scratch_bytes(int32_t head_dim);

// Launches. `layer` is the plan's layer as decode_layer() gives it, which also says what is not
// served (evicting plans, head sizes other than 64 and 128, groups above 8). The same arguments
// over the same cache give the same bits. cudaErrorInvalidValue, with nothing launched, where a
// field is outside of its range. Error of an output row of a head as in decode attention:
// docs/cuda.md.
cudaError_t prefill_attention_launch(const DecodeLayer& layer, const PrefillAttention& call,
                                     cudaStream_t stream);

}  // namespace leanedge::cuda
