// Decode attention of one layer: a persistent grid, one share of the cache a thread block (split.h), one
// page at a time a warp. Bytes go from global to shared memory by asynchronous copies, several pages
// ahead, and through tensor cores (page_fragments.cuh). Each warp keeps its own softmax and outputs; a
// block merges its warps, and the last block of a pair merges the blocks, in order.
#pragma once

#include "decode_kernels.h"
#include "full_rows.cuh"
#include "leanedge_cuda/decode_attention.h"
#include "online_softmax.cuh"
#include "page_fragments.cuh"
#include "split.h"
#include "warp_ops.cuh"

namespace leanedge::cuda {

// What a warp knows of the pages that it reads.
struct PageStream {
  const uint32_t* table;  // the pair's pages, from this warp's first on; every kDecodeWarps-th is its
  int32_t count;          // pages of this warp
  uint32_t ahead;         // lane l: entry l of the current 32
  uint32_t later;         // lane l: entry l of the next 32
  const uint8_t* arena;
};

__device__ __forceinline__ uint32_t stream_entry(const PageStream& stream, int index) {
  return index < stream.count ? __ldg(stream.table + index * kDecodeWarps) : 0;
}

// Starts the copies of page `index`; every call commits one group, also past the end.
template <PageStorage K, PageStorage V, int D>
__device__ __forceinline__ void stream_issue(PageStream& stream, int index, uint8_t* stage,
                                             const DecodeHead& head, size_t block_bytes, int lane) {
  if (index < stream.count) {
    if ((index & 31) == 0 && index > 0) {
      stream.ahead = stream.later;
      stream.later = stream_entry(stream, index + 32 + lane);
    }
    const uint32_t number = __shfl_sync(0xffffffffu, stream.ahead, index & 31);
    const uint8_t* block = stream.arena + static_cast<size_t>(number) * block_bytes;
    {
      const uint8_t* from = block + head.k_values + 16 * lane;
      const uint32_t to = shared_address(stage);
      const int chunks = head.k_bytes >> 4;
      const int swizzled = head.width * (storage_bits(K) / 2) / 2;  // 16-byte chunks of the values
      const uint32_t own = swizzle(static_cast<uint32_t>(lane));
      for (int i = 0; i < chunks; i += 32) {
        const int at = i + lane;
        if (at < chunks) {
          const uint32_t place = at < swizzled ? own ^ swizzle(static_cast<uint32_t>(i))
                                               : static_cast<uint32_t>(at);
          copy_async_16(to + (place << 4), from + i * 16);
        }
      }
    }
    {
      constexpr int kValues = D * storage_bits(V) / 4;  // 16-byte chunks of 32 slots
      constexpr int kChunks = kValues + (V == PageStorage::kF16 ? 0 : D / 32 * 8);
      const uint8_t* from = block + head.v_values + 16 * lane;
      const uint32_t to = shared_address(stage + ((head.k_bytes + 127) & ~127));
      const uint32_t own = swizzle(static_cast<uint32_t>(lane));
#pragma unroll
      for (int i = 0; i < kChunks; i += 32) {
        const int at = i + lane;
        if (i + 32 <= kChunks || at < kChunks) {
          const uint32_t place = i < kValues ? own ^ swizzle(static_cast<uint32_t>(i))
                                             : static_cast<uint32_t>(at);
          copy_async_16(to + (place << 4), from + i * 16);
        }
      }
    }
  }
  copy_async_commit();
}

// One page in shared memory, folded into the warp's state.
template <PageStorage K, PageStorage V, int D>
__device__ __forceinline__ void page_attend(const uint8_t* stage, const DecodeHead& head, int lane,
                                            const uint32_t (&q)[D / 8], const float (&scale)[2],
                                            Softmax& softmax, float (&out)[D / 16][4],
                                            float (&minima)[4]) {
  float scores[2][4] = {};
  float bias[4] = {};
  page_scores<K, D / 16>(stage, head.width, lane, q, scores, bias);
  float x[4][2];  // block, query head 2t or 2t + 1
  float max[2] = {-CUDART_INF_F, -CUDART_INF_F};
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const float shift = bias[n] * scale[n];
#pragma unroll
    for (int b = 0; b < 4; ++b) {
      const float factor = scale[n] * k_factor<K>(b);
      x[b][n] = K == PageStorage::kF16 ? scores[b >> 1][2 * (b & 1) + n] * factor
                                       : fmaf(scores[b >> 1][2 * (b & 1) + n], factor, shift);
      max[n] = fmaxf(max[n], x[b][n]);
    }
  }
  softmax_move<D / 16>(softmax, max[0], max[1], out, V == PageStorage::kF16 ? nullptr : &minima);
  uint32_t p[4];
#pragma unroll
  for (int b = 0; b < 4; ++b) {
    const float p0 = exp2_fast(x[b][0] - softmax.reference[0]);
    const float p1 = exp2_fast(x[b][1] - softmax.reference[1]);
    softmax.sum[0] += p0;
    softmax.sum[1] += p1;
    p[b] = transpose_matrix(pack_half2(p0, p1));
  }
  page_outputs<K, V, D>(stage + ((head.k_bytes + 127) & ~127), lane, p, out, minima);
}

