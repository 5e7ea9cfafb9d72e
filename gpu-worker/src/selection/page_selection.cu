// Page selection: a few thread blocks score the pages of a pair of row and KV head; the last of
// them to finish chooses. Bounds come from the minima and scales (f16 K: minima and maxima) in the
// pages themselves, 4 bytes a kept channel: some 5 % of a page.
//
// For a channel, max(q lo, q hi) = max(q, 0) hi + min(q, 0) lo: two multiply-adds with what is made
// of q once. Sums are f32, as the reference's.
#include <cuda_fp16.h>
#include <math_constants.h>

#include "../kernels/warp_ops.cuh"
#include "selection_params.h"

namespace leanedge::cuda {
namespace {

constexpr int kWarps = kSelectionThreads / 32;
constexpr int kLanes = 4;       // that share a page
constexpr int kPagesOfLane = 4;
constexpr int kKept = 4096;  // keys that the choice keeps in shared memory; others it reads again
constexpr int kDimMax = 128;
static_assert(kWarps * 32 / kLanes * kPagesOfLane == kSelectionPagesAtOnce);

// max(q, 0) and min(q, 0) of 8 channels of every head of the group, chunk after chunk; the padding
// puts the chunks of four lanes into different banks.
template <int kGroup>
struct SelectionQuery {
  float2 at[kDimMax / 8][8 * kGroup + 2];
};

// Greater scores have greater keys; equal scores, zeros of both signs too, have equal ones.
__device__ __forceinline__ uint32_t key_of(float score) {
  const uint32_t bits = __float_as_uint(score == 0 ? 0.0f : score);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// One chunk of the bounds of the pages that a lane scores.
struct SelectionBounds {
  uint4 first[kPagesOfLane];   // scales; f16 K: minima
  uint4 second[kPagesOfLane];  // minima; f16 K: maxima
};

__device__ __forceinline__ void bounds_load(const uint8_t* const (&pages)[kPagesOfLane], int width,
                                            int chunk, SelectionBounds& bounds) {
#pragma unroll
  for (int i = 0; i < kPagesOfLane; ++i) {
    bounds.first[i] = __ldg(reinterpret_cast<const uint4*>(pages[i]) + chunk);
    bounds.second[i] = __ldg(reinterpret_cast<const uint4*>(pages[i] + 2 * width) + chunk);
  }
}

// Adds 8 channels to the sums of each page and query head.
template <int kGroup>
__device__ __forceinline__ void bounds_add(const SelectionBounds& bounds, float levels,
                                           const float2* query,
                                           float (&sums)[kPagesOfLane][kGroup]) {
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    float2 q[kGroup];
#pragma unroll
    for (int n = 0; n < kGroup; ++n) q[n] = query[j * kGroup + n];
#pragma unroll
    for (int i = 0; i < kPagesOfLane; ++i) {
      const float a = __half2float(reinterpret_cast<const __half*>(&bounds.first[i])[j]);
      const float b = __half2float(reinterpret_cast<const __half*>(&bounds.second[i])[j]);
      const float hi = levels != 0 ? fmaf(a, levels, b) : b;
      const float lo = levels != 0 ? b : a;
#pragma unroll
      for (int n = 0; n < kGroup; ++n) {
        sums[i][n] = fmaf(q[n].x, hi, fmaf(q[n].y, lo, sums[i][n]));
      }
    }
  }
}

struct SelectionShared {
  uint32_t keys[kKept];
  uint32_t counts[kSelectionThreads];
  uint32_t warps[kWarps];
  uint32_t digit;
  uint32_t wanted;
  bool last;
};

// Sum over the threads before this one, and over all of them. Ends with a barrier.
__device__ __forceinline__ uint32_t scan_before(uint32_t x, SelectionShared& shared,
                                                uint32_t* all) {
  const int lane = threadIdx.x & 31;
  uint32_t sum = x;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const uint32_t other = __shfl_up_sync(0xffffffffu, sum, step);
    if (lane >= step) sum += other;
  }
  if (lane == 31) shared.warps[threadIdx.x >> 5] = sum;
  __syncthreads();
  uint32_t before = 0;
  *all = 0;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) {
    if (warp < static_cast<int>(threadIdx.x >> 5)) before += shared.warps[warp];
    *all += shared.warps[warp];
  }
  __syncthreads();
  return before + sum - x;
}

