// Decode attention of one layer: a persistent grid, one share of the cache a thread block
// (split.h), one page at a time a warp. Bytes go from global to shared memory by asynchronous
// copies, several pages ahead, and through tensor cores (page_fragments.cuh). Each warp keeps its
// own softmax and outputs; a block merges its warps, and the last block of a pair merges the
// blocks, in order.
#pragma once

#include <cuda_bf16.h>

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
  const uint32_t* table;  // the pair's pages, from this warp's first on; every kWarps-th is its
  const uint8_t* values;  // this lane's first 16 bytes of K in block 0 of the arena
  int32_t count;          // pages of this warp
  uint32_t ahead;         // lane l: entry l of the current 32
  uint32_t later;         // lane l: entry l of the next 32
  uint32_t to_v;          // bytes from K to V in a block
  int32_t k_chunks;       // 16-byte chunks of K with scales and minima
  int32_t k_swizzled;     // of them values
  uint32_t v_stage;       // bytes from K to V in shared memory
  uint32_t own;           // bytes: place of this lane's first chunk, swizzled
};

template <int kWarps>
__device__ __forceinline__ uint32_t stream_entry(const PageStream& stream, int index) {
  return index < stream.count ? __ldcg(stream.table + index * kWarps) : 0;
}

// Starts the copies of page `index` < stream.count.
template <PageStorage K, PageStorage V, int D>
__device__ __forceinline__ void stream_issue(PageStream& stream, int index, uint32_t stage,
                                             uint32_t block_bytes, int lane) {
  if ((index & 31) == 0 && index > 0) {
    stream.ahead = stream.later;
    stream.later = stream_entry<decode_warps(K, V)>(stream, index + 32 + lane);
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

// One page in shared memory, folded into the warp's state.
template <PageStorage K, PageStorage V, int D>
__device__ __forceinline__ void page_attend(const uint8_t* stage, int width, uint32_t v_stage,
                                            const PageLane& lane, const uint2* q,
                                            const float (&scale)[2],
                                            Softmax& softmax, float (&out)[D / 16][4],
                                            float (&minima)[4]) {
  float scores[2][4] = {};
  float bias[4] = {};
  page_scores<K, D / 16>(stage, width, lane, q, scores, bias);
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
  page_outputs<K, V, D>(stage + v_stage, lane, p, out, minima);
}

// The partial results of a thread block, one of each warp; their outputs lie at the start of its
// ring.
struct WarpResults {
  float reference[kDecodeWarpsMax][kDecodeGroupMax];  // -infinity: the warp read nothing
  float sum[kDecodeWarpsMax][kDecodeGroupMax];
};

// A pair of row and KV head that several blocks have a part of.
struct SharedPair {
  int index;  // row * kv_heads + KV head
  int first_owner;
  int owners;
};

// Shared memory beside the rings.
template <int D>
struct alignas(16) DecodeShared {
  __half q[kDecodeGroupMax][D + 8];  // scaled to f16 by a power of two a head
  uint2 q_pairs[D / 16][32];         // its kept channels, as page_scores() takes them
  DecodeRow row;
  WarpResults results;
  float q_scale[kDecodeGroupMax];    // takes that back, and gives scores in units of log2
  SharedPair waiting[2];             // pairs that this block will help to merge: it shares two at most
  int waiting_count;
  bool last;
};

// q as f16, each head scaled by a power of two so that its largest channel lies in [0.5, 1):
// folding a page's scale into it can then neither overflow nor, in earnest, underflow. q (group, D)
// f32.
template <int D, int kWarps>
__device__ __forceinline__ void load_query(const float* q, int group, float scale,
                                           DecodeShared<D>& shared) {
  constexpr int kLanes = 4 * kWarps;  // of a head
  constexpr int kValues = D / kLanes;
  const int n = threadIdx.x / kLanes;
  const int part = threadIdx.x % kLanes;
  float values[kValues];
  float largest = 0;
  const float4* from = reinterpret_cast<const float4*>(q + n * D + part * kValues);
#pragma unroll
  for (int i = 0; i < kValues / 4; ++i) {
    const float4 four = n < group ? __ldcg(from + i) : make_float4(0, 0, 0, 0);
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

// Asks for this block's share of the weights that the kernel to come reads.
template <int kThreads>
__device__ __forceinline__ void ask_next(const DecodeParams& p, uint32_t next_bytes) {
  constexpr uint32_t kAtOnce = 4096;
  for (uint32_t from = threadIdx.x * kAtOnce; from < next_bytes; from += kThreads * kAtOnce) {
    prefetch_l2(p.next + static_cast<size_t>(blockIdx.x) * next_bytes + from,
                min(kAtOnce, next_bytes - from));
  }
}

// Attends for one head and one row (shared.row) over units [begin, end) of the pair and leaves each
// warp's results in shared memory.
template <PageStorage K, PageStorage V, int D>
__device__ __forceinline__ void attend_units(const DecodeParams& p, int tiles, int full_rows,
                                             int kv_head, int begin, int end, uint8_t* ring,
                                             DecodeShared<D>& shared, const float* q,
                                             uint32_t next_bytes) {
  constexpr int kWarps = decode_warps(K, V);
  const int warp = threadIdx.x >> 5;
  const PageLane at = page_lane<K, V, D>(threadIdx.x & 31);
  const int lane = at.lane;
  const int r = lane >> 2;
  const int t = at.t;
  const DecodeHead head = p.head[kv_head];
  const DecodeRow& row = shared.row;

  // This warp's part: its pages, then its tiles of full rows, the newest of which the kernel before
  // this one writes.
  const int page_begin = max(begin - tiles, 0);
  const int page_end = max(end - tiles, page_begin);
  PageStream stream;
  stream.table =
      row.pages + static_cast<size_t>(kv_head) * p.table_pitch + page_begin + warp;
  stream.count = (page_end - page_begin - warp + kWarps - 1) / kWarps;
  stream.values = p.arena + head.k_values + 16 * lane;
  stream.to_v = opaque(head.v_values - head.k_values);
  stream.k_chunks = static_cast<int>(opaque(head.k_bytes >> 4));
  stream.k_swizzled = head.width * storage_bits(K) / 4;
  stream.v_stage = opaque((head.k_bytes + 127) & ~127);
  stream.own = opaque(swizzle(static_cast<uint32_t>(lane)) << 4);
  // Lists of chosen pages come from the kernel before this one.
  if (p.table_pitch != 0) wait_for_previous_kernel();
  stream.ahead = stream_entry<kWarps>(stream, lane);
  stream.later = stream_entry<kWarps>(stream, 32 + lane);
  const uint32_t ring_shared = opaque(shared_address(ring));
  const uint32_t stage_bytes = opaque(p.stage_bytes);
  // Every call commits one group, also past the end.
  auto issue_page = [&](int index, int place) {
    if (index < stream.count) {
      stream_issue<K, V, D>(stream, index, ring_shared + place * stage_bytes, p.block_bytes, lane);
    }
    copy_async_commit();
  };
  constexpr int kStages = decode_stages(K, V);
#pragma unroll
  for (int i = 0; i + 1 < kStages; ++i) issue_page(i, i);
  // Behind this block's own bytes, those of the kernel to come: memory is idle while this one merges.
  ask_next<32 * kWarps>(p, next_bytes);
  // The kept channels of this warp's steps: step, low and high pair.
  uint32_t pairs[D / 16 / kWarps][2];
  const uint16_t* channels = p.channels + head.channels;
#pragma unroll
  for (int i = 0; i < D / 16 / kWarps; ++i) {
    const int step = i * kWarps + warp;
    pairs[i][0] = pairs[i][1] = 0;
    if (16 * step < head.width) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t low = channels[16 * step + channel_of<K>(8 * half + 2 * t)];
        const uint32_t high = channels[16 * step + channel_of<K>(8 * half + 2 * t + 1)];
        pairs[i][half] = low | high << 16;
      }
    }
  }
  // What was read so far was written long before this step. From here on the results of the kernel
  // before this one count: q, the newest rows, the scratch that it shares with the last layer.
  wait_for_previous_kernel();

  // Full rows pass through the ring as pages do, in tiles.
  constexpr int kRows = decode_tile_rows(K, V);
  constexpr int kTileBytes = kRows * D * 4;
  const int row_end = min(min(end, tiles) * kDecodeTileRows, full_rows);
  const int row_first = begin * kDecodeTileRows + warp * kRows;
  auto issue_tile = [&](int first, int place) {
    if (first < row_end) {
      tile_issue<D, kRows>(row, first, row_end, p.zone_offset, kv_head,
                           ring_shared + place * kTileBytes, lane);
    }
    copy_async_commit();
  };
  auto issue_tiles = [&] {
    for (int i = 0; i + 1 < p.tile_stages; ++i) issue_tile(row_first + i * kWarps * kRows, i);
  };
  // A warp without pages asks for its rows at once.
  const bool rows_only = stream.count <= 0;
  if (rows_only && begin < tiles) issue_tiles();
  load_query<D, kWarps>(q, p.group, p.scale, shared);
  __syncthreads();

  const float scale[2] = {shared.q_scale[2 * t], shared.q_scale[2 * t + 1]};
#pragma unroll
  for (int i = 0; i < D / 16 / kWarps; ++i) {
    const __half* query = shared.q[r];
    const __half2 low = __halves2half2(query[pairs[i][0] & 0xffff], query[pairs[i][0] >> 16]);
    const __half2 high = __halves2half2(query[pairs[i][1] & 0xffff], query[pairs[i][1] >> 16]);
    shared.q_pairs[i * kWarps + warp][lane] = make_uint2(reinterpret_cast<const uint32_t&>(low),
                                                         reinterpret_cast<const uint32_t&>(high));
  }
  __syncthreads();

  Softmax softmax;
  softmax_reset(softmax);
  float out[D / 16][4] = {};
  float minima[4] = {};
  int use = 0;
  int fill = kStages - 1;
  for (int i = 0; i < stream.count; ++i) {
    issue_page(i + kStages - 1, fill);
    copy_async_wait_for<kStages - 1>();
    __syncwarp();
    page_attend<K, V, D>(ring + use * stage_bytes, head.width, stream.v_stage, at,
                         &shared.q_pairs[0][0], scale, softmax, out, minima);
    __syncwarp();
    use = use + 1 == kStages ? 0 : use + 1;
    fill = fill + 1 == kStages ? 0 : fill + 1;
  }

  // The drained ring takes tiles instead.
  if (begin < tiles) {
    if (!rows_only) {
      copy_async_wait(0);
      __syncwarp();
      issue_tiles();
    }
    use = 0;
    fill = p.tile_stages - 1;
    for (int first = row_first; first < row_end; first += kWarps * kRows) {
      issue_tile(first + (p.tile_stages - 1) * kWarps * kRows, fill);
      copy_async_wait(p.tile_stages - 1);
      __syncwarp();
      tile_attend<V, D, kRows>(ring + use * kTileBytes, row_end - first, lane, &shared.q[0][0],
                               scale, softmax, out, minima);
      __syncwarp();
      use = use + 1 == p.tile_stages ? 0 : use + 1;
      fill = fill + 1 == p.tile_stages ? 0 : fill + 1;
    }
  }
  copy_async_wait(0);
  __syncwarp();

  // The ring is drained: its start takes the outputs, (group, D) f32.
  float* results = reinterpret_cast<float*>(ring);
#pragma unroll
  for (int tile = 0; tile < D / 16; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int n = 2 * t + (i & 1);
      const int channel = output_channel<V>(tile, i >> 1, r);
      float value = out[tile][i];
      if constexpr (V != PageStorage::kF16) {
        value = fmaf(value, v_factor<V>(tile, i >> 1),
                     __shfl_sync(0xffffffffu, minima[i & 1], 4 * (tile >> 1) + t));
      }
      if (n < p.group) results[n * D + channel] = value;
    }
  }
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    float sum = softmax.sum[n];
#pragma unroll
    for (int step = 4; step < 32; step *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (lane < 4) {
      shared.results.reference[warp][2 * lane + n] = softmax.reference[n];
      shared.results.sum[warp][2 * lane + n] = sum;
    }
  }
  __syncthreads();
}

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

// Merges what blocks of a pair left, in the order of the blocks. Loads of kAtOnce blocks are in
// flight at a time: one multiprocessor reads alone what up to all of them wrote. Not inlined: it
// needs the registers that the loop over pages keeps.
template <int D, int kThreads>
__device__ __noinline__ void merge_parts(float* parts, float* part_sums, MergeRange range,
                                         int group, MergeTarget target, WarpResults& results) {
  constexpr int kAtOnce = 8;
  const bool partial = !target.out && !target.out_bf16;
  const size_t own = static_cast<size_t>(split_part(range.first, range.first_owner));
  for (int i = threadIdx.x; i < group * D / 4; i += kThreads) {
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
  return owners <= kAtOncePays ? 0 : owners <= 64 ? 8 : owners <= 384 ? 16 : 32;
}

// Whether this block is the last of `expected` to come here; all of its threads ask. What the others wrote before
// may be read then.
__device__ __forceinline__ bool last_to_arrive(uint32_t* arrivals, int expected, bool& last) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(arrivals, 1u) == static_cast<uint32_t>(expected - 1);
    if (last) *arrivals = 0;  // for the next launch
  }
  __syncthreads();
  if (last) __threadfence();
  return last;
}

