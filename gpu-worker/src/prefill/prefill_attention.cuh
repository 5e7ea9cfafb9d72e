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
#include "tile_products.cuh"
#include "tile_softmax.cuh"

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

__device__ __forceinline__ uint32_t query_place(int row, int chunk) {
  return tile_place<kPrefillTileRows>(row, chunk);
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
    *reinterpret_cast<uint4*>(tile + query_place(row, chunk)) = x;
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
          *reinterpret_cast<const uint16_t*>(from + query_place(row, low >> 3) + 2 * (low & 7));
      const uint32_t y =
          *reinterpret_cast<const uint16_t*>(from + query_place(row, high >> 3) + 2 * (high & 7));
      *reinterpret_cast<uint32_t*>(to + query_place(row, chunk) + 4 * pair) = x | y << 16;
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
      const uint32_t to = tile_place<kPrefillKeys>(i + own, chunk);
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
    const uint32_t to = tile_place<kPrefillKeys>(i, chunk);
    copy_async_16(stage + to, k + at);
    copy_async_16(stage_v + to, v + at);
  }
}

// Attends to pages [begin, end) of those before the run; begin is even, and below end.
template <int D>
__device__ __forceinline__ void archive_attend(const PrefillParams& p, const PrefillPlace& place,
                                               int begin, int end, uint8_t* q, uint8_t* stages,
                                               PrefillState<D>& state) {
  constexpr int kStage = kPrefillKeys * D * 4;
  const DecodeHead& head = p.head[place.kv_head];
  const uint32_t* table = place.run->pages;
  const bool f16_keys = p.k_storage == PageStorage::kF16;
  query_load<D>(p, place, stages);
  __syncthreads();
  query_gather<D>(p.channels + head.channels, head.width, stages, q);
  // An odd last page stands twice; its second self is masked.
  auto number = [&](int page) { return __ldg(table + min(page, end - 1)); };
  const uint32_t rooms = shared_address(stages) + kStage;
  uint32_t even = number(begin);
  uint32_t odd = number(begin + 1);
  auto copy = [&] {
    page_copy<D>(head, p.arena + static_cast<size_t>(even) * p.block_bytes, f16_keys, rooms);
    page_copy<D>(head, p.arena + static_cast<size_t>(odd) * p.block_bytes, f16_keys,
                 rooms + kPageRoom<D>);
    copy_async_commit();
  };
  copy();
  const uint32_t keys = shared_address(stages);
  const int steps = head.width >> 4;
  for (int page = begin; page < end; page += 2) {
    even = number(page + 2);
    odd = number(page + 3);
    copy_async_wait_for<0>();
    __syncthreads();  // the pages have come, and the tile of the step before is done with
    pages_convert<D>(p.k_storage, p.v_storage, stages + kStage, head.width, stages,
                     stages + kStage / 2);
    shared_written();
    __syncthreads();
    if (page + 2 < end) copy();
    float scores[2][8][4];
    scores_few<D>(shared_address(q), keys, steps, scores);
    if (page + 1 == end) {
      const int limit[2][2] = {{32, 32}, {32, 32}};
      scores_mask(scores, 0, limit);
    }
    softmax_step<D>(scores, p.scale, state);
    outputs_add<D>(keys + kStage / 2, scores, state);
  }
  __syncthreads();
}

// Element of `out` at which a packed row begins.
template <int D>
__device__ __forceinline__ size_t output_place(const PrefillParams& p, const PrefillPlace& place,
                                               int packed) {
  const int query = packed_row(p, packed);
  const int head = place.kv_head * p.group + packed - query * p.group;
  return static_cast<size_t>(place.run->q_first + query) * p.out_pitch +
         static_cast<size_t>(head) * D;
}

// Stores two neighbours of `out`.
__device__ __forceinline__ void output_store(const PrefillParams& p, size_t to, float x, float y) {
  if (p.out_type == RowType::kF32) {
    *reinterpret_cast<float2*>(static_cast<float*>(p.out) + to) = make_float2(x, y);
    return;
  }
  uint32_t bits = pack_half2(x, y);
  if (p.out_type == RowType::kBf16) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
    bits = reinterpret_cast<const uint32_t&>(pair);
  }
  *reinterpret_cast<uint32_t*>(static_cast<uint16_t*>(p.out) + to) = bits;
}

