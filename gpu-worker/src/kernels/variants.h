// Forms of kernels that a benchmark compares in one run. LEANEDGE_CUDA_VARIANTS names values in the place of
// those here: `share_min=2048,merge_group=8`. What a run shows to be best becomes the value here.
#pragma once

#include <stdint.h>

namespace leanedge::cuda {

struct Variants {
  // Decode attention: share of a thread block at least, in chunks of 16 bytes (split.h). More: fewer parts of a pair
  // to merge, and fewer blocks that read.
  int32_t share_min = 2048;
  // Decode attention: parts of a pair that are merged by the last block of their own, before one block merges what
  // these gave; 0: one block merges all of them; 1: as many as make the fewest loads in a row, where parts are many.
  int32_t merge_group = 1;
  // Decode attention: parts of a pair from which on all blocks that gave one wait for the others and merge it together;
  // 0: never.
  int32_t merge_together = 0;
  // Decode attention in an engine, up to 8 rows: bytes of the weights behind it that are asked for into the
  // second-level cache while it waits for its own.
  int32_t prefetch_bytes = 0;
  // Products of few rows: bytes of the matrix behind it that a product asks for into the second-level cache while its
  // last weights come; `far` where attention lies between the two, and leaves memory idle.
  int32_t next_bytes = 0;
  int32_t next_far_bytes = 0;
  // Products of few rows: 1: more warps share a tile of 16 rows where blocks get more equal numbers of rows by that.
  int32_t balance = 1;
  // 1: attention may start beside the product before the rotation, and reads page tables and pages meanwhile.
  int32_t rotate_early = 1;
  // Products of few rows, FP8 and int4: 1: a block leaves room for one of the product behind it, which fills its ring
  // meanwhile. Slower: 64 registers a thread and shorter rings cost more than the overlap gives.
  int32_t beside = 0;
  // Rows of activations, 5 to 32, up to which bf16 weights meet them in our own product; 0: in cuBLASLt's.
  int32_t block_rows = 0;
};

// The values in force: read from the environment at the first call.
const Variants& variants();
// Reads them again. Not while another thread launches.
void variants_read();

}  // namespace leanedge::cuda