// Merges the parts of a pair (row * kv_heads + KV head) that `owners` blocks share, where this block is the last to come. Not
// inlined, for the registers.
template <int D, int kThreads>
__device__ __noinline__ void merge_pair(const DecodeParams& p, float* part_sums, int pair,
                                        int first_owner, int owners, WarpResults& results,
                                        bool& last) {
  MergeRange range = {first_owner, first_owner, owners, 1};
  const int size = merge_group_size(p.merge_group, owners);
  if (size > 1 && owners > size) {
    const SplitGroup group = split_group(blockIdx.x, first_owner, owners, size);
    uint32_t* arrivals = p.group_arrivals + split_part(group.first, first_owner);
    if (!last_to_arrive(arrivals, group.count, last)) return;
    merge_parts<D, kThreads>(p.parts, part_sums, {first_owner, group.first, group.count, 1}, p.group,
                             {nullptr, nullptr}, results);
    range = {first_owner, first_owner, group.groups, size};
  }
  if (!last_to_arrive(p.arrivals + pair, range.count, last)) return;
  const size_t to = static_cast<size_t>(pair) * static_cast<size_t>(p.group) * D;
  merge_parts<D, kThreads>(
      p.parts, part_sums, range, p.group,
      {p.out_bf16 ? nullptr : p.out + to, p.out_bf16 ? p.out_bf16 + to : nullptr}, results);
}

