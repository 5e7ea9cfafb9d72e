// What the launcher of decode attention shares with the kernels.
#pragma once

#include "leanedge_cuda/decode_attention.h"

namespace leanedge::cuda {

inline constexpr int kDecodeWarps = 4;
inline constexpr int kDecodeThreads = 32 * kDecodeWarps;
inline constexpr int kDecodeStagesMax = 8;  // copy_async_wait() knows 7 pending groups
inline constexpr int kDecodeBlocksMax = 4;  // a multiprocessor: 128 registers a thread

// Kernel parameters: the layer and the call, less what only the host needs.
struct DecodeParams {
  DecodeHead head[kDecodeKvHeadsMax];
  DecodeStep step;
  const uint16_t* channels;
  const uint8_t* arena;
  const float* q;
  float* out;
  float* parts;        // (2 * grid, group, head_dim) outputs, then (2 * grid, group, 2) maxima, sums
  uint32_t* arrivals;  // (row_count * kv_heads) blocks that delivered their part; 0 between launches
  size_t zone_offset;  // f16 elements from layer 0 to this layer in a span
  uint32_t block_bytes;
  int32_t kv_heads;
  int32_t group;
  int32_t stage_bytes;
  int32_t stages;
  int32_t warp_bytes;
  float scale;         // log2(e) / sqrt(head_dim)
};
static_assert(sizeof(DecodeParams) <= 4096, "kernel parameters");

using DecodeKernel = void (*)(DecodeParams);

// The kernel for a V storage and a head_dim of 64 or 128, by K storage.
DecodeKernel decode_kernel_f16(PageStorage v, int32_t head_dim);
DecodeKernel decode_kernel_int8(PageStorage v, int32_t head_dim);
DecodeKernel decode_kernel_int4(PageStorage v, int32_t head_dim);
DecodeKernel decode_kernel_int2(PageStorage v, int32_t head_dim);

}  // namespace leanedge::cuda
