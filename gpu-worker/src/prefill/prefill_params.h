// What the launcher of prefill attention shares with the kernels.
#pragma once

#include "leanedge_cuda/prefill_attention.h"

namespace leanedge::cuda {

inline constexpr int kPrefillWarps = 4;
inline constexpr int kPrefillThreads = 32 * kPrefillWarps;
inline constexpr int kPrefillKeys = 64;  // keys that a step of the kernel reads
inline constexpr int kPrefillBlocksPerSm = 2;
inline constexpr int kPrefillSharedBlocks = 264;  // thread blocks of a launch that shares tiles
inline constexpr int kPrefillPartSlots = 512;     // slots of a part at least
inline constexpr int kPrefillMergeBlocks = 8;     // thread blocks that merge a tile

// Bytes of shared memory: q, and two stages of K and V tiles.
constexpr int prefill_shared_bytes(int head_dim) {
  return kPrefillTileRows * head_dim * 2 + 2 * 2 * kPrefillKeys * head_dim * 2;
}

// Kernel parameters.
struct PrefillParams {
  DecodeHead head[kDecodeKvHeadsMax];
  const PrefillRun* runs;
  const PrefillTile* tiles;
  const uint16_t* channels;
  const uint8_t* arena;
  const void* q;
  void* out;
  float* part_outs;  // (tile blocks, parts, 128, head_dim); where parts > 1
  float* part_sums;  // (tile blocks, parts, 128, 2) reference and sum
  size_t q_pitch;
  size_t out_pitch;
  size_t zone_offset;  // f16 elements from layer 0 to this layer in a span
  uint32_t block_bytes;
  uint32_t group_magic;  // floor(2^32 / group) + 1: its product's high word is packed row / group
  int32_t group;
  int32_t kv_heads;
  int32_t tile_count;
  int32_t parts;          // thread blocks that share a tile
  int32_t section_heads;  // KV heads whose tiles run together, so that K and V stay in the cache
  PageStorage k_storage;
  PageStorage v_storage;
  RowType q_type;
  RowType out_type;
  float scale;  // log2(e) / sqrt(head_dim)
};
static_assert(sizeof(PrefillParams) <= 4096, "kernel parameters");

using PrefillKernel = void (*)(PrefillParams);

// The kernel that merges the parts of a tile: blocks (tile blocks, kPrefillMergeBlocks).
PrefillKernel prefill_merge_kernel_64();
PrefillKernel prefill_merge_kernel_128();

// The kernel for a head_dim of 64 or 128, with or without archive pages.
PrefillKernel prefill_kernel_64(bool pages);
PrefillKernel prefill_kernel_128(bool pages);

}  // namespace leanedge::cuda
