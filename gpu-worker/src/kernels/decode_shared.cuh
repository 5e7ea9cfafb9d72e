// Shared memory of a thread block of decode attention beside its rings, and how the query comes there.
#pragma once

#include <math_constants.h>

#include "decode_kernels.h"
#include "warp_ops.cuh"

namespace leanedge::cuda {

// The partial results of a thread block, one of each warp; their outputs lie at the start of its
// ring.
template <int kWarps>
struct WarpResults {
  float reference[kWarps][kDecodeGroupMax];  // -infinity: the warp read nothing
  float sum[kWarps][kDecodeGroupMax];
};

// Shared memory beside the rings.
template <int D, int kWarps>
struct alignas(16) DecodeShared {
  __half q[kDecodeGroupMax][D + 8];  // scaled to f16 by a power of two a head
  uint2 q_pairs[D / 16][32];         // its kept channels, as page_scores() takes them
  DecodeRow row;
  WarpResults<kWarps> results;
  float q_scale[kDecodeGroupMax];    // takes that back, and gives scores in units of log2
  bool last;
};

// q as f16, each head scaled by a power of two so that its largest channel lies in [0.5, 1):
// folding a page's scale into it can then neither overflow nor, in earnest, underflow. q (group, D)
// f32. kBoth: group is at most 4, and heads 4 to 7 are heads 0 to 3 once more.
template <int D, int kWarps, bool kBoth = false>
__device__ __forceinline__ void load_query(const float* q, int group, float scale,
                                           DecodeShared<D, kWarps>& shared) {
  constexpr int kLanes = kWarps < 8 ? 4 * kWarps : 32;  // of a head
  constexpr int kValues = D / kLanes;
  const int n = threadIdx.x / kLanes;
  const int head = kBoth ? n & 3 : n;
  const int part = threadIdx.x % kLanes;
  if (n >= kDecodeGroupMax) return;  // whole warps
  float values[kValues];
  float largest = 0;
  const float4* from = reinterpret_cast<const float4*>(q + head * D + part * kValues);
#pragma unroll
  for (int i = 0; i < kValues / 4; ++i) {
    const float4 four = head < group ? __ldcg(from + i) : make_float4(0, 0, 0, 0);
    values[4 * i] = four.x;
    values[4 * i + 1] = four.y;
    values[4 * i + 2] = four.z;
    values[4 * i + 3] = four.w;
  }
#pragma unroll
  for (int i = 0; i < kValues; ++i) largest = fmaxf(largest, fabsf(values[i]));
#pragma unroll
  for (int step = 1; step < kLanes; step *= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, step));
  }
  // largest = m 2^exponent with m in [0.5, 1); below 2^-126, m is smaller. In two factors, as one of 2^-128 is none.
  int exponent = static_cast<int>(__float_as_uint(largest) >> 23 & 0xffu) - 126;
  if (!(largest > 0 && largest < CUDART_INF_F)) exponent = 0;
  const int half = exponent / 2;
  const float first = __int_as_float((127 - half) << 23);
  const float second = __int_as_float((127 - exponent + half) << 23);
#pragma unroll
  for (int i = 0; i < kValues; i += 2) {
    *reinterpret_cast<uint32_t*>(&shared.q[n][part * kValues + i]) =
        pack_half2(values[i] * first * second, values[i + 1] * first * second);
  }
  if (part == 0) shared.q_scale[n] = ldexpf(scale, exponent);
}

}  // namespace leanedge::cuda
