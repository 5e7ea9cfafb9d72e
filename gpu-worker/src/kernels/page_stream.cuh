// Pages of one head on their way to a warp: asynchronous copies to its ring in shared memory, several pages ahead.
#pragma once

#include "decode_kernels.h"
#include "page_fragments.cuh"
#include "warp_ops.cuh"

namespace leanedge::cuda {

// What a warp knows of the pages that it reads.
struct PageStream {
  const uint32_t* table;  // the pair's pages, from this warp's first on; every step-th is its
  const uint8_t* values;  // this lane's first 16 bytes of K in block 0 of the arena
  int32_t count;          // pages of this warp
  uint32_t ahead;         // lane l: entry l of the current 32
  uint32_t later;         // lane l: entry l of the next 32
  uint32_t to_v;          // bytes from K to V in a block
  int32_t k_chunks;       // 16-byte chunks of K with scales and minima
  int32_t k_swizzled;     // of them values
  uint32_t v_stage;       // bytes from K to V in shared memory
  uint32_t own;           // bytes: place of this lane's first chunk, swizzled
  int step;               // where it is no constant of the kernel
};

// kStep: from one page of this warp to the next in the table; 0: stream.step.
template <int kStep>
__device__ __forceinline__ uint32_t stream_entry(const PageStream& stream, int index) {
  return index < stream.count ? __ldcg(stream.table + index * (kStep ? kStep : stream.step)) : 0;
}

// Starts the copies of page `index` < stream.count.
template <PageStorage K, PageStorage V, int D, int kStep>
__device__ __forceinline__ void stream_issue(PageStream& stream, int index, uint32_t stage,
                                             uint32_t block_bytes, int lane) {
  if ((index & 31) == 0 && index > 0) {
    stream.ahead = stream.later;
    stream.later = stream_entry<kStep>(stream, index + 32 + lane);
  }
  const uint32_t number = __shfl_sync(0xffffffffu, stream.ahead, index & 31);
  const uint8_t* from = stream.values + static_cast<size_t>(number) * block_bytes;
  const uint32_t own = stream.own;
  constexpr int kChunksMax = D * storage_bits(K) / 4 + (K == PageStorage::kF16 ? 0 : D / 4);
#pragma unroll
  for (int i = 0; i < kChunksMax; i += 32) {
    if (i >= stream.k_chunks) break;
    const int at = i + lane;
    const uint32_t place = at < stream.k_swizzled
                               ? own ^ (swizzle(static_cast<uint32_t>(i)) << 4)
                               : static_cast<uint32_t>(at) << 4;
    if (at < stream.k_chunks) copy_async_16(stage + place, from + i * 16);
  }
  constexpr int kValues = D * storage_bits(V) / 4;  // 16-byte chunks of 32 slots
  constexpr int kChunks = kValues + (V == PageStorage::kF16 ? 0 : D / 32 * 8);
  const uint8_t* from_v = from + stream.to_v;
  const uint32_t stage_v = stage + stream.v_stage;
#pragma unroll
  for (int i = 0; i < kChunks; i += 32) {
    const uint32_t place = i < kValues ? own ^ (swizzle(static_cast<uint32_t>(i)) << 4)
                                       : static_cast<uint32_t>(i + lane) << 4;
    if (i + 32 <= kChunks || i + lane < kChunks) copy_async_16(stage_v + place, from_v + i * 16);
  }
}

}  // namespace leanedge::cuda
