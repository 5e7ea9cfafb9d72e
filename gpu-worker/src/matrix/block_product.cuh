// The product of quantised weights with up to 128 rows of activations: read once in their own form,
// dequantised in registers on the way to the tensor cores.
//
// A thread block takes 256 rows of the matrix, a warp 32 of them; the activations of a step of 128
// columns lie in shared memory for all warps. Weights come as in vector_product.cuh: each lane copies
// what it will read. The line of (row block, step) is cut into equal shares, so that no multiprocessor
// waits for another; parts of a row block are added up through global memory in the line's order.
#pragma once

#include "../kernels/warp_ops.cuh"
#include "block_product.h"
#include "fragments.cuh"
#include "layout.h"

namespace leanedge::cuda {

template <MatrixForm kForm, int kColumns>  // kColumns: 8 rows of activations each
struct BlockShape {
  static constexpr bool kScales = kForm == MatrixForm::kInt8 || kForm == MatrixForm::kInt4;
  static constexpr int kInputs = 8 * kColumns;
  static constexpr int kChunks = kForm == MatrixForm::kInt4 ? 2 : 4;  // of a lane, tile and step
  static constexpr int kTileBytes = kChunks * 512 + (kScales ? kScaleBytes : 0);
  static constexpr int kWarpBytes = kWarpTiles * kTileBytes;
  static constexpr int kInputBytes = kStepUnits * kInputs * 64;
  static constexpr int kStageBytes = kBlockWarps * kWarpBytes + kInputBytes;
  static constexpr int kStagesFit = (224 * 1024) / kStageBytes;
  static constexpr int kStages = kStagesFit < 6 ? kStagesFit : 6;
  static constexpr int kSharedBytes = kStages * kStageBytes;
  static constexpr int kFragments = kWarpTiles * kColumns;
  static_assert(kStages >= 3);
};

// The first product of a unit, from zero.
__device__ __forceinline__ void multiply_unit_first(float (&c)[4], const UnitOperand& a,
                                                    const uint4& b) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%10, %10, %10, %10};\n"
      : "=f"(c[0]), "=f"(c[1]), "=f"(c[2]), "=f"(c[3])
      : "r"(a.first[0]), "r"(a.first[1]), "r"(a.first[2]), "r"(a.first[3]), "r"(b.x), "r"(b.y),
        "f"(0.0f));
}

__device__ __forceinline__ uint4 load_block_chunk(uint32_t address) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(address));
  return v;
}

// Copies a step of this warp's tiles.
template <typename Shape>
__device__ __forceinline__ void block_load_weights(const BlockArgs& args, int row_block, int step,
                                                   uint32_t stage, int warp, int lane) {
  const int tiles = tiles_of(args.rows);
#pragma unroll
  for (int i = 0; i < kWarpTiles; ++i) {
    // Tiles beyond the last one are read again: nobody takes their sums.
    const int tile = min(row_block * (kBlockRows / kTileRows) + warp * kWarpTiles + i, tiles - 1);
    const uint8_t* from =
        args.data + static_cast<int64_t>(tile) * args.tile_bytes + step * Shape::kTileBytes;
    const uint32_t to = stage + warp * Shape::kWarpBytes + i * Shape::kTileBytes;
#pragma unroll
    for (int chunk = 0; chunk < Shape::kChunks; ++chunk) {
      copy_async_16(to + chunk * 512 + lane * 16, from + chunk * 512 + lane * 16);
    }
    if (Shape::kScales && lane < 8) {
      copy_async_16(to + Shape::kChunks * 512 + lane * 16, from + Shape::kChunks * 512 + lane * 16);
    }
  }
}

// Copies this thread's share of a step of the activations: chunk c of 8 columns of row n goes to
// ((c / 4) * kInputs + n) * 64 + c % 4 * 16.
template <typename Shape>
__device__ __forceinline__ void block_load_inputs(const BlockArgs& args, int step, uint32_t stage) {
  constexpr int kAll = Shape::kInputs * kStepCols / 8;
  const uint32_t to = stage + kBlockWarps * Shape::kWarpBytes;
#pragma unroll
  for (int base = 0; base < kAll; base += kBlockThreads) {
    const int i = base + static_cast<int>(threadIdx.x);
    const int n = i / 4 % Shape::kInputs;
    const int col = step * kStepCols + i / (4 * Shape::kInputs) * kUnitCols + i % 4 * 8;
    // Rows beyond the last one are read again; columns beyond it are zero, as their weights are.
    const uint16_t* from =
        args.x + static_cast<size_t>(min(n, args.inputs - 1)) * static_cast<size_t>(args.cols);
    copy_async_16_or_zero(to + i * 16, from + min(col, args.cols - 8), col < args.cols);
  }
}

