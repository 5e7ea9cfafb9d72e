// The two products of a step of prefill attention. Where the target has wgmma (sm_90a), the four
// warps of a block issue them together, operands straight from shared memory; elsewhere every warp
// uses matrix loads and mma.m16n8k16. Both leave the same sums in the same lanes: row r or r + 8 (r
// = lane / 4) of the warp's 16 rows, columns 2t and 2t + 1 (t = lane % 4) of every eight.
#pragma once

#include "../kernels/warp_ops.cuh"
#include "page_tile.cuh"
#include "prefill_params.h"
#include "tile_softmax.cuh"

namespace leanedge::cuda {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// What this thread wrote to shared memory is seen by the matrix products behind the next barrier.
__device__ __forceinline__ void shared_written() {
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}

__device__ __forceinline__ void products_begin() {
  asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}
__device__ __forceinline__ void products_end() {
  asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n" ::: "memory");
}

// An operand in tile_place() order, as PTX describes matrices: address, bytes between slices of 64
// channels (read where rows are what is summed over), 1,024 bytes between runs of 8 rows, swizzle
// of 128 bytes.
__device__ __forceinline__ uint64_t operand(uint32_t shared, uint32_t slice) {
  return static_cast<uint64_t>((shared & 0x3ffffu) >> 4) |
         static_cast<uint64_t>(slice >> 4) << 16 | uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}

// c (64, 64) = a (64, 16) * b (64, 16)^T, added to what is there where `adds` says so.
__device__ __forceinline__ void product_scores(float (&c)[8][4], uint64_t a, uint64_t b,
                                               int adds) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, "
        "%8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, "
        "%24, %25, %26, %27, %28, %29, %30, %31"
      "}, %32, %33, p, 1, 1, 0, 0;\n}\n"
      : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]),
        "+f"(c[1][0]), "+f"(c[1][1]), "+f"(c[1][2]), "+f"(c[1][3]),
        "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]),
        "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3]),
        "+f"(c[4][0]), "+f"(c[4][1]), "+f"(c[4][2]), "+f"(c[4][3]),
        "+f"(c[5][0]), "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]),
        "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]), "+f"(c[6][3]),
        "+f"(c[7][0]), "+f"(c[7][1]), "+f"(c[7][2]), "+f"(c[7][3])
      : "l"(a), "l"(b), "r"(adds));
}

