// What the launcher of decode attention shares with the kernels.
#pragma once

#include "leanedge_cuda/decode_attention.h"

namespace leanedge::cuda {

inline constexpr int kDecodeSharedStatic = 4864;  // bytes a block at most beside the rings
inline constexpr int kWideSharedStatic = 6144;      // the same of a block that has a multiprocessor to itself
inline constexpr int kClusterSharedStatic = 9216;  // the same of a block of a cluster
inline constexpr int kDecodeStagesMax = 8;  // copy_async_wait() knows 7 pending groups
inline constexpr int kDecodeThreadsPerSm = 512;  // 128 registers each

// Warps of a thread block. Pages of f16 fill shared memory with few warps: blocks of two let one
// block stream while another begins or ends a pair.
constexpr int decode_warps(PageStorage k, PageStorage v) {
  return k == PageStorage::kF16 && v == PageStorage::kF16 ? 2 : 4;
}

// Warps of a block that has a multiprocessor to itself. Only pages of f16 have it: with few pairs that is 5 to 11 % faster,
// and for quantised pages, which are bound by instructions, no faster or slower (docs/cuda.md).
inline constexpr int32_t kWideWarps = 4;

// Pages in a warp's ring, the one that is computed on included: small ones need more of them in
// flight.
constexpr int decode_stages(PageStorage k, PageStorage v) {
  return storage_bits(k) + storage_bits(v) <= 6 ? 4 : 3;
}

// Full rows that a warp reads at a time: more where pages are large and warps few.
constexpr int decode_tile_rows(PageStorage k, PageStorage v) {
  return storage_bits(k) + storage_bits(v) >= 16 ? 16 : 8;
}

// Kernel parameters: the layer and the call, less what only the host needs.
struct DecodeParams {
  DecodeHead head[kDecodeKvHeadsMax];
  DecodeStep step;
  const uint16_t* channels;
  const uint8_t* arena;
  const float* q;
  float* out;
  uint16_t* out_bf16;
  float* parts;        // (2 * grid, group, head_dim) outputs, then (2 * grid, group, 2)
  uint32_t* arrivals;  // (row_count * kv_heads) blocks that delivered; 0 between launches
  uint32_t* group_arrivals;  // (2 * grid) the same of a group of blocks, at the part of its first one
  int32_t share_min;         // chunks, split.h
  int32_t merge_group;       // blocks of a group; 0: no groups; 1: as many as are best
  size_t zone_offset;  // f16 elements from layer 0 to this layer in a span
  uint32_t block_bytes;
  int32_t kv_heads;
  int32_t group;
  int32_t stage_bytes;
  int32_t warp_bytes;
  int32_t tile_stages;  // tiles of full rows in flight of a warp
  int32_t page_stages;  // pages in flight of a cluster's warp
  int32_t table_pitch;  // entries between the page tables of a row's heads; 0: they share one
  int32_t tile_cost;   // chunks, split.h
  int32_t start_cost;  // chunks, split.h
  float scale;         // log2(e) / sqrt(head_dim)
#ifdef LEANEDGE_CLOCK_MARKS
  unsigned long long* marks;  // (grid, kMarks), clock_marks.cuh; null: none
#endif
};
static_assert(sizeof(DecodeParams) <= 4096, "kernel parameters");

using DecodeKernel = void (*)(DecodeParams);

// The kernel for a V storage and a head_dim of 64 or 128, by K storage.
DecodeKernel decode_kernel_f16(PageStorage v, int32_t head_dim);
DecodeKernel decode_kernel_int8(PageStorage v, int32_t head_dim);
DecodeKernel decode_kernel_int4(PageStorage v, int32_t head_dim);
DecodeKernel decode_kernel_int2(PageStorage v, int32_t head_dim);

// Kernels of the other forms: for K and V of one storage, and this head_dim.
inline constexpr int32_t kOwnHeadDim = 128;

// The one of f16 whose blocks have a multiprocessor to themselves.
DecodeKernel decode_wide_kernel();

// The one of int2 whose products take each query head twice, for groups of at most kBothGroupMax.
DecodeKernel decode_both_kernel();
inline constexpr int32_t kBothGroupMax = 4;

// One whose pairs have clusters.
DecodeKernel decode_cluster_kernel_f16();
DecodeKernel decode_cluster_kernel_int8();
DecodeKernel decode_cluster_kernel_int4();
DecodeKernel decode_cluster_kernel_int2();

}  // namespace leanedge::cuda
