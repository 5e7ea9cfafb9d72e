// Prefill attention of one layer: a thread block has one tile of 128 packed query rows (row of the
// run, then query head of the group) of one KV head and reads everything that they see: first the
// archive, two pages a step, against q gathered to the kept channels; then full rows, 64 a step,
// those before the segment and the segment's own, against all of q. Copies of the next step are on
// their way while tensor cores work on this one.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "page_tile.cuh"
#include "prefill_params.h"
#include "tile_attention.cuh"

namespace leanedge::cuda {

// The tile that a thread block works on.
struct PrefillPlace {
  const PrefillRun* run;
  int row;      // first packed row
  int rows;     // packed rows of the run
  int kv_head;
};

__device__ __forceinline__ int packed_row(const PrefillParams& p, int packed) {
  return p.group == 1 ? packed
                      : static_cast<int>(__umulhi(static_cast<uint32_t>(packed), p.group_magic));
}

// Tiles in order, heaviest first, of `section_heads` KV heads at a time.
__device__ __forceinline__ PrefillPlace prefill_place(const PrefillParams& p, int block) {
  const int section = block / (p.tile_count * p.section_heads);
  const int in = block - section * p.tile_count * p.section_heads;
  const int heads = min(p.section_heads, p.kv_heads - section * p.section_heads);
  const PrefillTile tile = p.tiles[in / heads];
  PrefillPlace place;
  place.run = p.runs + tile.run;
  place.row = tile.row;
  place.rows = place.run->rows * p.group;
  place.kv_head = section * p.section_heads + in % heads;
  return place;
}

__device__ __forceinline__ uint32_t bf16_pair_to_half(uint32_t x) {
  return pack_half2(__uint_as_float(x << 16), __uint_as_float(x & 0xffff0000u));
}

// q of the tile as f16, (128, D), into `tile` in tile_place() order. Rows beyond the run repeat its
// last one.
template <int D>
__device__ __forceinline__ void query_load(const PrefillParams& p, const PrefillPlace& place,
                                           uint8_t* tile) {
  constexpr int kChunks = D / 8;
  const int chunk = threadIdx.x % kChunks;
#pragma unroll 4
  for (int row = threadIdx.x / kChunks; row < kPrefillTileRows; row += kPrefillThreads / kChunks) {
    const int packed = min(place.row + row, place.rows - 1);
    const int query = packed_row(p, packed);
    const int head = place.kv_head * p.group + packed - query * p.group;
    const size_t at = static_cast<size_t>(place.run->q_first + query) * p.q_pitch +
                      static_cast<size_t>(head) * D + 8 * chunk;
    uint4 x;
    if (p.q_type == RowType::kF32) {
      const float4* from = reinterpret_cast<const float4*>(static_cast<const float*>(p.q) + at);
      const float4 low = from[0];
      const float4 high = from[1];
      x = make_uint4(pack_half2(low.x, low.y), pack_half2(low.z, low.w),
                     pack_half2(high.x, high.y), pack_half2(high.z, high.w));
    } else {
      x = *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(p.q) + at);
      if (p.q_type == RowType::kBf16) {
        x = make_uint4(bf16_pair_to_half(x.x), bf16_pair_to_half(x.y), bf16_pair_to_half(x.z),
                       bf16_pair_to_half(x.w));
      }
    }
    *reinterpret_cast<uint4*>(tile + tile_place<D>(row, chunk)) = x;
  }
}

// Kept channels of q, in the list's order, from `from` to `to`, both in tile_place() order.
template <int D>
__device__ __forceinline__ void query_gather(const uint16_t* channels, int width,
                                             const uint8_t* from, uint8_t* to) {
  const int lane = threadIdx.x & 31;
  const int pair = lane & 3;
  for (int chunk = 0; chunk < width >> 3; ++chunk) {
    const int low = channels[8 * chunk + 2 * pair];
    const int high = channels[8 * chunk + 2 * pair + 1];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = 32 * static_cast<int>(threadIdx.x >> 5) + 8 * i + (lane >> 2);
      const uint32_t x =
          *reinterpret_cast<const uint16_t*>(from + tile_place<D>(row, low >> 3) + 2 * (low & 7));
      const uint32_t y =
          *reinterpret_cast<const uint16_t*>(from + tile_place<D>(row, high >> 3) + 2 * (high & 7));
      *reinterpret_cast<uint32_t*>(to + tile_place<D>(row, chunk) + 4 * pair) = x | y << 16;
    }
  }
}