template <int D, bool kPages>
__global__ void __launch_bounds__(kPrefillThreads, kPrefillBlocksPerSm)
    kernel_prefill_attention(const __grid_constant__ PrefillParams p) {
  constexpr int kStage = kPrefillKeys * D * 4;  // a tile of K and one of V
  extern __shared__ __align__(256) uint8_t shared[];
  uint8_t* q = shared;
  uint8_t* stages = shared + kPrefillTileRows * D * 2;

  wait_for_previous_kernel();
  const int block = static_cast<int>(blockIdx.x) / p.parts;
  const int part = static_cast<int>(blockIdx.x) - block * p.parts;
  const PrefillPlace place = prefill_place(p, block);
  const PrefillRun& run = *place.run;
  PrefillState<D> state;
  prefill_reset<D>(state);
  int before = 0;
  for (int s = 0; s < run.span_count; ++s) before += run.before[s].rows;
  const int row_last = min(place.row + kPrefillTileRows, place.rows) - 1;
  // Full rows that the first and the last query row of the tile see.
  const int least = before + run.first + packed_row(p, place.row) + 1;
  const int most = before + run.first + packed_row(p, row_last) + 1;
  // The tile's work in steps, first the archive, and this block's part of it.
  const int pages = kPages && p.head[place.kv_head].width > 0 ? run.page_count : 0;
  const int page_steps = (pages + 1) / 2;
  const int steps = page_steps + (most + kPrefillKeys - 1) / kPrefillKeys;
  const int step_begin = steps * part / p.parts;
  const int step_end = steps * (part + 1) / p.parts;
  if constexpr (kPages) {
    if (step_begin < page_steps && step_begin < step_end) {
      archive_attend<D>(p, place, 2 * step_begin, min(2 * step_end, pages), q, stages, state);
    }
  }

  const int row_begin = max(step_begin - page_steps, 0) * kPrefillKeys;
  const int row_end = min((step_end - page_steps) * kPrefillKeys, most);
  if (row_begin < row_end) {
    query_load<D>(p, place, q);
    rows_copy<D>(p, place, before, row_begin, most, shared_address(stages));
    copy_async_commit();
  }
  const int lane = threadIdx.x & 31;
  const int row = place.row + 16 * static_cast<int>(threadIdx.x >> 5) + (lane >> 2);
  int use = 0;
  for (int first = row_begin; first < row_end; first += kPrefillKeys) {
    copy_async_wait_for<0>();
    shared_written();
    __syncthreads();  // this step's rows have come, and those of the step before are done with
    if (first + kPrefillKeys < row_end) {
      rows_copy<D>(p, place, before, first + kPrefillKeys, most,
                   shared_address(stages) + (use ^ 1) * kStage);
      copy_async_commit();
    }
    const uint32_t keys = shared_address(stages) + use * kStage;
    float scores[2][8][4];
    scores_all<D>(shared_address(q), keys, scores);
    if (first + kPrefillKeys > least) {
      int limit[2][2];
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          limit[m][half] = before + run.first + 1 +
                           packed_row(p, min(row + 64 * m + 8 * half, place.rows - 1));
        }
      }
      scores_mask(scores, first, limit);
    }
    softmax_step<D>(scores, p.scale, state);
    outputs_add<D>(keys + kStage / 2, scores, state);
    use ^= 1;
  }

#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = state.sum[m][half];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      const int packed = row + 64 * m + 8 * half;
      if (packed >= place.rows) continue;
      if (p.parts > 1) {
        const size_t to = static_cast<size_t>(blockIdx.x) * kPrefillTileRows + packed - place.row;
        float* outs = p.part_outs + to * D + 2 * (lane & 3);
#pragma unroll
        for (int n = 0; n < D / 8; ++n) {
          *reinterpret_cast<float2*>(outs + 8 * n) =
              make_float2(state.out[m][n][2 * half], state.out[m][n][2 * half + 1]);
        }
        if ((lane & 3) == 0) {
          reinterpret_cast<float2*>(p.part_sums)[to] = make_float2(state.reference[m][half], sum);
        }
        continue;
      }
      const float inverse = 1.0f / sum;
      const size_t to = output_place<D>(p, place, packed) + 2 * (lane & 3);
#pragma unroll
      for (int n = 0; n < D / 8; ++n) {
        output_store(p, to + 8 * n, state.out[m][n][2 * half] * inverse,
                     state.out[m][n][2 * half + 1] * inverse);
      }
    }
  }
}

// Merges the parts of a tile, in order; a warp a row.
template <int D>
__global__ void __launch_bounds__(kPrefillThreads)
    kernel_prefill_merge(const __grid_constant__ PrefillParams p) {
  wait_for_previous_kernel();
  const PrefillPlace place = prefill_place(p, static_cast<int>(blockIdx.x));
  const int lane = threadIdx.x & 31;
  for (int row = static_cast<int>(blockIdx.y) * kPrefillWarps + static_cast<int>(threadIdx.x >> 5);
       row < min(kPrefillTileRows, place.rows - place.row);
       row += kPrefillMergeBlocks * kPrefillWarps) {
    const size_t first =
        static_cast<size_t>(blockIdx.x) * p.parts * kPrefillTileRows + static_cast<size_t>(row);
    const float2* sums = reinterpret_cast<const float2*>(p.part_sums) + first;
    float reference = -CUDART_INF_F;
    for (int i = 0; i < p.parts; ++i) {
      reference = fmaxf(reference, __ldcg(sums + static_cast<size_t>(i) * kPrefillTileRows).x);
    }
    float sum = 0;
    float value[D / 32] = {};
#pragma unroll 4
    for (int i = 0; i < p.parts; ++i) {
      const size_t at = first + static_cast<size_t>(i) * kPrefillTileRows;
      const float2 own = __ldcg(reinterpret_cast<const float2*>(p.part_sums) + at);
      const float weight = exp2_fast(own.x - reference);
      sum = fmaf(weight, own.y, sum);
#pragma unroll
      for (int j = 0; j < D / 64; ++j) {
        const float2 x =
            __ldcg(reinterpret_cast<const float2*>(p.part_outs + at * D) + 32 * j + lane);
        value[2 * j] = fmaf(weight, x.x, value[2 * j]);
        value[2 * j + 1] = fmaf(weight, x.y, value[2 * j + 1]);
      }
    }
    const float inverse = 1.0f / sum;
    const size_t to = output_place<D>(p, place, place.row + row) + 2 * lane;
#pragma unroll
    for (int j = 0; j < D / 64; ++j) {
      output_store(p, to + 64 * j, value[2 * j] * inverse, value[2 * j + 1] * inverse);
    }
  }
}

}  // namespace leanedge::cuda