// Lists the `wanted` pages of the greatest scores among `count`, older ones first where equal, in
// the table's order. 1 <= wanted <= count; all threads of the block.
__device__ __forceinline__ void choose(const float* scores, const uint32_t* table, int count,
                                       uint32_t wanted, uint32_t* chosen,
                                       SelectionShared& shared) {
  for (int i = threadIdx.x; i < min(count, kKept); i += kSelectionThreads) {
    shared.keys[i] = key_of(__ldcg(scores + i));
  }
  __syncthreads();
  auto key_at = [&](int i) { return i < kKept ? shared.keys[i] : key_of(__ldcg(scores + i)); };

  // Digit by digit: the key of the last page that is chosen, and how many pages of that very key
  // are.
  uint32_t prefix = 0;
#pragma unroll 1
  for (int shift = 24; shift >= 0; shift -= 8) {
    shared.counts[threadIdx.x] = 0;
    __syncthreads();
    for (int base = 0; base < count; base += kSelectionThreads) {
      const int i = base + static_cast<int>(threadIdx.x);
      const uint32_t key = i < count ? key_at(i) : 0;
      // Nothing is above the first digit.
      const bool counts = i < count && (shift == 24 || (key ^ prefix) >> (shift + 8) == 0);
      const uint32_t digit = counts ? key >> shift & 255 : 256;
      // Scores lie close together: one addition for all lanes of the same digit.
      const uint32_t same = __match_any_sync(0xffffffffu, digit);
      const int first = __ffs(static_cast<int>(same)) - 1;
      if (counts && static_cast<int>(threadIdx.x & 31) == first) {
        atomicAdd(&shared.counts[255 - digit], static_cast<uint32_t>(__popc(same)));
      }
    }
    __syncthreads();
    const uint32_t own = shared.counts[threadIdx.x];
    uint32_t all;
    const uint32_t before = scan_before(own, shared, &all);
    if (before < wanted && wanted <= before + own) {
      shared.digit = 255 - threadIdx.x;
      shared.wanted = wanted - before;
    }
    __syncthreads();
    prefix |= shared.digit << shift;
    wanted = shared.wanted;
    __syncthreads();
  }

  // Four neighbours a thread.
  uint32_t greater_before = 0;
  uint32_t equal_before = 0;
  for (int base = 0; base < count; base += 4 * kSelectionThreads) {
    const int first = base + 4 * static_cast<int>(threadIdx.x);
    uint32_t both = 0;  // greater ones, and equal ones in the upper half
    uint32_t of[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t key = first + i < count ? key_at(first + i) : 0;
      of[i] = first + i >= count ? 0 : key > prefix ? 1u : key == prefix ? 0x10000u : 0;
      both += of[i];
    }
    uint32_t all;
    const uint32_t before = scan_before(both, shared, &all);
    uint32_t greater = greater_before + (before & 0xffffu);
    uint32_t equal = equal_before + (before >> 16);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (of[i] == 1 || (of[i] != 0 && equal < wanted)) {
        chosen[greater + min(equal, wanted)] = table[first + i];
      }
      greater += of[i] & 0xffffu;
      equal += of[i] >> 16;
    }
    greater_before += all & 0xffffu;
    equal_before += all >> 16;
  }
}