// Says that this block's part of a pair is there. All threads call it behind their writes.
__device__ __forceinline__ void part_arrives(uint32_t* arrivals) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) atomicAdd(arrivals, 1u);
}

// Waits for all parts of a pair and merges this block's share of it, four values a warp at a time, lanes taking parts in
// turns. All blocks of the grid are resident, so that whom it waits for is at work. The same sums in the same order
// whoever comes last.
template <int D, int kThreads>
__device__ __noinline__ void merge_together(const DecodeParams& p, const float* part_sums,
                                            const SharedPair& pair) {
  constexpr int kAtOnce = 4;
  if (threadIdx.x == 0) {
    uint32_t* arrivals = p.arrivals + pair.index;
    const uint32_t expected = static_cast<uint32_t>(pair.owners);
    while (*reinterpret_cast<volatile uint32_t*>(arrivals) < expected) {
    }
    __threadfence();
    // No other shared pair begins in its first owner.
    uint32_t* left = p.group_arrivals + split_part(pair.first_owner, pair.first_owner);
    if (atomicAdd(left, 1u) == expected - 1) {
      *left = 0;  // for the next launch
      *arrivals = 0;
    }
  }
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int unit = (static_cast<int>(blockIdx.x) - pair.first_owner) * (kThreads / 32) +
                   static_cast<int>(threadIdx.x >> 5);
  for (int i = unit; i < p.group * D / 4; i += pair.owners * (kThreads / 32)) {
    const int n = i / (D / 4);
    float reference = -CUDART_INF_F;
    float sum = 0;
    float value[4] = {};
    for (int o = lane; o < pair.owners; o += 32 * kAtOnce) {
      float4 values[kAtOnce];
      float2 sums[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const size_t from = static_cast<size_t>(split_part(
            pair.first_owner + min(o + 32 * j, pair.owners - 1), pair.first_owner));
        sums[j] = __ldcg(reinterpret_cast<const float2*>(part_sums) + from * p.group + n);
        values[j] =
            __ldcg(reinterpret_cast<const float4*>(p.parts) + from * p.group * (D / 4) + i);
      }
      float next = reference;
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) next = fmaxf(next, sums[j].x);
      const float base = next == -CUDART_INF_F ? 0.0f : next;
      const float keep = exp2_fast(reference - base);
      reference = next;
      sum *= keep;
#pragma unroll
      for (int c = 0; c < 4; ++c) value[c] *= keep;
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const float weight =
            o + 32 * j < pair.owners ? exp2_fast(sums[j].x - base) : 0.0f;
        sum = fmaf(weight, sums[j].y, sum);
        value[0] = fmaf(weight, values[j].x, value[0]);
        value[1] = fmaf(weight, values[j].y, value[1]);
        value[2] = fmaf(weight, values[j].z, value[2]);
        value[3] = fmaf(weight, values[j].w, value[3]);
      }
    }
    float most = reference;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, step));
    }
    const float weight = exp2_fast(reference - (most == -CUDART_INF_F ? 0.0f : most));
    sum *= weight;