// sums += a step.
template <MatrixForm kForm, typename Shape, int kColumns>
__device__ __forceinline__ void block_step(float (&sums)[kWarpTiles][kColumns][4], uint32_t stage,
                                           uint32_t code_base, int warp, int lane) {
  const uint32_t weights = stage + warp * Shape::kWarpBytes;
  const uint32_t inputs = stage + kBlockWarps * Shape::kWarpBytes + lane * 16;
  constexpr int kTogether = kColumns < 4 ? kColumns : 4;
  // Many sums leave no registers for operands of several units.
  constexpr int kUnroll = kColumns >= 8 ? 1 : kStepUnits;
#pragma unroll kUnroll
  for (int unit = 0; unit < kStepUnits; ++unit) {
    UnitOperand a[kWarpTiles];
    float2 scale[kWarpTiles];
#pragma unroll
    for (int i = 0; i < kWarpTiles; ++i) {
      const uint32_t chunk = weights + i * Shape::kTileBytes + lane * 16;
      if constexpr (kForm == MatrixForm::kInt4) {
        uint2 two;
        asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];\n"
                     : "=r"(two.x), "=r"(two.y)
                     : "r"(chunk + unit / 2 * 512 + unit % 2 * 8));
        a[i] = unit_nibbles_exact(two.x, two.y, code_base);
      } else {
        const uint4 four = load_block_chunk(chunk + unit * 512);
        a[i] = unit_bytes<kForm>(four.x, four.y, four.z, four.w, code_base);
      }
      if constexpr (Shape::kScales) {
        uint32_t pair;
        asm volatile("ld.shared.u32 %0, [%1];\n"
                     : "=r"(pair)
                     : "r"(weights + i * Shape::kTileBytes + Shape::kChunks * 512 + lane / 4 * 16 +
                           unit * 4));
        scale[i] = __half22float2(*reinterpret_cast<const __half2*>(&pair));
      }
    }
    // Products of a few columns of activations in turns: each waits for none of its own.
#pragma unroll
    for (int base = 0; base < kColumns; base += kTogether) {
      uint4 b[kTogether];
#pragma unroll
      for (int j = 0; j < kTogether; ++j) {
        b[j] = load_block_chunk(inputs + (unit * kColumns + base + j) * 512);
      }
      if constexpr (Shape::kScales) {
        float part[kWarpTiles][kTogether][4];
#pragma unroll
        for (int j = 0; j < kTogether; ++j) {
#pragma unroll
          for (int i = 0; i < kWarpTiles; ++i) multiply_unit_first(part[i][j], a[i], b[j]);
        }
#pragma unroll
        for (int j = 0; j < kTogether; ++j) {
#pragma unroll
          for (int i = 0; i < kWarpTiles; ++i) {
            multiply_unit_half<false>(part[i][j], a[i].second, b[j].z, b[j].w);
          }
        }
#pragma unroll
        for (int j = 0; j < kTogether; ++j) {
#pragma unroll
          for (int i = 0; i < kWarpTiles; ++i) {
            float(&to)[4] = sums[i][base + j];
            to[0] += part[i][j][0] * scale[i].x;
            to[1] += part[i][j][1] * scale[i].x;
            to[2] += part[i][j][2] * scale[i].y;
            to[3] += part[i][j][3] * scale[i].y;
          }
        }
      } else {
#pragma unroll
        for (int j = 0; j < kTogether; ++j) {
#pragma unroll
          for (int i = 0; i < kWarpTiles; ++i) {
            multiply_unit_half<false>(sums[i][base + j], a[i].first, b[j].x, b[j].y);
          }
        }
#pragma unroll
        for (int j = 0; j < kTogether; ++j) {
#pragma unroll
          for (int i = 0; i < kWarpTiles; ++i) {
            multiply_unit_half<false>(sums[i][base + j], a[i].second, b[j].z, b[j].w);
          }
        }
      }
    }
  }
}