// c (64, 64) += a (64, 16) * b (16, 64): a in registers, as multiply_add() takes it.
__device__ __forceinline__ void product_outputs(float (&c)[8][4], const uint32_t (&a)[4],
                                                uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, "
        "%8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, "
        "%24, %25, %26, %27, %28, %29, %30, %31"
      "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;\n"
      : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]),
        "+f"(c[1][0]), "+f"(c[1][1]), "+f"(c[1][2]), "+f"(c[1][3]),
        "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]),
        "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3]),
        "+f"(c[4][0]), "+f"(c[4][1]), "+f"(c[4][2]), "+f"(c[4][3]),
        "+f"(c[5][0]), "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]),
        "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]), "+f"(c[6][3]),
        "+f"(c[7][0]), "+f"(c[7][1]), "+f"(c[7][2]), "+f"(c[7][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

// c (64, 128) += a (64, 16) * b (16, 128).
__device__ __forceinline__ void product_outputs(float (&c)[16][4], const uint32_t (&a)[4],
                                                uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, "
        "%8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, "
        "%24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, "
        "%40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, "
        "%56, %57, %58, %59, %60, %61, %62, %63"
      "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;\n"
      : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]),
        "+f"(c[1][0]), "+f"(c[1][1]), "+f"(c[1][2]), "+f"(c[1][3]),
        "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]),
        "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3]),
        "+f"(c[4][0]), "+f"(c[4][1]), "+f"(c[4][2]), "+f"(c[4][3]),
        "+f"(c[5][0]), "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]),
        "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]), "+f"(c[6][3]),
        "+f"(c[7][0]), "+f"(c[7][1]), "+f"(c[7][2]), "+f"(c[7][3]),
        "+f"(c[8][0]), "+f"(c[8][1]), "+f"(c[8][2]), "+f"(c[8][3]),
        "+f"(c[9][0]), "+f"(c[9][1]), "+f"(c[9][2]), "+f"(c[9][3]),
        "+f"(c[10][0]), "+f"(c[10][1]), "+f"(c[10][2]), "+f"(c[10][3]),
        "+f"(c[11][0]), "+f"(c[11][1]), "+f"(c[11][2]), "+f"(c[11][3]),
        "+f"(c[12][0]), "+f"(c[12][1]), "+f"(c[12][2]), "+f"(c[12][3]),
        "+f"(c[13][0]), "+f"(c[13][1]), "+f"(c[13][2]), "+f"(c[13][3]),
        "+f"(c[14][0]), "+f"(c[14][1]), "+f"(c[14][2]), "+f"(c[14][3]),
        "+f"(c[15][0]), "+f"(c[15][1]), "+f"(c[15][2]), "+f"(c[15][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

// Products of channels 16 s .. 16 s + 15 of both halves of the tile.
__device__ __forceinline__ void scores_step(uint32_t q, uint32_t k, int s,
                                            float (&scores)[2][8][4]) {
  const uint32_t in = static_cast<uint32_t>(s & 3) * 32;
  const uint32_t slice = static_cast<uint32_t>(s >> 2);
#pragma unroll
  for (int m = 0; m < 2; ++m) {
    product_scores(scores[m], operand(q + slice * kTileSlice<kPrefillTileRows> + m * 8192 + in, 16),
                   operand(k + slice * kTileSlice<kPrefillKeys> + in, 16), s);
  }
}

template <int kSteps>
__device__ __forceinline__ void scores_steps(uint32_t q, uint32_t k, float (&scores)[2][8][4]) {
  products_begin();
#pragma unroll
  for (int s = 0; s < kSteps; ++s) scores_step(q, k, s, scores);
  products_end();
}

// Scores of all channels: q (128, D), k (64, D) in shared memory.
template <int D>
__device__ __forceinline__ void scores_all(uint32_t q, uint32_t k, float (&scores)[2][8][4]) {
  scores_steps<D / 16>(q, k, scores);
}

// Scores of the first 16 * steps channels. A case each: between products that are on their way
// there may be no jump.
template <int D>
__device__ __forceinline__ void scores_few(uint32_t q, uint32_t k, int steps,
                                           float (&scores)[2][8][4]) {
  switch (steps) {
    case 1: return scores_steps<1>(q, k, scores);
    case 2: return scores_steps<2>(q, k, scores);
    case 3: return scores_steps<3>(q, k, scores);
    default: break;
  }
  if constexpr (D > 64) {
    switch (steps) {
      case 4: return scores_steps<4>(q, k, scores);
      case 5: return scores_steps<5>(q, k, scores);
      case 6: return scores_steps<6>(q, k, scores);
      case 7: return scores_steps<7>(q, k, scores);
      default: break;
    }
  }
  scores_steps<D / 16>(q, k, scores);
}

// Adds the values of 64 keys, weighted by their probabilities: v (64, D) in shared memory.
template <int D>
__device__ __forceinline__ void outputs_add(uint32_t v, const float (&p)[2][8][4],
                                            PrefillState<D>& state) {
  uint32_t a[2][4][4];
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int s = 0; s < 4; ++s) probabilities_pack(p[m], s, a[m][s]);
  }
  products_begin();
#pragma unroll
  for (int s = 0; s < 4; ++s) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      product_outputs(state.out[m], a[m][s], operand(v + 2048 * s, kTileSlice<kPrefillKeys>));
    }
  }
  products_end();
}

#else

__device__ __forceinline__ void shared_written() {}

// A lane's row of the matrix loads of a tile: rows of 128 bytes, chunks permuted by the row's
// number.
struct TileLane {
  uint32_t row;    // bytes
  uint32_t chunk;  // bytes, to be combined by XOR with those of a chunk
};

__device__ __forceinline__ TileLane tile_lane(int row, int chunk) {
  return {static_cast<uint32_t>(row * 128), static_cast<uint32_t>(((chunk ^ row) & 7) << 4)};
}

