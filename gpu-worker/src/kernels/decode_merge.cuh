// Parts of a pair of row and KV head that several thread blocks have computed, merged through device memory in the
// order of the blocks.
#pragma once

#include <cuda_bf16.h>
#include <math_constants.h>

#include "decode_shared.cuh"
#include "split.h"

namespace leanedge::cuda {

// A value as bf16, rounded to nearest even.
__device__ __forceinline__ uint16_t bf16_bits(float value) {
  return __bfloat16_as_ushort(__float2bfloat16_rn(value));
}

// Writes four values of a head's output, (row_count, heads, head_dim / 4): sums of weighted values over the weights' sum.
__device__ __forceinline__ void store_result(const DecodeParams& p, size_t to, float4 value,
                                             float sum) {
  const float4 result = make_float4(value.x / sum, value.y / sum, value.z / sum, value.w / sum);
  if (p.out_bf16) {
    reinterpret_cast<ushort4*>(p.out_bf16)[to] = make_ushort4(
        bf16_bits(result.x), bf16_bits(result.y), bf16_bits(result.z), bf16_bits(result.w));
  } else {
    reinterpret_cast<float4*>(p.out)[to] = result;
  }
}

// Parts that are merged: those of blocks first, first + step ..., of a pair that begins in first_owner.
struct MergeRange {
  int first_owner;
  int first;
  int count;
  int step;
};

// Where a merge leaves its results: in `out` or `out_bf16`, or, where both are null, as a part in the place of
// the range's first one.
struct MergeTarget {
  float* out;
  uint16_t* out_bf16;
};

// Parts whose loads are in flight at a time.
inline constexpr int kMergeAtOnce = 9;

// Merges what blocks of a pair left, in the order of the blocks. Loads of kMergeAtOnce blocks are in
// flight at a time: one multiprocessor reads alone what up to all of them wrote. Not inlined: it
// needs the registers that the loop over pages keeps.
template <int D, int kWarps>
__device__ __noinline__ void merge_parts(float* parts, float* part_sums, MergeRange range,
                                         int group, MergeTarget target,
                                         WarpResults<kWarps>& results) {
  constexpr int kAtOnce = kMergeAtOnce;
  const bool partial = !target.out && !target.out_bf16;
  const size_t own = static_cast<size_t>(split_part(range.first, range.first_owner));
  for (int i = threadIdx.x; i < group * D / 4; i += 32 * kWarps) {
    const int n = i / (D / 4);
    float reference = -CUDART_INF_F;
    float sum = 0;
    float4 value = make_float4(0, 0, 0, 0);
    for (int o = 0; o < range.count; o += kAtOnce) {
      float4 values[kAtOnce];
      float2 sums[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const size_t from = static_cast<size_t>(split_part(
            range.first + min(o + j, range.count - 1) * range.step, range.first_owner));
        sums[j] = __ldcg(reinterpret_cast<const float2*>(part_sums) + from * group + n);
        values[j] = __ldcg(reinterpret_cast<const float4*>(parts) + from * group * (D / 4) + i);
      }
      float next = reference;
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) next = fmaxf(next, sums[j].x);
      // All empty so far: any finite reference will do.
      const float base = next == -CUDART_INF_F ? 0.0f : next;
      const float keep = exp2_fast(reference - base);
      reference = next;
      sum *= keep;
      value.x *= keep;
      value.y *= keep;
      value.z *= keep;
      value.w *= keep;
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const float weight = o + j < range.count ? exp2_fast(sums[j].x - base) : 0.0f;
        sum = fmaf(weight, sums[j].y, sum);
        value.x = fmaf(weight, values[j].x, value.x);
        value.y = fmaf(weight, values[j].y, value.y);
        value.z = fmaf(weight, values[j].z, value.z);
        value.w = fmaf(weight, values[j].w, value.w);
      }
    }
    if (partial) {
      // Nobody else reads these values; the sums are read by the threads of the whole head.
      reinterpret_cast<float4*>(parts)[own * group * (D / 4) + i] = value;
      if (i % (D / 4) == 0) {
        results.reference[0][n] = reference;
        results.sum[0][n] = sum;
      }
      continue;
    }
    const float4 result =
        make_float4(value.x / sum, value.y / sum, value.z / sum, value.w / sum);
    if (target.out_bf16) {
      reinterpret_cast<ushort4*>(target.out_bf16)[i] = make_ushort4(
          bf16_bits(result.x), bf16_bits(result.y), bf16_bits(result.z), bf16_bits(result.w));
    } else {
      reinterpret_cast<float4*>(target.out)[i] = result;
    }
  }
  if (!partial) return;
  __syncthreads();
  if (threadIdx.x < static_cast<unsigned>(group)) {
    float* at_sum = part_sums + (own * group + threadIdx.x) * 2;
    at_sum[0] = results.reference[0][threadIdx.x];
    at_sum[1] = results.sum[0][threadIdx.x];
  }
}

// Blocks of a group, for a pair of so many owners: `wanted`, or, where that is 1, what leaves the fewest loads in a row;
// 0: no groups.
__device__ __forceinline__ int merge_group_size(int wanted, int owners) {
  if (wanted != 1) return wanted;
  // To come together once more takes longer than to merge so many parts at once.
  constexpr int kAtOncePays = 48;
  constexpr int kSquare = kMergeAtOnce * kMergeAtOnce;
  return owners <= kAtOncePays ? 0 : (owners <= kSquare ? 1 : owners <= 2 * kSquare ? 2 : 3) * kMergeAtOnce;
}

// Whether this block is the last of `expected` to come here; all of its threads ask. What the others wrote before
// may be read then.
__device__ __forceinline__ bool last_to_arrive(uint32_t* arrivals, int expected, bool& last) {
  __syncthreads();
  if (threadIdx.x == 0) {
    last = count_arrival(arrivals) == static_cast<uint32_t>(expected - 1);
    if (last) *arrivals = 0;  // for the next launch
  }
  __syncthreads();
  return last;
}

// Merges the parts of a pair (row * kv_heads + KV head) that `owners` blocks share, where this block is the last to come. Not
// inlined, for the registers.
template <int D, int kWarps>
__device__ __noinline__ void merge_pair(const DecodeParams& p, float* part_sums, int pair,
                                        int first_owner, int owners, WarpResults<kWarps>& results,
                                        bool& last) {
  MergeRange range = {first_owner, first_owner, owners, 1};
  const int size = merge_group_size(p.merge_group, owners);
  if (size > 1 && owners > size) {
    const SplitGroup group = split_group(blockIdx.x, first_owner, owners, size);
    uint32_t* arrivals = p.group_arrivals + split_part(group.first, first_owner);
    if (!last_to_arrive(arrivals, group.count, last)) return;
    merge_parts<D, kWarps>(p.parts, part_sums, {first_owner, group.first, group.count, 1}, p.group,
                             {nullptr, nullptr}, results);
    range = {first_owner, first_owner, group.groups, size};
  }
  if (!last_to_arrive(p.arrivals + pair, range.count, last)) return;
  const size_t to = static_cast<size_t>(pair) * static_cast<size_t>(p.group) * D;
  merge_parts<D, kWarps>(
      p.parts, part_sums, range, p.group,
      {p.out_bf16 ? nullptr : p.out + to, p.out_bf16 ? p.out_bf16 + to : nullptr}, results);
}

}  // namespace leanedge::cuda