// The epilogue of one fragment: rows `row` and row + 8, inputs n and n + 1. All lanes of a warp call.
__device__ __forceinline__ void block_store(const BlockArgs& args, const float4& sums, int row,
                                            int n) {
  const float values[4] = {sums.x, sums.y, sums.z, sums.w};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int r = row + 8 * half;
    const bool row_valid = r < args.rows;
    const float scale = row_valid && args.row_scales ? __ldg(args.row_scales + r) : 1.0f;
    const float bias = row_valid && args.bias ? __ldg(args.bias + r) : 0.0f;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float y = values[2 * half + i] * scale + bias;
      const float up = __shfl_down_sync(~0u, y, 4);  // row r + 1
      if (!row_valid || n + i >= args.inputs) continue;
      const size_t to = static_cast<size_t>(n + i) * static_cast<size_t>(args.rows) + r;
      switch (args.output) {
        case MatrixOutput::kBf16:
          static_cast<__nv_bfloat16*>(args.out)[to] = __float2bfloat16_rn(y);
          break;
        case MatrixOutput::kF32: static_cast<float*>(args.out)[to] = y; break;
        case MatrixOutput::kResidual: {
          float* out = static_cast<float*>(args.out) + to;
          *out = __ldcg(out) + y;
          break;
        }
        case MatrixOutput::kSwiglu:
          if (r % 2 == 0) {
            static_cast<__nv_bfloat16*>(args.out)[to / 2] =
                __float2bfloat16_rn(y / (1.0f + __expf(-y)) * up);
          }
          break;
      }
    }
  }
}

// Adds up and stores fragments begin .. end - 1 of a row block from the parts of thread blocks
// first .. last.
template <int kColumns>
__device__ __forceinline__ void block_merge(const BlockArgs& args, int row_block, int first,
                                            int last, int begin, int end, int warp, int lane) {
  constexpr int kFragments = kWarpTiles * kColumns;
  for (int f = begin; f < end; ++f) {
    float4 sum = {0, 0, 0, 0};
#pragma unroll 4
    for (int block = first; block <= last; ++block) {
      // A block's first part lies in its first place, any later one in its second.
      const int place = 2 * block + (block * args.share / args.steps == row_block ? 0 : 1);
      const float4 part = __ldcg(args.parts + (static_cast<int64_t>(place) * kFragments + f) *
                                                  kBlockThreads + threadIdx.x);
      sum.x += part.x;
      sum.y += part.y;
      sum.z += part.z;
      sum.w += part.w;
    }
    block_store(args, sum,
                row_block * kBlockRows + (warp * kWarpTiles + f / kColumns) * kTileRows + lane / 4,
                f % kColumns * 8 + lane % 4 * 2);
  }
}