// Starts the copies of full rows [first, first + 64) of the line that spans and dense rows form, K
// to `stage` and V behind it. Rows from `count` on repeat the last one.
template <int D>
__device__ __forceinline__ void rows_copy(const PrefillParams& p, const PrefillPlace& place,
                                          int before, int first, int count, uint32_t stage) {
  constexpr int kChunks = D / 8;
  constexpr int kRowsAtOnce = kPrefillThreads / kChunks;
  const PrefillRun& run = *place.run;
  const int chunk = threadIdx.x % kChunks;
  const int own = threadIdx.x / kChunks;
  const uint32_t stage_v = stage + kPrefillKeys * D * 2;
  if (first >= before && first + kPrefillKeys <= count) {
    const size_t at = (static_cast<size_t>(place.kv_head) * static_cast<size_t>(run.stride) +
                       static_cast<size_t>(first - before + own)) *
                          D +
                      8 * chunk;
    const uint16_t* k = run.k + at;
    const uint16_t* v = run.v + at;
#pragma unroll
    for (int i = 0; i < kPrefillKeys; i += kRowsAtOnce) {
      const uint32_t to = tile_place<D>(i + own, chunk);
      copy_async_16(stage + to, k + i * D);
      copy_async_16(stage_v + to, v + i * D);
    }
    return;
  }
#pragma unroll 1
  for (int i = own; i < kPrefillKeys; i += kRowsAtOnce) {
    int row = min(first + i, count - 1);
    const uint16_t* k = run.k;
    const uint16_t* v = run.v;
    int stride = run.stride;
    if (row >= before) {
      row -= before;
    } else {
      int span = 0;
      while (row >= run.before[span].rows) row -= run.before[span++].rows;
      k = run.before[span].k + p.zone_offset;
      v = run.before[span].v + p.zone_offset;
      stride = run.before[span].stride;
    }
    const size_t at = (static_cast<size_t>(place.kv_head) * static_cast<size_t>(stride) +
                       static_cast<size_t>(row)) *
                          D +
                      8 * chunk;
    const uint32_t to = tile_place<D>(i, chunk);
    copy_async_16(stage + to, k + at);
    copy_async_16(stage_v + to, v + at);
  }
}

// Attends to all pages before the run.
template <int D>
__device__ __forceinline__ void archive_attend(const PrefillParams& p, const PrefillPlace& place,
                                               uint8_t* q, uint8_t* stages,
                                               PrefillState<D>& state) {
  constexpr int kStage = kPrefillKeys * D * 4;
  const DecodeHead& head = p.head[place.kv_head];
  const int pages = place.run->page_count;
  const uint32_t* table = place.run->pages;
  const bool f16_keys = p.k_storage == PageStorage::kF16;
  query_load<D>(p, place, stages);
  __syncthreads();
  query_gather<D>(p.channels + head.channels, head.width, stages, q);
  // An odd last page stands twice; its second self is masked.
  auto number = [&](int page) { return __ldg(table + min(page, pages - 1)); };
  const uint32_t rooms = shared_address(stages) + kStage;
  uint32_t even = number(0);
  uint32_t odd = number(1);
  auto copy = [&] {
    page_copy<D>(head, p.arena + static_cast<size_t>(even) * p.block_bytes, f16_keys, rooms);
    page_copy<D>(head, p.arena + static_cast<size_t>(odd) * p.block_bytes, f16_keys,
                 rooms + kPageRoom<D>);
    copy_async_commit();
  };
  copy();
  const uint32_t keys = shared_address(stages);
  const PrefillLane at = prefill_lane<D>(shared_address(q), keys, keys + kStage / 2);
  const int steps = head.width >> 4;
  for (int page = 0; page < pages; page += 2) {
    even = number(page + 2);
    odd = number(page + 3);
    copy_async_wait_for<0>();
    __syncthreads();  // the pages have come, and the tile of the step before is done with
    pages_convert<D>(p.k_storage, p.v_storage, stages + kStage, head.width, stages,
                     stages + kStage / 2);
    __syncthreads();
    if (page + 2 < pages) copy();
    float scores[2][8][4] = {};
#pragma unroll 2
    for (int s = 0; s < steps; ++s) scores_step<D>(at, s, scores);
    if (page + 1 == pages) {
      const int limit[2][2] = {{32, 32}, {32, 32}};
      scores_mask(scores, 0, limit);
    }
    softmax_step<D>(scores, p.scale, state);
    outputs_step<D>(at, scores, state);
  }
  __syncthreads();
}

