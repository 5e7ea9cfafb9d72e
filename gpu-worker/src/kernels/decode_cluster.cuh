// Decode attention where latency is all there is: few rows, short zones. Each pair of row and KV head has a cluster of
// thread blocks of its own (cluster_split.h), each warp of it one page or two, all of which are asked for at once and
// before the kernel waits for the one before it; the newest full rows and q are all that comes behind. Warps merge in
// shared memory, blocks through each other's shared memory, in order: no parts in device memory, no last one to arrive,
// and the same launch gives the same bits.
#pragma once

#include "cluster_ops.cuh"
#include "cluster_split.h"
#include "decode_kernels.h"
#include "decode_merge.cuh"
#include "decode_shared.cuh"
#include "full_rows.cuh"
#include "page_stream.cuh"
#include "warp_attend.cuh"

namespace leanedge::cuda {

// What a block has merged of its warps, for the blocks of its cluster.
template <int D>
struct ClusterPart {
  float4 values[kDecodeGroupMax * D / 4];  // (group, D)
  float reference[kDecodeGroupMax];        // -infinity: the block read nothing
  float sum[kDecodeGroupMax];
};

// Merges the parts of a cluster's blocks, in their order; each block writes a share of the outputs.
template <int D>
__device__ __forceinline__ void merge_cluster(const DecodeParams& p, const ClusterPart<D>& part,
                                              size_t first_head) {
  const int blocks = cluster_blocks();
  const int i = static_cast<int>(threadIdx.x) * blocks + cluster_rank();
  if (i >= p.group * D / 4) return;
  const int n = i / (D / 4);
  float4 values[kClusterBlocksMax];
  float references[kClusterBlocksMax];
  float sums[kClusterBlocksMax];
  float reference = -CUDART_INF_F;
#pragma unroll
  for (int b = 0; b < kClusterBlocksMax; ++b) {
    references[b] = -CUDART_INF_F;
    if (b >= blocks) continue;
    const ClusterPart<D>* from = cluster_shared(&part, b);
    values[b] = from->values[i];
    references[b] = from->reference[n];
    sums[b] = from->sum[n];
  }
#pragma unroll
  for (int b = 0; b < kClusterBlocksMax; ++b) reference = fmaxf(reference, references[b]);
  float4 value = make_float4(0, 0, 0, 0);
  float sum = 0;
#pragma unroll
  for (int b = 0; b < kClusterBlocksMax; ++b) {
    if (b >= blocks) continue;
    const float weight = exp2_fast(references[b] - reference);
    value.x = fmaf(weight, values[b].x, value.x);
    value.y = fmaf(weight, values[b].y, value.y);
    value.z = fmaf(weight, values[b].z, value.z);
    value.w = fmaf(weight, values[b].w, value.w);
    sum = fmaf(weight, sums[b], sum);
  }
  store_result(p, first_head * (D / 4) + static_cast<size_t>(i), value, sum);
}

// One layer for all rows of a step: a cluster a pair.
template <PageStorage K, PageStorage V, int D>
__global__ void __launch_bounds__(32 * kClusterWarps, 1)
    kernel_decode_cluster(const __grid_constant__ DecodeParams p) {
  constexpr int kWarps = kClusterWarps;
  extern __shared__ __align__(128) uint8_t rings[];
  __shared__ DecodeShared<D, kWarps> shared;
  __shared__ ClusterPart<D> part;
  static_assert(sizeof shared + sizeof part <= kClusterSharedStatic, "the launcher leaves room");

  const int blocks = cluster_blocks();
  const int pair = static_cast<int>(blockIdx.x) / blocks;
  const int kv_head = pair % p.kv_heads;
  const int warp = static_cast<int>(threadIdx.x >> 5);
  const int warps = blocks * kWarps;
  const int self = cluster_warp(warp, cluster_rank(), blocks);
  const PageLane at = page_lane<K, V, D>(static_cast<int>(threadIdx.x & 31));
  const int lane = at.lane;
  const int t = at.t;
  const DecodeHead head = p.head[kv_head];
  const DecodeRow* row = p.step.rows + pair / p.kv_heads;
  const size_t first_head = static_cast<size_t>(pair) * static_cast<size_t>(p.group);

  // Two loads in a row, the row and its page table, and the pages are on their way.
  const int pages = head.width ? __ldg(&row->page_count) : 0;
  const uint32_t* table = reinterpret_cast<const uint32_t*>(
      __ldg(reinterpret_cast<const unsigned long long*>(&row->pages)));
  uint32_t word = 0;
  if (threadIdx.x < sizeof(DecodeRow) / 4) {
    word = __ldg(reinterpret_cast<const uint32_t*>(row) + threadIdx.x);
  }
  PageStream stream;
  stream.table = table + static_cast<size_t>(kv_head) * p.table_pitch + self;
  stream.step = warps;
  stream.count = cluster_units(pages, self, warps);
  stream.values = p.arena + head.k_values + 16 * lane;
  stream.to_v = head.v_values - head.k_values;
  stream.k_chunks = head.k_bytes >> 4;
  stream.k_swizzled = head.width * storage_bits(K) / 4;
  stream.v_stage = (head.k_bytes + 127) & ~127;
  stream.own = swizzle(static_cast<uint32_t>(lane)) << 4;
  // Lists of chosen pages come from the kernel before this one.
  if (p.table_pitch != 0) wait_for_previous_kernel();
  stream.ahead = stream_entry<0>(stream, lane);
  stream.later = stream_entry<0>(stream, 32 + lane);
  uint8_t* ring = rings + warp * p.warp_bytes;
  const uint32_t ring_shared = shared_address(ring);
  const int stages = p.page_stages;
  // Every call commits one group, also past the end.
  auto issue_page = [&](int index) {
    if (index < stream.count) {
      stream_issue<K, V, D, 0>(stream, index, ring_shared + index % stages * p.stage_bytes,
                               p.block_bytes, lane);
    }
    copy_async_commit();
  };
  for (int i = 0; i < stages; ++i) issue_page(i);

  if (threadIdx.x < sizeof(DecodeRow) / 4) {
    reinterpret_cast<uint32_t*>(&shared.row)[threadIdx.x] = word;
  }
  uint2 pairs[(D / 16 + kWarps - 1) / kWarps];
#pragma unroll
  for (int i = 0; i < D / 16; i += kWarps) {
    const bool kept = i + warp < D / 16 && 16 * (i + warp) < head.width;
    pairs[i / kWarps] =
        kept ? kept_pairs<K>(p.channels + head.channels, i + warp, t) : make_uint2(0, 0);
  }
  __syncthreads();
  // Full rows come to the second-level cache at least: which of them the kernel before this one writes is not known here.
  constexpr int kRows = decode_tile_rows(K, V);
  int full_rows = 0;
  for (int s = 0; s < shared.row.span_count; ++s) full_rows += shared.row.spans[s].rows;
  const int row_step = warps * kRows;
  const int row_first = (warps - 1 - self) * kRows;
  for (int first = row_first; first < full_rows; first += row_step) {
    tile_prefetch<D, kRows>(shared.row, first, full_rows, p.zone_offset, kv_head, lane);
  }

  // From here on the results of the kernel before this one count: q and the newest rows.
  wait_for_previous_kernel();
  const uint32_t tile_offset = static_cast<uint32_t>(stages * p.stage_bytes);
  auto issue_tile = [&](int first) {
    if (first < full_rows) {
      tile_issue<D, kRows>(shared.row, first, full_rows, p.zone_offset, kv_head,
                           ring_shared + tile_offset, lane);
    }
    copy_async_commit();
  };
  issue_tile(row_first);
  load_query<D, kWarps>(p.q + first_head * D, p.group, p.scale, shared);
  __syncthreads();
  const float scale[2] = {shared.q_scale[2 * t], shared.q_scale[2 * t + 1]};
#pragma unroll
  for (int i = 0; i < D / 16; i += kWarps) {
    if (i + warp < D / 16) {
      shared.q_pairs[i + warp][lane] = gather_pairs(shared.q[lane >> 2], pairs[i / kWarps]);
    }
  }
  __syncthreads();

  Softmax softmax;
  softmax_reset(softmax);
  float out[D / 16][4] = {};
  float minima[4] = {};
  for (int i = 0; i < stream.count; ++i) {
    // Behind page i: the stages' other pages, and the first tile where the page was asked for before it.
    copy_async_wait(i < stages ? stages : stages - 1);
    __syncwarp();
    page_attend<K, V, D>(ring + i % stages * p.stage_bytes, head.width, stream.v_stage, at,
                         &shared.q_pairs[0][0], scale, softmax, out, minima);
    __syncwarp();
    issue_page(i + stages);
  }
  for (int first = row_first; first < full_rows; first += row_step) {
    copy_async_wait(0);
    __syncwarp();
    tile_attend<V, D, kRows>(ring + tile_offset, full_rows - first, lane, &shared.q[0][0], scale,
                             softmax, out, minima);
    __syncwarp();
    issue_tile(first + row_step);
  }
  copy_async_wait(0);
  __syncwarp();

  // The ring is drained: its start takes the outputs.
  leave_results<V, D>(softmax, out, minima, p.group, warp, lane, reinterpret_cast<float*>(ring),
                      shared.results);
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < p.group * D / 4; i += 32 * kWarps) {
    const Merged merged = merge_warps<D, kWarps>(shared.results, rings, p.warp_bytes, i);
    part.values[i] = merged.value;
    if (i % (D / 4) == 0) {
      part.reference[i / (D / 4)] = merged.reference;
      part.sum[i / (D / 4)] = merged.sum;
    }
  }
  cluster_sync();
  merge_cluster<D>(p, part, first_head);
  cluster_sync();  // others may still read this block's part
}

}  // namespace leanedge::cuda
