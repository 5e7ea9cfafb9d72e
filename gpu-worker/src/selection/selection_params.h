// What the launcher of page selection shares with the kernels.
#pragma once

#include "leanedge_cuda/page_selection.h"

namespace leanedge::cuda {

inline constexpr int kSelectionThreads = 256;
inline constexpr int kSelectionPagesAtOnce = 256;  // pages that a block scores in one go
// Counters of arrivals, at the start of the scratch whatever a launch's rows and heads are.
inline constexpr size_t kSelectionCounters =
    static_cast<size_t>(kSequencesMax) * kDecodeKvHeadsMax;

// Kernel parameters.
struct SelectionParams {
  DecodeHead head[kDecodeKvHeadsMax];
  const DecodeRow* rows;
  const uint16_t* channels;
  const uint8_t* arena;
  const float* q;
  uint32_t* chosen;    // (row_count, kv_heads, chosen_pitch)
  uint32_t* arrivals;  // (row_count * kv_heads) blocks that delivered; 0 between launches
  float* scores;       // (row_count * kv_heads, pages_max)
  uint32_t block_bytes;
  uint32_t k_channel_bytes;
  int32_t kv_heads;
  int32_t group;
  int32_t head_dim;
  int32_t chosen_pitch;
  int32_t pages_max;
  int32_t pages_per_step;
  int32_t pages_floor;
  float levels;  // greatest code of K; 0: K is f16, and minimum and maximum are stored
};
static_assert(sizeof(SelectionParams) <= 4096, "kernel parameters");

using SelectionKernel = void (*)(SelectionParams);

// The kernel for groups of at most 1, 2, 4 or 8 query heads.
SelectionKernel selection_kernel(int32_t group);

}  // namespace leanedge::cuda
