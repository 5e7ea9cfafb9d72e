// Forms of kernels that a benchmark compares in one run. LEANEDGE_CUDA_VARIANTS names values in the place of
// those here: `share_min=2048,merge_group=8`. What a run shows to be best becomes the value here.
#pragma once

#include <stdint.h>

namespace leanedge::cuda {

struct Variants {
  // Decode attention: share of a thread block at least, in chunks of 16 bytes (split.h). More: fewer parts of a pair
  // to merge, and fewer blocks that read.
  int32_t share_min = 2048;
  // The same where pages are f16: they are large and few. A block of them at 1 x 2,048 tokens has two or three a warp, and
  // the blocks that have a share are no more than fit beside the product before the rotation, one a multiprocessor.
  int32_t share_wide = 5120;
  // Decode attention: parts of a pair that are merged by the last block of their own, before one block merges what
  // these gave; 0: one block merges all of them; 1: as many as make the fewest loads in a row, where parts are many.
  int32_t merge_group = 1;
  // Decode attention over pages of f16: pairs of row and KV head up to which a block has a multiprocessor to itself; 0: never.
  int32_t wide_pairs = 128;
  // Decode attention: pages of a warp up to which each pair of row and KV head has a cluster of blocks of its own
  // (decode_form.h); 0: never.
  int32_t cluster_pages = 4;
  // Products of few rows: bytes of the matrix behind it that a product asks for into the second-level cache while its
  // last weights come; `far` where attention lies between the two, and leaves memory idle.
  int32_t next_bytes = 0;
  int32_t next_far_bytes = 0;
  // Products of few rows: 1: more warps share a tile of 16 rows where blocks get more equal numbers of rows by that.
  int32_t balance = 1;
  // Products of few rows of int4 weights: 1: two blocks of 8 warps a multiprocessor where their shared memory suffices.
  int32_t halves = 1;
  // 1: attention may start beside the product before the rotation, and reads page tables and pages meanwhile.
  int32_t rotate_early = 1;
};

// The values in force: read from the environment at the first call.
const Variants& variants();
// Reads them again. Not while another thread launches.
void variants_read();

}  // namespace leanedge::cuda