// The partial results of one thread block: a set for each warp and phase (pages, full rows).
struct SetState {
  float reference[2 * kDecodeWarps][kDecodeGroupMax];  // -infinity: the set is empty
  float sum[2 * kDecodeWarps][kDecodeGroupMax];
};

// Sums of a set over the lanes that share a query head, to where the block merges them.
__device__ __forceinline__ void set_softmax(SetState& state, int set, int group, int lane,
                                            const Softmax& softmax) {
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    float sum = softmax.sum[n];
#pragma unroll
    for (int step = 4; step < 32; step *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    const int head = 2 * lane + n;
    if (lane < 4 && head < group) {
      state.reference[set][head] = softmax.reference[n];
      state.sum[set][head] = sum;
    }
  }
}

// Attends for one head and one row over units [begin, end) of the pair and leaves each warp's sets in
// shared memory: outputs at the start of each warp's ring.
template <PageStorage K, PageStorage V, int D>
__device__ __forceinline__ void attend_units(const DecodeParams& p, const DecodeRow& row, int tiles,
                                             int full_rows, int kv_head, int begin, int end,
                                             uint8_t* ring, __half (*q_shared)[D + 8],
                                             float* q_scale, SetState& state, const float* q) {
  const int warp = threadIdx.x >> 5;
  const int lane = threadIdx.x & 31;
  const int r = lane >> 2;
  const int t = lane & 3;
  const DecodeHead head = p.head[kv_head];

  const int page_begin = max(begin - tiles, 0);
  const int page_end = max(end - tiles, page_begin);
  PageStream stream;
  stream.table = row.pages + page_begin + warp;
  stream.count = (page_end - page_begin - warp + kDecodeWarps - 1) / kDecodeWarps;
  stream.arena = p.arena;
  stream.ahead = stream_entry(stream, lane);
  stream.later = stream_entry(stream, 32 + lane);
  for (int i = 0; i + 1 < p.stages; ++i) {
    stream_issue<K, V, D>(stream, i, ring + i * p.stage_bytes, head, p.block_bytes, lane);
  }

  // q as f16, each head scaled by a power of two so that its largest channel lies in [0.5, 1):
  // folding a scale into it can then neither overflow nor, in earnest, underflow.
  {
    const int n = threadIdx.x >> 4;
    const int part = threadIdx.x & 15;
    float values[D / 16];
    float largest = 0;
#pragma unroll
    for (int i = 0; i < D / 16; ++i) {
      values[i] = n < p.group ? q[n * D + part * (D / 16) + i] : 0.0f;
      largest = fmaxf(largest, fabsf(values[i]));
    }
#pragma unroll
    for (int step = 1; step < 16; step *= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, step));
    }
    int exponent = 0;
    frexpf(largest, &exponent);
    if (!(largest > 0 && largest < CUDART_INF_F)) exponent = 0;
#pragma unroll
    for (int i = 0; i < D / 16; ++i) {
      q_shared[n][part * (D / 16) + i] = __float2half_rn(ldexpf(values[i], -exponent));
    }
    if (part == 0) q_scale[n] = ldexpf(p.scale, exponent);
  }
  __syncthreads();

  const float scale[2] = {q_scale[2 * t], q_scale[2 * t + 1]};
  uint32_t q_pairs[D / 8];
  const uint16_t* channels = p.channels + head.channels;
