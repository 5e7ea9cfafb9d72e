// Who reads what where a pair of row and KV head has a cluster of thread blocks of its own: units are dealt to the
// cluster's warps in turn, archive pages from the first warp on, tiles of full rows from the last one back, so that few
// warps have both. Plain C++: the tests run it on a CPU.
#pragma once

#include <stdint.h>

#include "split.h"

namespace leanedge::cuda {

inline constexpr int kClusterBlocksMax = 8;  // what every device that has clusters grants
inline constexpr int kClusterWarps = 8;      // of a block

// This warp's place among the warps of a cluster: neighbours in number are of different blocks, so that few units spread
// over all of them.
LEANEDGE_DEVICE int32_t cluster_warp(int32_t warp, int32_t block, int32_t blocks) {
  return warp * blocks + block;
}

// Units of `all` that warp `at` of `warps` gets: at, at + warps, ...
LEANEDGE_DEVICE int32_t cluster_units(int32_t all, int32_t at, int32_t warps) {
  return all > at ? (all - at + warps - 1) / warps : 0;
}

// Blocks of a cluster where `pairs` clusters shall run at once on so many multiprocessors; 0: they would not. A fifth stays
// free: a cluster's blocks must lie near each other, and not every place is.
inline int32_t cluster_size(int32_t pairs, int32_t processors) {
  int32_t blocks = kClusterBlocksMax;
  while (blocks > 0 && pairs * blocks * 5 > processors * 4) blocks /= 2;
  return blocks;
}

}  // namespace leanedge::cuda