template <MatrixForm kForm, int kColumns>
__global__ void __launch_bounds__(kBlockThreads, 1) kernel_matrix_block(const BlockArgs args) {
  using Shape = BlockShape<kForm, kColumns>;
  extern __shared__ __align__(128) uint8_t shared[];
  __shared__ uint32_t arrivals;
  const uint32_t ring = shared_address(shared);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int block = static_cast<int>(blockIdx.x);
  const int begin = block * args.share;
  // Sliced: the last share of a row block may be longer than what is left of it.
  const int end = args.sliced ? min(begin + args.share,
                                    begin / args.steps * args.steps + args.steps_real)
                              : min(begin + args.share, args.total);

  // Weights do not depend on the kernel before, activations do.
#pragma unroll 1
  for (int i = 0; i + 1 < Shape::kStages; ++i) {
    const int at = begin + i;
    if (at < end) {
      block_load_weights<Shape>(args, at / args.steps, at % args.steps, ring + i * Shape::kStageBytes,
                                warp, lane);
    }
  }
  wait_for_previous_kernel();
#pragma unroll 1
  for (int i = 0; i + 1 < Shape::kStages; ++i) {
    const int at = begin + i;
    if (at < end) block_load_inputs<Shape>(args, at % args.steps, ring + i * Shape::kStageBytes);
    copy_async_commit();
  }

  int drain = 0;
  int fill = Shape::kStages - 1;
  int at = begin;
  int ahead = begin + Shape::kStages - 1;
  int ahead_block = ahead / args.steps;
  int ahead_step = ahead % args.steps;
  while (at < end) {
    const int row_block = at / args.steps;
    const int block_begin = row_block * args.steps;
    const int segment_end = min(end, block_begin + args.steps);
    const bool whole = at == block_begin && segment_end == block_begin + args.steps_real;
    const bool first_segment = at == begin;
    float sums[kWarpTiles][kColumns][4] = {};
#pragma unroll 1
    for (; at < segment_end; ++at) {
      copy_async_wait_for<Shape::kStages - 2>();
      __syncthreads();
      if (ahead < end) {
        const uint32_t stage = ring + fill * Shape::kStageBytes;
        block_load_weights<Shape>(args, ahead_block, ahead_step, stage, warp, lane);
        block_load_inputs<Shape>(args, ahead_step, stage);
        ++ahead;
        if (++ahead_step == args.steps) {
          ahead_step = 0;
          ++ahead_block;
        }
      }
      copy_async_commit();
      if (++fill == Shape::kStages) fill = 0;
      block_step<kForm, Shape, kColumns>(sums, ring + drain * Shape::kStageBytes,
                                          args.code_base, warp, lane);
      if (++drain == Shape::kStages) drain = 0;
    }
    if (whole) {
#pragma unroll
      for (int f = 0; f < Shape::kFragments; ++f) {
        const float(&s)[4] = sums[f / kColumns][f % kColumns];
        block_store(args, {s[0], s[1], s[2], s[3]},
                    row_block * kBlockRows + (warp * kWarpTiles + f / kColumns) * kTileRows +
                        lane / 4,
                    f % kColumns * 8 + lane % 4 * 2);
      }
      continue;
    }
    float4* part = args.parts + static_cast<int64_t>(2 * block + (first_segment ? 0 : 1)) *
                                    Shape::kFragments * kBlockThreads;
#pragma unroll
    for (int f = 0; f < Shape::kFragments; ++f) {
      const float(&s)[4] = sums[f / kColumns][f % kColumns];
      __stcg(part + f * kBlockThreads + threadIdx.x, make_float4(s[0], s[1], s[2], s[3]));
    }
    __threadfence();
    __syncthreads();
    const int first = block_begin / args.share;
    const int last = (block_begin + args.steps - 1) / args.share;
    const uint32_t count = static_cast<uint32_t>(last - first + 1);
    if (threadIdx.x == 0) {
      arrivals = atomicAdd(args.arrived + row_block, 1u) + 1;
      if (args.sliced) {
        while (*reinterpret_cast<volatile uint32_t*>(args.arrived + row_block) < count) {
        }
        __threadfence();
        if (atomicAdd(args.left + row_block, 1u) + 1 == count) {
          args.left[row_block] = 0;
          args.arrived[row_block] = 0;
        }
      } else if (arrivals == count) {
        __threadfence();
        args.arrived[row_block] = 0;
      }
    }
    __syncthreads();
    if (args.sliced) {
      const int index = block - first;
      block_merge<kColumns>(args, row_block, first, last,
                            Shape::kFragments * index / static_cast<int>(count),
                            Shape::kFragments * (index + 1) / static_cast<int>(count), warp, lane);
    } else if (arrivals == count) {
      block_merge<kColumns>(args, row_block, first, last, 0, Shape::kFragments, warp, lane);
    }
  }
}

template <MatrixForm kForm, int kColumns>
BlockForm block_form_columns() {
  using Shape = BlockShape<kForm, kColumns>;
  return {kernel_matrix_block<kForm, kColumns>, Shape::kSharedBytes, Shape::kFragments};
}

template <MatrixForm kForm>
BlockForm block_form(int32_t inputs) {
  if (inputs <= 16) return block_form_columns<kForm, 2>();
  if (inputs <= 32) return block_form_columns<kForm, 4>();
  if (inputs <= 64) return block_form_columns<kForm, 8>();
  return block_form_columns<kForm, 16>();
}

}  // namespace leanedge::cuda