// Products of channels 16 s .. 16 s + 15.
__device__ __forceinline__ void scores_step(uint32_t q, uint32_t k, const TileLane& q_lane,
                                            const TileLane& k_lane, int s,
                                            float (&scores)[2][8][4]) {
  const uint32_t in = static_cast<uint32_t>((2 * s & 7) << 4);
  const uint32_t q_at = q + (s >> 2) * kTileSlice<kPrefillTileRows> + q_lane.row +
                        (q_lane.chunk ^ in);
  const uint32_t k_at = k + (s >> 2) * kTileSlice<kPrefillKeys> + k_lane.row + (k_lane.chunk ^ in);
  uint32_t a[2][4];
#pragma unroll
  for (int m = 0; m < 2; ++m) load_matrices(a[m], q_at + m * 8192);
#pragma unroll
  for (int n = 0; n < 4; ++n) {
    uint32_t b[4];
    load_matrices(b, k_at + n * 2048);
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      multiply_add(scores[m][2 * n], a[m][0], a[m][1], a[m][2], a[m][3], b[0], b[1]);
      multiply_add(scores[m][2 * n + 1], a[m][0], a[m][1], a[m][2], a[m][3], b[2], b[3]);
    }
  }
}

__device__ __forceinline__ void scores_clear(float (&scores)[2][8][4]) {
#pragma unroll
  for (int i = 0; i < 64; ++i) scores[i >> 5][(i >> 2) & 7][i & 3] = 0;
}

__device__ __forceinline__ TileLane query_lane() {
  const int lane = threadIdx.x & 31;
  return tile_lane(16 * static_cast<int>(threadIdx.x >> 5) + (lane & 15), lane >> 4);
}
__device__ __forceinline__ TileLane key_lane() {
  const int lane = threadIdx.x & 31;
  return tile_lane(8 * (lane >> 4) + (lane & 7), (lane >> 3) & 1);
}

// Scores of all channels: q (128, D), k (64, D) in shared memory.
template <int D>
__device__ __forceinline__ void scores_all(uint32_t q, uint32_t k, float (&scores)[2][8][4]) {
  scores_clear(scores);
  const TileLane q_lane = query_lane();
  const TileLane k_lane = key_lane();
#pragma unroll
  for (int s = 0; s < D / 16; ++s) scores_step(q, k, q_lane, k_lane, s, scores);
}

// Scores of the first 16 * steps channels.
template <int D>
__device__ __forceinline__ void scores_few(uint32_t q, uint32_t k, int steps,
                                           float (&scores)[2][8][4]) {
  scores_clear(scores);
  const TileLane q_lane = query_lane();
  const TileLane k_lane = key_lane();
#pragma unroll 2
  for (int s = 0; s < steps; ++s) scores_step(q, k, q_lane, k_lane, s, scores);
}

// Adds the values of 64 keys, weighted by their probabilities: v (64, D) in shared memory.
template <int D>
__device__ __forceinline__ void outputs_add(uint32_t v, const float (&p)[2][8][4],
                                            PrefillState<D>& state) {
  const int lane = threadIdx.x & 31;
  const TileLane v_lane = tile_lane(lane & 15, lane >> 4);
#pragma unroll
  for (int s = 0; s < 4; ++s) {
    uint32_t a[2][4];
#pragma unroll
    for (int m = 0; m < 2; ++m) probabilities_pack(p[m], s, a[m]);
#pragma unroll
    for (int n = 0; n < D / 16; ++n) {
      uint32_t b[4];
      load_matrices_transposed(b, v + (n >> 2) * kTileSlice<kPrefillKeys> + 2048 * s + v_lane.row +
                                      (v_lane.chunk ^ static_cast<uint32_t>((2 * n & 7) << 4)));
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        multiply_add(state.out[m][2 * n], a[m][0], a[m][1], a[m][2], a[m][3], b[0], b[1]);
        multiply_add(state.out[m][2 * n + 1], a[m][0], a[m][1], a[m][2], a[m][3], b[2], b[3]);
      }
    }
  }
}

#endif

}  // namespace leanedge::cuda