#pragma unroll
    for (int c = 0; c < 4; ++c) value[c] *= weight;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      sum += __shfl_xor_sync(0xffffffffu, sum, step);
#pragma unroll
      for (int c = 0; c < 4; ++c) value[c] += __shfl_xor_sync(0xffffffffu, value[c], step);
    }
    if (lane != 0) continue;
    const size_t to = static_cast<size_t>(pair.index) * static_cast<size_t>(p.group) * (D / 4) +
                      static_cast<size_t>(i);
    store_result(p, to, make_float4(value[0], value[1], value[2], value[3]), sum);
  }
}

// The last of `rows` rows for which `reached` holds: it holds for row 0, and up to some row. All
// lanes of a warp search together, 32 rows at a time.
template <typename Reached>
__device__ __forceinline__ int find_row(int rows, Reached reached) {
  const int lane = threadIdx.x & 31;
  int from = 0;
  for (int stride = (rows + 31) / 32;; stride = (stride + 31) / 32) {
    const int row = from + lane * stride;
    const uint32_t lanes = __ballot_sync(0xffffffffu, row < rows && reached(row));
    from += stride * (31 - __clz(static_cast<int>(lanes)));
    if (stride == 1) return from;
  }
}

// One layer for all rows of a step.
template <PageStorage K, PageStorage V, int D>
__global__ void __launch_bounds__(32 * decode_warps(K, V),
                                  kDecodeThreadsPerSm / 32 / decode_warps(K, V))
    kernel_decode_attention(const __grid_constant__ DecodeParams p) {
  constexpr int kWarps = decode_warps(K, V);
  constexpr int kThreads = 32 * kWarps;
  extern __shared__ __align__(128) uint8_t rings[];
  __shared__ DecodeShared<D> shared;
  static_assert(sizeof shared <= kDecodeSharedStatic, "the launcher leaves room for it");

  uint8_t* ring = rings + (threadIdx.x >> 5) * p.warp_bytes;
  const int rows = p.step.row_count;
  auto page_cost = [&](int h) -> int {
    const DecodeHead& head = p.head[h];
    return (head.k_bytes + head.v_bytes) >> 4;
  };
  int page_costs = 0;
  for (int h = 0; h < p.kv_heads; ++h) page_costs += page_cost(h);
  // Chunks before row `row`; the line is ordered by row, then by head.
  auto row_begin = [&](int row) -> int64_t {
    return (static_cast<int64_t>(row) * p.start_cost +
            static_cast<int64_t>(p.step.tiles_before[row]) * p.tile_cost) *
               p.kv_heads +
           static_cast<int64_t>(p.step.pages_before[row]) * page_costs;
  };
  const SplitShare split = split_share(row_begin(rows), gridDim.x, p.share_min);
  const int64_t begin = blockIdx.x * split.share;
  const int64_t end = min(begin + split.share, split.total);
  if (begin >= end) {
    ask_next<kThreads>(p, p.next_bytes);
    return;
  }

  // The pair in which the share begins.
  int row = find_row(rows, [&](int row) { return row_begin(row) <= begin; });
  int h = 0;
  int64_t pair_begin = row_begin(row);

  int row_tiles = 0;
  int row_pages = 0;
  auto load_row = [&] {
    row_tiles = p.step.tiles_before[row + 1] - p.step.tiles_before[row];
    row_pages = p.step.pages_before[row + 1] - p.step.pages_before[row];
  };
  load_row();
  uint32_t next_bytes = p.next_bytes;
  if (threadIdx.x == 0) shared.waiting_count = 0;  // seen by all behind the first pair's barriers

  while (pair_begin < end) {
    SplitPair pair;
    pair.begin = pair_begin;
    pair.tiles = row_tiles;
    pair.pages = p.head[h].width ? row_pages : 0;
    pair.tile_cost = p.tile_cost;
    pair.page_cost = page_cost(h);
    pair.start_cost = p.start_cost;
    const int64_t pair_end = pair.begin + split_cost(pair);
    const int first_owner = split_owner(split, pair.begin);
    const int owners = split_owner(split, pair_end - 1) - first_owner + 1;
    const size_t first_head =
        (static_cast<size_t>(row) * p.kv_heads + h) * static_cast<size_t>(p.group);
    const int this_row = row;
    const int this_head = h;
    pair_begin = pair_end;
    if (++h == p.kv_heads) {
      h = 0;
      if (++row < rows) load_row();
    }
    if (pair_end <= begin) continue;  // of the first row: a head before the share

    if (threadIdx.x < sizeof(DecodeRow) / 4) {
      reinterpret_cast<uint32_t*>(&shared.row)[threadIdx.x] =
          __ldg(reinterpret_cast<const uint32_t*>(p.step.rows + this_row) + threadIdx.x);
    }
    __syncthreads();
    int full_rows = 0;
    for (int s = 0; s < shared.row.span_count; ++s) full_rows += shared.row.spans[s].rows;
    attend_units<K, V, D>(p, pair.tiles, full_rows, this_head, split_units(pair, begin),
                          split_units(pair, end), ring, shared, p.q + first_head * D, next_bytes);
    next_bytes = 0;

    const int part = split_part(blockIdx.x, first_owner);
    float* part_sums = p.parts + static_cast<size_t>(2 * gridDim.x) * p.group * D;
    for (int i = threadIdx.x; i < p.group * D / 4; i += kThreads) {
      const int n = i / (D / 4);
      float reference = -CUDART_INF_F;
#pragma unroll
      for (int warp = 0; warp < kWarps; ++warp) {
        reference = fmaxf(reference, shared.results.reference[warp][n]);
      }
      const float base = reference == -CUDART_INF_F ? 0.0f : reference;
      float4 value = make_float4(0, 0, 0, 0);
      float sum = 0;
#pragma unroll
      for (int warp = 0; warp < kWarps; ++warp) {
        const float weight = exp2_fast(shared.results.reference[warp][n] - base);
        const float4 from = reinterpret_cast<const float4*>(rings + warp * p.warp_bytes)[i];
        value.x = fmaf(weight, from.x, value.x);
        value.y = fmaf(weight, from.y, value.y);
        value.z = fmaf(weight, from.z, value.z);
        value.w = fmaf(weight, from.w, value.w);
        sum = fmaf(weight, shared.results.sum[warp][n], sum);
      }
      if (owners == 1) {
        store_result(p, first_head * (D / 4) + static_cast<size_t>(i), value, sum);
      } else {
        reinterpret_cast<float4*>(p.parts)[static_cast<size_t>(part) * p.group * (D / 4) + i] =
            value;
        if (i % (D / 4) == 0) {
          float* at_sum = part_sums + (static_cast<size_t>(part) * p.group + n) * 2;
          at_sum[0] = reference;
          at_sum[1] = sum;
        }
      }
    }
    if (owners > 1) {
      const int pair_index = this_row * p.kv_heads + this_head;
      if (p.merge_together > 0 && owners >= p.merge_together) {
        // Later: this block's next pair first, which others wait for.
        part_arrives(p.arrivals + pair_index);
        if (threadIdx.x == 0) {
          shared.waiting[shared.waiting_count++] = {pair_index, first_owner, owners};
        }
        __syncthreads();
        continue;
      }
      merge_pair<D, kThreads>(p, part_sums, pair_index, first_owner, owners, shared.results,
                              shared.last);
    }
    // The results lie in the rings, which the next pair fills.
    __syncthreads();
  }
  const float* part_sums = p.parts + static_cast<size_t>(2 * gridDim.x) * p.group * D;
  for (int i = 0; i < shared.waiting_count; ++i) {
    merge_together<D, kThreads>(p, part_sums, shared.waiting[i]);
  }
}

}  // namespace leanedge::cuda