#pragma unroll
  for (int s = 0; s < D / 16; ++s) {
    q_pairs[2 * s] = q_pairs[2 * s + 1] = 0;
    if (16 * s < head.width) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const __half low = q_shared[r][channels[16 * s + channel_of<K>(8 * half + 2 * t)]];
        const __half high = q_shared[r][channels[16 * s + channel_of<K>(8 * half + 2 * t + 1)]];
        q_pairs[2 * s + half] = static_cast<uint32_t>(__half_as_ushort(low)) |
                                static_cast<uint32_t>(__half_as_ushort(high)) << 16;
      }
    }
  }

  Softmax softmax;
  softmax_reset(softmax);
  float out[D / 16][4] = {};
  float minima[4] = {};
  {
    int use = 0;
    int fill = p.stages - 1;
    for (int i = 0; i < stream.count; ++i) {
      stream_issue<K, V, D>(stream, i + p.stages - 1, ring + fill * p.stage_bytes, head,
                            p.block_bytes, lane);
      copy_async_wait(p.stages - 1);
      __syncwarp();
      page_attend<K, V, D>(ring + use * p.stage_bytes, head, lane, q_pairs, scale, softmax, out,
                           minima);
      __syncwarp();
      use = use + 1 == p.stages ? 0 : use + 1;
      fill = fill + 1 == p.stages ? 0 : fill + 1;
    }
    copy_async_wait(0);
    __syncwarp();
  }

  // Pages: the ring is drained, its start takes the outputs. (2 sets, group, D) f32 of this warp.
  float* sets = reinterpret_cast<float*>(ring);
  set_softmax(state, warp, p.group, lane, softmax);
#pragma unroll
  for (int tile = 0; tile < D / 16; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int n = 2 * t + (i & 1);
      const int channel = output_channel<V>(tile, i >> 1, r);
      float value = out[tile][i];
      if constexpr (V != PageStorage::kF16) {
        const int group = V == PageStorage::kF16 ? 0 : tile >> 1;
        value = fmaf(value, v_factor<V>(tile, i >> 1),
                     __shfl_sync(0xffffffffu, minima[i & 1], 4 * group + t));
      }
      if (n < p.group) sets[n * D + channel] = value;
    }
  }

  softmax_reset(softmax);
#pragma unroll
  for (int tile = 0; tile < D / 16; ++tile) {
    out[tile][0] = out[tile][1] = out[tile][2] = out[tile][3] = 0;
  }
  const int tile_end = min(end, tiles);
  if (begin + warp < tile_end) {
    for (int i = begin + warp; i < tile_end; i += kDecodeWarps) {
      full_rows_tile<D>(row, i * kDecodeTileRows, full_rows, p.zone_offset, kv_head,
                        &q_shared[0][0], lane, scale, softmax, out);
    }
#pragma unroll
    for (int tile = 0; tile < D / 16; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int n = 2 * t + (i & 1);
        if (n < p.group) {
          sets[(p.group + n) * D + full_output_channel<D>(tile, i >> 1, r)] = out[tile][i];
        }
      }
    }
  }
  set_softmax(state, kDecodeWarps + warp, p.group, lane, softmax);
  __syncthreads();
}