template <int D, bool kPages>
__global__ void __launch_bounds__(kPrefillThreads, kPrefillBlocksPerSm)
    kernel_prefill_attention(const __grid_constant__ PrefillParams p) {
  constexpr int kStage = kPrefillKeys * D * 4;  // a tile of K and one of V
  extern __shared__ __align__(256) uint8_t shared[];
  uint8_t* q = shared;
  uint8_t* stages = shared + kPrefillTileRows * D * 2;

  wait_for_previous_kernel();
  const PrefillPlace place = prefill_place(p, static_cast<int>(blockIdx.x));
  const PrefillRun& run = *place.run;
  PrefillState<D> state;
  prefill_reset<D>(state);
  if constexpr (kPages) {
    if (run.page_count > 0 && p.head[place.kv_head].width > 0) {
      archive_attend<D>(p, place, q, stages, state);
    }
  }

  int before = 0;
  for (int s = 0; s < run.span_count; ++s) before += run.before[s].rows;
  const int row_last = min(place.row + kPrefillTileRows, place.rows) - 1;
  // Full rows that the first and the last query row of the tile see.
  const int least = before + run.first + packed_row(p, place.row) + 1;
  const int most = before + run.first + packed_row(p, row_last) + 1;
  query_load<D>(p, place, q);
  rows_copy<D>(p, place, before, 0, most, shared_address(stages));
  copy_async_commit();
  const int lane = threadIdx.x & 31;
  const int row = place.row + 32 * static_cast<int>(threadIdx.x >> 5) + (lane >> 2);
  int use = 0;
  for (int first = 0; first < most; first += kPrefillKeys) {
    copy_async_wait_for<0>();
    __syncthreads();  // this step's rows have come, and those of the step before are done with
    if (first + kPrefillKeys < most) {
      rows_copy<D>(p, place, before, first + kPrefillKeys, most,
                   shared_address(stages) + (use ^ 1) * kStage);
      copy_async_commit();
    }
    const uint32_t keys = shared_address(stages) + use * kStage;
    const PrefillLane at = prefill_lane<D>(shared_address(q), keys, keys + kStage / 2);
    float scores[2][8][4] = {};
#pragma unroll
    for (int s = 0; s < D / 16; ++s) scores_step<D>(at, s, scores);
    if (first + kPrefillKeys > least) {
      int limit[2][2];
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          limit[m][half] = before + run.first + 1 +
                           packed_row(p, min(row + 16 * m + 8 * half, place.rows - 1));
        }
      }
      scores_mask(scores, first, limit);
    }
    softmax_step<D>(scores, p.scale, state);
    outputs_step<D>(at, scores, state);
    use ^= 1;
  }

#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = state.sum[m][half];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      const float inverse = 1.0f / sum;
      const int packed = row + 16 * m + 8 * half;
      if (packed >= place.rows) continue;
      const int query = packed_row(p, packed);
      const int head = place.kv_head * p.group + packed - query * p.group;
      const size_t to = static_cast<size_t>(run.q_first + query) * p.out_pitch +
                        static_cast<size_t>(head) * D + 2 * (lane & 3);
#pragma unroll
      for (int n = 0; n < D / 8; ++n) {
        const float x = state.out[m][n][2 * half] * inverse;
        const float y = state.out[m][n][2 * half + 1] * inverse;
        if (p.out_type == RowType::kF32) {
          *reinterpret_cast<float2*>(static_cast<float*>(p.out) + to + 8 * n) = make_float2(x, y);
        } else {
          uint32_t bits = pack_half2(x, y);
          if (p.out_type == RowType::kBf16) {
            const __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
            bits = reinterpret_cast<const uint32_t&>(pair);
          }
          *reinterpret_cast<uint32_t*>(static_cast<uint16_t*>(p.out) + to + 8 * n) = bits;
        }
      }
    }
  }
}

}  // namespace leanedge::cuda