template <int kGroup>
__global__ void __launch_bounds__(kSelectionThreads)
    kernel_page_selection(const __grid_constant__ SelectionParams p) {
  __shared__ SelectionQuery<kGroup> query;
  __shared__ SelectionShared shared;
  const int pair = static_cast<int>(blockIdx.y);
  const int row = pair / p.kv_heads;
  const int h = pair - row * p.kv_heads;
  const DecodeHead head = p.head[h];
  const int width = head.width;
  const uint32_t* table = p.rows[row].pages;
  const int count = p.rows[row].page_count;
  uint32_t* chosen = p.chosen + static_cast<size_t>(pair) * p.chosen_pitch;
  // What was written long before this step is read before the kernel before this one has finished:
  // lists of channels, page tables, the first bounds.
  const bool scores_pages = width > 0 && count > p.pages_floor;
  constexpr int kEntries = (kDimMax * kGroup + kSelectionThreads - 1) / kSelectionThreads;
  int channels[kEntries];
  const uint8_t* pages[kPagesOfLane];
  SelectionBounds bounds;
  const uint8_t* section =
      p.arena + head.k_values + static_cast<size_t>(width) * p.k_channel_bytes;
  const int part = static_cast<int>(threadIdx.x) % kLanes;
  const int first = static_cast<int>(threadIdx.x) / kLanes * kPagesOfLane;
  auto fetch = [&](int base) {
#pragma unroll
    for (int i = 0; i < kPagesOfLane; ++i) {
      const uint32_t number = __ldg(table + min(base + first + i, count - 1));
      pages[i] = section + static_cast<size_t>(number) * p.block_bytes;
    }
    if (part < width >> 3) bounds_load(pages, width, part, bounds);
  };
  const int begin = static_cast<int>(blockIdx.x) * kSelectionPagesAtOnce;
  if (scores_pages) {
#pragma unroll
    for (int e = 0; e < kEntries; ++e) {
      const int j = (static_cast<int>(threadIdx.x) + e * kSelectionThreads) / kGroup;
      channels[e] = j < width ? p.channels[head.channels + j] : 0;
    }
    if (begin < count - 1) fetch(begin);
  }
  // All blocks wait, also those that have nothing to do: kernels behind this one rely on it.
  wait_for_previous_kernel();
  if (width == 0 || count == 0) return;
  if (!scores_pages) {
    if (blockIdx.x != 0) return;
    for (int i = threadIdx.x; i < count; i += kSelectionThreads) chosen[i] = table[i];
    return;
  }

  const float* q = p.q + static_cast<size_t>(pair) * static_cast<size_t>(p.group * p.head_dim);
#pragma unroll
  for (int e = 0; e < kEntries; ++e) {
    const int i = static_cast<int>(threadIdx.x) + e * kSelectionThreads;
    const int n = i % kGroup;
    const int j = i / kGroup;
    if (j >= width) break;
    const float x = n < p.group ? q[n * p.head_dim + channels[e]] : 0.0f;
    query.at[j >> 3][(j & 7) * kGroup + n] = make_float2(x > 0 ? x : 0.0f, x > 0 ? 0.0f : x);
  }
  __syncthreads();

  float* scores = p.scores + static_cast<size_t>(pair) * p.pages_max;
  for (int base = begin; base < count - 1;
       base += static_cast<int>(gridDim.x) * kSelectionPagesAtOnce) {
    if (base != begin) fetch(base);
    float sums[kPagesOfLane][kGroup] = {};
    for (int chunk = part; chunk < width >> 3; chunk += kLanes) {
      bounds_add<kGroup>(bounds, p.levels, query.at[chunk], sums);
      if (chunk + kLanes < width >> 3) bounds_load(pages, width, chunk + kLanes, bounds);
    }
#pragma unroll
    for (int i = 0; i < kPagesOfLane; ++i) {
      float best = -CUDART_INF_F;
#pragma unroll
      for (int n = 0; n < kGroup; ++n) {
        float sum = sums[i][n];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        if (n < p.group) best = fmaxf(best, sum);  // NaN never wins
      }
      if (part == i && base + first + i < count - 1) scores[base + first + i] = best;
    }
  }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    shared.last = atomicAdd(p.arrivals + pair, 1u) == gridDim.x - 1;
    if (shared.last) p.arrivals[pair] = 0;  // for the next launch
  }
  __syncthreads();
  if (!shared.last) return;
  __threadfence();
  // The newest page is always read.
  const int others = p.pages_per_step - 1;
  if (threadIdx.x == 0) chosen[others] = table[count - 1];
  if (others > 0) {
    choose(scores, table, count - 1, static_cast<uint32_t>(others), chosen, shared);
  }
}

}  // namespace

SelectionKernel selection_kernel(int32_t group) {
  if (group == 1) return kernel_page_selection<1>;
  if (group == 2) return kernel_page_selection<2>;
  if (group <= 4) return kernel_page_selection<4>;
  return kernel_page_selection<8>;
}

}  // namespace leanedge::cuda
