// Decode attention of one layer: a persistent grid, one share of the cache a thread block
// (split.h), one page at a time a warp. Bytes go from global to shared memory by asynchronous
// copies, several pages ahead, and through tensor cores (page_fragments.cuh). Each warp keeps its
// own softmax and outputs; a block merges its warps, and the last block of a pair merges the
// blocks, in order.
#pragma once

#include "clock_marks.cuh"
#include "decode_kernels.h"
#include "decode_merge.cuh"
#include "decode_shared.cuh"
#include "full_rows.cuh"
#include "leanedge_cuda/decode_attention.h"
#include "page_stream.cuh"
#include "split.h"
#include "warp_attend.cuh"
#include "warp_ops.cuh"

namespace leanedge::cuda {

// Attends for one head and one row (shared.row) over units [begin, end) of the pair and leaves each
// warp's results in shared memory.
template <PageStorage K, PageStorage V, int D, int kWarps, bool kBoth>
__device__ __forceinline__ void attend_units(const DecodeParams& p, int tiles, int full_rows,
                                             int kv_head, int begin, int end, uint8_t* ring,
                                             DecodeShared<D, kWarps>& shared, const float* q,
                                             ClockSheet& marks) {
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
      stream_issue<K, V, D, kWarps>(stream, index, ring_shared + place * stage_bytes, p.block_bytes, lane);
    }
    copy_async_commit();
  };
  constexpr int kStages = decode_stages(K, V);
#pragma unroll
  for (int i = 0; i + 1 < kStages; ++i) issue_page(i, i);
  // The kept channels of this warp's steps.
  constexpr int kOwnSteps = (D / 16 + kWarps - 1) / kWarps;
  uint2 pairs[kOwnSteps];
#pragma unroll
  for (int i = 0; i < kOwnSteps; ++i) {
    const int step = i * kWarps + warp;
    pairs[i] = 16 * step < head.width ? kept_pairs<K>(p.channels + head.channels, step, t)
                                      : make_uint2(0, 0);
  }
  // What was read so far was written long before this step. From here on the results of the kernel
  // before this one count: q, the newest rows, the scratch that it shares with the last layer.
  wait_for_previous_kernel();
  marks.put_first(kMarkWait);

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
  load_query<D, kWarps, kBoth>(q, p.group, p.scale, shared);
  __syncthreads();

  const float scale[2] = {shared.q_scale[2 * t], shared.q_scale[2 * t + 1]};
#pragma unroll
  for (int i = 0; i < kOwnSteps; ++i) {
    const int step = i * kWarps + warp;
    if (kWarps > D / 16 && step >= D / 16) break;
    shared.q_pairs[step][lane] = gather_pairs(shared.q[r], pairs[i]);
  }
  __syncthreads();

  marks.put_first(kMarkQuery);

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
    page_attend<K, V, D, kBoth>(ring + use * stage_bytes, head.width, stream.v_stage, at,
                         &shared.q_pairs[0][0], scale, softmax, out, minima);
    __syncwarp();
    use = use + 1 == kStages ? 0 : use + 1;
    fill = fill + 1 == kStages ? 0 : fill + 1;
  }

  marks.warp_done();

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
      tile_attend<V, D, kRows, kBoth>(ring + use * kTileBytes, row_end - first, lane, &shared.q[0][0],
                               scale, softmax, out, minima);
      __syncwarp();
      use = use + 1 == p.tile_stages ? 0 : use + 1;
      fill = fill + 1 == p.tile_stages ? 0 : fill + 1;
    }
  }
  copy_async_wait(0);
  __syncwarp();

  // The ring is drained: its start takes the outputs.
  leave_results<V, D, kBoth>(softmax, out, minima, p.group, warp, lane, reinterpret_cast<float*>(ring),
                      shared.results);
  __syncthreads();
  marks.put(kMarkPages);
  marks.pair_done(page_end - page_begin);
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

// One layer for all rows of a step. kWarps: of a block, decode_warps(K, V), or those of a whole multiprocessor. kBoth: for
// groups of at most 4 query heads, each of which stands in two columns of a product (page_outputs()).
template <PageStorage K, PageStorage V, int D, int kWarps, bool kBoth = false>
__global__ void __launch_bounds__(32 * kWarps, kWarps == decode_warps(K, V)
                                                   ? kDecodeThreadsPerSm / 32 / kWarps
                                                   : 1)
    kernel_decode_attention(const __grid_constant__ DecodeParams p) {
  constexpr int kThreads = 32 * kWarps;
  extern __shared__ __align__(128) uint8_t rings[];
  __shared__ DecodeShared<D, kWarps> shared;
  static_assert(sizeof shared <= (kWarps == decode_warps(K, V) ? kDecodeSharedStatic
                                                                : kWideSharedStatic),
                "the launcher leaves room for it");

  ClockSheet marks;
#ifdef LEANEDGE_CLOCK_MARKS
  marks.begin(p.marks);
#endif
  uint8_t* ring = rings + opaque((threadIdx.x >> 5) * static_cast<uint32_t>(p.warp_bytes));
  const int rows = p.step.row_count;
  auto page_cost = [&](int h) -> int {
    const DecodeHead& head = p.head[h];
    return head.width ? (head.k_bytes + head.v_bytes) >> 4 : 0;
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
  if (begin >= end) return;

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
    attend_units<K, V, D, kWarps, kBoth>(p, pair.tiles, full_rows, this_head, split_units(pair, begin),
                          split_units(pair, end), ring, shared, p.q + first_head * D, marks);

    const int part = split_part(blockIdx.x, first_owner);
    float* part_sums = p.parts + static_cast<size_t>(2 * gridDim.x) * p.group * D;
    for (int i = threadIdx.x; i < p.group * D / 4; i += kThreads) {
      const int n = i / (D / 4);
      const Merged merged = merge_warps<D, kWarps>(shared.results, rings, p.warp_bytes, i);
      if (owners == 1) {
        store_result(p, first_head * (D / 4) + static_cast<size_t>(i), merged.value, merged.sum);
      } else {
        reinterpret_cast<float4*>(p.parts)[static_cast<size_t>(part) * p.group * (D / 4) + i] =
            merged.value;
        if (i % (D / 4) == 0) {
          float* at_sum = part_sums + (static_cast<size_t>(part) * p.group + n) * 2;
          at_sum[0] = merged.reference;
          at_sum[1] = merged.sum;
        }
      }
    }
    marks.put(kMarkPart);
    if (owners > 1) {
      merge_pair<D, kWarps>(p, part_sums, this_row * p.kv_heads + this_head, first_owner, owners,
                            shared.results, shared.last);
    }
    // The results lie in the rings, which the next pair fills.
    __syncthreads();
  }
  marks.end(blockIdx.x);
}

}  // namespace leanedge::cuda