// One layer for all rows of a step.
template <PageStorage K, PageStorage V, int D>
__global__ void __launch_bounds__(kDecodeThreads, 4)
    kernel_decode_attention(const __grid_constant__ DecodeParams p) {
  extern __shared__ __align__(128) uint8_t shared[];
  __shared__ __align__(16) __half q_shared[kDecodeGroupMax][D + 8];
  __shared__ float q_scale[kDecodeGroupMax];
  __shared__ SetState state;
  __shared__ bool last;

  uint8_t* ring = shared + (threadIdx.x >> 5) * p.warp_bytes;
  const int rows = p.step.row_count;
  constexpr int kTileCost = kDecodeTileRows * D * 4 / 16;
  const int64_t tiles_all = p.step.tiles_before[rows];
  const int64_t pages_all = p.step.pages_before[rows];
  auto page_cost = [&](int h) -> int {
    const DecodeHead& head = p.head[h];
    return (head.k_bytes + head.v_bytes) >> 4;
  };
  int64_t page_costs = 0;
  for (int h = 0; h < p.kv_heads; ++h) page_costs += page_cost(h);
  const SplitShare split =
      split_share(tiles_all * kTileCost * p.kv_heads + pages_all * page_costs, gridDim.x);
  const int64_t begin = blockIdx.x * split.share;
  const int64_t end = min(begin + split.share, split.total);
  if (begin >= end) return;

  // The pair in which the share begins.
  int h = 0;
  int64_t head_begin = 0;
  for (;; ++h) {
    const int64_t cost = tiles_all * kTileCost + pages_all * page_cost(h);
    if (begin < head_begin + cost) break;
    head_begin += cost;
  }
  int row = 0;  // the last row that begins at or before `begin`
  for (int above = rows; above - row > 1;) {
    const int middle = (row + above) / 2;
    const int64_t at = head_begin + static_cast<int64_t>(p.step.tiles_before[middle]) * kTileCost +
                       static_cast<int64_t>(p.step.pages_before[middle]) * page_cost(h);
    if (at <= begin) {
      row = middle;
    } else {
      above = middle;
    }
  }

  for (int64_t at = begin; at < end;) {
    const int tile_from = p.step.tiles_before[row];
    const int page_from = p.step.pages_before[row];
    SplitPair pair;
    pair.begin = head_begin + static_cast<int64_t>(tile_from) * kTileCost +
                 static_cast<int64_t>(page_from) * page_cost(h);
    pair.tiles = p.step.tiles_before[row + 1] - tile_from;
    pair.pages = p.head[h].width ? p.step.pages_before[row + 1] - page_from : 0;
    pair.tile_cost = kTileCost;
    pair.page_cost = page_cost(h);
    const int64_t pair_end = pair.begin + split_cost(pair);
    const int first_owner = split_owner(split, pair.begin);
    const int owners = split_owner(split, pair_end - 1) - first_owner + 1;

    const DecodeRow& decode = p.step.rows[row];
    int full_rows = 0;
    for (int s = 0; s < decode.span_count; ++s) full_rows += decode.spans[s].rows;
    const size_t first_head =
        (static_cast<size_t>(row) * p.kv_heads + h) * static_cast<size_t>(p.group);
    attend_units<K, V, D>(p, decode, pair.tiles, full_rows, h, split_units(pair, begin),
                          split_units(pair, end), ring, q_shared, q_scale, state,
                          p.q + first_head * D);

    const int part = split_part(blockIdx.x, first_owner);
    float* part_sums = p.parts + static_cast<size_t>(2 * gridDim.x) * p.group * D;
    for (int i = threadIdx.x; i < p.group * D; i += kDecodeThreads) {
      const int n = i / D;
      float reference = -CUDART_INF_F;
#pragma unroll
      for (int set = 0; set < 2 * kDecodeWarps; ++set) {
        reference = fmaxf(reference, state.reference[set][n]);
      }
      float value = 0;
      float sum = 0;
#pragma unroll
      for (int set = 0; set < 2 * kDecodeWarps; ++set) {
        // An empty set's outputs were never written.
        if (state.reference[set][n] == -CUDART_INF_F) continue;
        const float weight = exp2_fast(state.reference[set][n] - reference);
        const int warp = set % kDecodeWarps;
        const float* from = reinterpret_cast<const float*>(shared + warp * p.warp_bytes) +
                            (set / kDecodeWarps) * p.group * D;
        value = fmaf(weight, from[i], value);
        sum = fmaf(weight, state.sum[set][n], sum);
      }
      if (owners == 1) {
        p.out[first_head * D + i] = value / sum;
      } else {
        p.parts[static_cast<size_t>(part) * p.group * D + i] = value;
        if (i % D == 0) {
          float* at_sum = part_sums + (static_cast<size_t>(part) * p.group + n) * 2;
          at_sum[0] = reference;
          at_sum[1] = sum;
        }
      }
    }
    if (owners > 1) {
      __threadfence();
      __syncthreads();
      if (threadIdx.x == 0) {
        uint32_t* arrivals = p.arrivals + static_cast<size_t>(row) * p.kv_heads + h;
        last = atomicAdd(arrivals, 1u) == static_cast<uint32_t>(owners - 1);
        if (last) *arrivals = 0;  // for the next launch
      }
      __syncthreads();
      if (last) {
        __threadfence();
        for (int i = threadIdx.x; i < p.group * D; i += kDecodeThreads) {
          const int n = i / D;
          float reference = -CUDART_INF_F;
          for (int o = 0; o < owners; ++o) {
            const size_t from = static_cast<size_t>(split_part(first_owner + o, first_owner));
            reference = fmaxf(reference, __ldcg(part_sums + (from * p.group + n) * 2));
          }
          float value = 0;
          float sum = 0;
          for (int o = 0; o < owners; ++o) {
            const size_t from = static_cast<size_t>(split_part(first_owner + o, first_owner));
            const float weight =
                exp2_fast(__ldcg(part_sums + (from * p.group + n) * 2) - reference);
            value = fmaf(weight, __ldcg(p.parts + from * p.group * D + i), value);
            sum = fmaf(weight, __ldcg(part_sums + (from * p.group + n) * 2 + 1), sum);
          }
          p.out[first_head * D + i] = value / sum;
        }
      }
    }
    // The sets lie in the ring, which the next pair fills.
    __syncthreads();

    at = pair_end;
    if (++row == rows) {
      row = 0;
      head_begin += tiles_all * kTileCost + pages_all * page_cost(h);
      ++h;
    }
  }
}

}  // namespace leanedge::cuda
