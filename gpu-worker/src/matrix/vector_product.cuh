// The product with up to 8 rows of activations: weights stream through once, at memory speed.
//
// A persistent grid, a block a multiprocessor. Blocks take tiles of 16 rows in turn; the warps of a
// block share a tile, each with a run of its columns, and add up in shared memory at its end. A warp
// has a ring of its own, filled by asynchronous copies that run on across tiles: each lane copies
// what it will read itself, so there is no barrier on that way. Weights do not depend on the kernel
// before: the rings fill, and the second-level cache is told of more, while that one still runs.
//
// Up to 8 rows of activations are the 8 columns of a tensor core product, so they cost what one
// does, and dequantising needs no multiplication by scales: these follow a unit of 32 columns later,
// on 4 sums a lane.
#pragma once

#include "../kernels/warp_ops.cuh"
#include "fragments.cuh"
#include "layout.h"
#include "vector_product.h"

namespace leanedge::cuda {

template <MatrixForm kForm>
struct VectorShape {
  static constexpr bool kRowMajor = kForm == MatrixForm::kBf16 || kForm == MatrixForm::kF16;
  static constexpr bool kScales = kForm == MatrixForm::kInt8 || kForm == MatrixForm::kInt4;
  static constexpr int kUnits = kRowMajor ? 2 : kStepUnits;  // of a step
  static constexpr int kStep = kUnits * kUnitCols;           // columns
  static constexpr int kChunks = kForm == MatrixForm::kInt4 ? 2 : 4;  // of a lane and step
  static constexpr int kStageBytes = kChunks * 512 + (kScales ? kScaleBytes : 0);
  static constexpr int kStages = kForm == MatrixForm::kInt4 ? 7 : 4;
  static constexpr int kWarpBytes = kStages * kStageBytes;
};

__device__ __forceinline__ uint4 load_chunk(uint32_t address) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(address));
  return v;
}

// A warp's walk over its steps of its tiles.
struct VectorWalk {
  const uint8_t* tile_data;  // where its part of the tile begins
  int32_t tile;
  int32_t step;
};

// Copies a step to `stage`; nothing where the walk is over.
template <MatrixForm kForm>
__device__ __forceinline__ void vector_load(const VectorArgs& args, const VectorWalk& walk,
                                            uint32_t stage, int lane) {
  using Shape = VectorShape<kForm>;
  if constexpr (Shape::kRowMajor) {
    const int g = lane / 4;
    const int t = lane % 4;
    const int col = walk.step * Shape::kStep + 8 * t;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      // Rows beyond the last one are read again: nobody takes their sums.
      const int row = min(walk.tile * kTileRows + g + 8 * half, args.rows - 1);
      const uint8_t* from =
          args.data + static_cast<size_t>(row) * static_cast<size_t>(args.row_bytes);
#pragma unroll
      for (int unit = 0; unit < Shape::kUnits; ++unit) {
        const int at = col + unit * kUnitCols;
        copy_async_16_or_zero(stage + (unit * 2 + half) * 512 + lane * 16,
                              from + 2 * min(at, args.cols - 8), at < args.cols);
      }
    }
  } else {
    const uint8_t* from = args.data + static_cast<int64_t>(walk.tile) * args.tile_bytes +
                          walk.step * Shape::kStageBytes;
#pragma unroll
    for (int chunk = 0; chunk < Shape::kChunks; ++chunk) {
      copy_async_16(stage + chunk * 512 + lane * 16, from + chunk * 512 + lane * 16);
    }
    if (Shape::kScales && lane < 8) {
      copy_async_16(stage + Shape::kChunks * 512 + lane * 16,
                    from + Shape::kChunks * 512 + lane * 16);
    }
  }
}

// sums += the step at `stage` times the activations at `x` (this lane's chunk of the step's first
// unit; the next unit's lies x_unit bytes on).
template <MatrixForm kForm>
__device__ __forceinline__ void vector_step(float (&sums)[2][4], uint32_t stage, uint32_t x,
                                            uint32_t x_unit, int lane) {
  using Shape = VectorShape<kForm>;
  uint4 chunks[Shape::kChunks];
#pragma unroll
  for (int i = 0; i < Shape::kChunks; ++i) {
    chunks[i] = load_chunk(stage + i * 512 + lane * 16);
  }
  if constexpr (Shape::kRowMajor) {
#pragma unroll
    for (int unit = 0; unit < Shape::kUnits; ++unit) {
      const uint4& low = chunks[2 * unit];
      const uint4& high = chunks[2 * unit + 1];
      const UnitOperand a = {{low.x, high.x, low.y, high.y}, {low.z, high.z, low.w, high.w}};
      multiply_unit<kForm == MatrixForm::kF16>(sums[unit % 2], a,
                                               load_chunk(x + unit * x_unit));
    }
  } else {
    uint32_t scales[4];
    if constexpr (Shape::kScales) {
      const uint4 s = load_chunk(stage + Shape::kChunks * 512 + lane / 4 * 16);
      scales[0] = s.x;
      scales[1] = s.y;
      scales[2] = s.z;
      scales[3] = s.w;
    }
#pragma unroll
    for (int unit = 0; unit < Shape::kUnits; ++unit) {
      const uint4 b = load_chunk(x + unit * x_unit);
      UnitOperand a;
      if constexpr (kForm == MatrixForm::kInt4) {
        const uint4& two = chunks[unit / 2];
        a = unit % 2 ? unit_nibbles(two.z, two.w) : unit_nibbles(two.x, two.y);
      } else {
        a = unit_bytes<kForm>(chunks[unit].x, chunks[unit].y, chunks[unit].z, chunks[unit].w);
      }
      if constexpr (Shape::kScales) {
        float part[4] = {};
        multiply_unit<false>(part, a, b);
        const float2 scale = __half22float2(*reinterpret_cast<const __half2*>(&scales[unit]));
        sums[unit % 2][0] += part[0] * scale.x;
        sums[unit % 2][1] += part[1] * scale.x;
        sums[unit % 2][2] += part[2] * scale.y;
        sums[unit % 2][3] += part[3] * scale.y;
      } else {
        multiply_unit<false>(sums[unit % 2], a, b);
      }
    }
  }
}

template <bool kF16>
__device__ __forceinline__ uint32_t activation_pair(float a, float b) {
  if constexpr (kF16) {
    constexpr float kMost = 65504.0f;
    return pack_half2(fminf(fmaxf(a, -kMost), kMost), fminf(fmaxf(b, -kMost), kMost));
  } else {
    const __nv_bfloat162 two = __floats2bfloat162_rn(a, b);
    return *reinterpret_cast<const uint32_t*>(&two);
  }
}

__device__ __forceinline__ float bf16_low(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float bf16_high(uint32_t pair) {
  return __uint_as_float(pair & 0xffff0000u);
}

// Puts the activations where lanes find theirs: chunk of 8 columns c of row n at
// ((c / 4) * inputs + n) * 64 + c % 4 * 16. norm_x is multiplied by the norm's weight only: 1/rms is a
// factor of the whole row and follows at the end. Its sum of squares goes to `squares`, a part a warp.
template <bool kF16>
__device__ __forceinline__ void vector_activations(const VectorArgs& args, uint4* to,
                                                   float* squares) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int pitch = args.inputs <= 1 ? 1 : args.inputs <= 2 ? 2 : args.inputs <= 4 ? 4 : 8;
  const int row_warps = kVectorWarps / pitch;
  const int n = warp / row_warps;
  const int chunks = args.cols / 8;
  const int chunks_padded = (args.cols + kStepCols - 1) / kStepCols * (kStepCols / 8);
  float square = 0;
  if (n < args.inputs) {
#pragma unroll 4
    for (int c = warp % row_warps * 32 + lane; c < chunks_padded; c += row_warps * 32) {
      uint4 out = {0, 0, 0, 0};
      if (c < chunks) {
        const size_t at =
            static_cast<size_t>(n) * static_cast<size_t>(args.x_pitch) + static_cast<size_t>(8 * c);
        if (args.norm_x) {
          const float4* from = reinterpret_cast<const float4*>(args.norm_x + at);
          const float4* weight = reinterpret_cast<const float4*>(args.norm_weight + 8 * c);
          const float4 a = __ldcg(from);
          const float4 b = __ldcg(from + 1);
          const float4 u = __ldg(weight);
          const float4 v = __ldg(weight + 1);
          square += a.x * a.x + a.y * a.y + a.z * a.z + a.w * a.w;
          square += b.x * b.x + b.y * b.y + b.z * b.z + b.w * b.w;
          out.x = activation_pair<kF16>(a.x * u.x, a.y * u.y);
          out.y = activation_pair<kF16>(a.z * u.z, a.w * u.w);
          out.z = activation_pair<kF16>(b.x * v.x, b.y * v.y);
          out.w = activation_pair<kF16>(b.z * v.z, b.w * v.w);
        } else {
          out = __ldcg(reinterpret_cast<const uint4*>(args.x + at));
          if constexpr (kF16) {
            out.x = activation_pair<true>(bf16_low(out.x), bf16_high(out.x));
            out.y = activation_pair<true>(bf16_low(out.y), bf16_high(out.y));
            out.z = activation_pair<true>(bf16_low(out.z), bf16_high(out.z));
            out.w = activation_pair<true>(bf16_low(out.w), bf16_high(out.w));
          }
        }
      }
      to[(c / 4 * args.inputs + n) * 4 + c % 4] = out;
    }
  }
  if (args.norm_x) {
#pragma unroll
    for (int d = 16; d > 0; d /= 2) square += __shfl_xor_sync(~0u, square, d);
    if (lane == 0) squares[warp] = square;
  }
}

// 1/rms of row n, from the parts of its warps.
__device__ __forceinline__ float vector_norm(const VectorArgs& args, const float* squares, int n) {
  if (!args.norm_x) return 1.0f;
  const int pitch = args.inputs <= 1 ? 1 : args.inputs <= 2 ? 2 : args.inputs <= 4 ? 4 : 8;
  const int row_warps = kVectorWarps / pitch;
  float sum = 0;
  for (int i = 0; i < row_warps; ++i) sum += squares[n * row_warps + i];
  return rsqrtf(sum / static_cast<float>(args.cols) + args.norm_eps);
}

// The end of a tile: adds up its warps' sums, applies the epilogue. Called by all warps of the tile.
__device__ __forceinline__ void vector_finish(const VectorArgs& args, int tile, const float* sums,
                                              const float* squares, int k_warp, int lane,
                                              int barrier) {
  const int outputs = kTileRows * args.inputs;
  const int first = k_warp * 32 + lane;
  // What the epilogue reads does not depend on the sums: it is on its way before the barrier.
  const int row_first = tile * kTileRows + first % kTileRows;
  const bool mine = first < outputs && row_first < args.rows;
  float scale = 1.0f;
  float addend = 0;
  float* residual = static_cast<float*>(args.out);
  if (mine) {
    if (args.row_scales) scale = __ldg(args.row_scales + row_first);
    if (args.bias) addend = __ldg(args.bias + row_first);
    if (args.output == MatrixOutput::kResidual) {
      addend += __ldcg(residual + static_cast<size_t>(first / kTileRows) *
                                      static_cast<size_t>(args.rows) + row_first);
    }
  }
  asm volatile("bar.sync %0, %1;\n" ::"r"(barrier), "r"(32 * args.k_warps) : "memory");
  for (int base = k_warp * 32; base < outputs; base += 32 * args.k_warps) {
    const int at = base + lane;
    const int n = at / kTileRows;
    const int row = tile * kTileRows + at % kTileRows;
    const bool valid = at < outputs && row < args.rows;
    float y = 0;
    if (valid) {
      for (int w = 0; w < args.k_warps; ++w) y += sums[w * 128 + at];
      y *= vector_norm(args, squares, n);
      if (at == first) {
        y = y * scale + addend;
      } else {
        if (args.row_scales) y *= __ldg(args.row_scales + row);
        if (args.bias) y += __ldg(args.bias + row);
        if (args.output == MatrixOutput::kResidual) {
          y += __ldcg(residual + static_cast<size_t>(n) * static_cast<size_t>(args.rows) + row);
        }
      }
    }
    const float up = __shfl_down_sync(~0u, y, 1);
    if (!valid) continue;
    const size_t to = static_cast<size_t>(n) * static_cast<size_t>(args.rows) + row;
    switch (args.output) {
      case MatrixOutput::kBf16:
        static_cast<__nv_bfloat16*>(args.out)[to] = __float2bfloat16_rn(y);
        break;
      case MatrixOutput::kF32:
      case MatrixOutput::kResidual: residual[to] = y; break;
      case MatrixOutput::kSwiglu:
        if (row % 2 == 0) {
          static_cast<__nv_bfloat16*>(args.out)[to / 2] =
              __float2bfloat16_rn(y / (1.0f + __expf(-y)) * up);
        }
        break;
    }
  }
}

template <MatrixForm kForm>
__global__ void __launch_bounds__(kVectorThreads, 1) kernel_matrix_vector(const VectorArgs args) {
  using Shape = VectorShape<kForm>;
  extern __shared__ __align__(128) uint8_t shared[];
  float* sums_all = reinterpret_cast<float*>(shared + kVectorWarps * Shape::kWarpBytes);
  float* squares = sums_all + kVectorSumBytes / 4;
  uint4* activations = reinterpret_cast<uint4*>(squares + kVectorNormBytes);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int groups = kVectorWarps / args.k_warps;
  const int group = warp / args.k_warps;
  const int k_warp = warp % args.k_warps;
  const uint32_t ring = shared_address(shared + warp * Shape::kWarpBytes);
  const int step_begin = args.steps * k_warp / args.k_warps;
  const int step_end = args.steps * (k_warp + 1) / args.k_warps;
  const int stride = static_cast<int>(gridDim.x) * groups;
  const int tile_first = static_cast<int>(blockIdx.x) * groups + group;

  VectorWalk ahead = {nullptr, tile_first, step_begin};
  int fill = 0;
  auto load_next = [&]() {
    if (ahead.tile < args.tiles && step_begin < step_end) {
      vector_load<kForm>(args, ahead, ring + fill * Shape::kStageBytes, lane);
      if (++ahead.step == step_end) {
        ahead.step = step_begin;
        ahead.tile += stride;
      }
      if (++fill == Shape::kStages) fill = 0;
    }
    copy_async_commit();
  };
#pragma unroll 1
  for (int i = 0; i + 1 < Shape::kStages; ++i) load_next();
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if (args.prefetch_bytes > 0 && lane == 0) {
    // This warp's share of what its block reads first, beyond the ring.
    const int64_t part = args.tile_bytes / args.k_warps / 16 * 16;
    int64_t left = args.prefetch_bytes / kVectorWarps;
    for (int tile = tile_first; tile + 1 < args.tiles && left > 0; tile += stride) {
      const uint8_t* from = args.data + static_cast<int64_t>(tile) * args.tile_bytes + k_warp * part;
      const uint32_t bytes = static_cast<uint32_t>(part < left ? part : left) / 16 * 16;
      if (bytes == 0) break;
      asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;\n" ::"l"(from), "r"(bytes)
                   : "memory");
      left -= bytes;
    }
  }
#endif
  wait_for_previous_kernel();
  vector_activations<kForm == MatrixForm::kF16>(args, activations, squares);
  __syncthreads();

  const uint32_t x_unit = static_cast<uint32_t>(64 * args.inputs);
  const uint32_t x_lane = shared_address(activations) +
                          static_cast<uint32_t>(64 * min(lane / 4, args.inputs - 1) + 16 * (lane % 4));
  int drain = 0;
  int buffer = 0;
  for (int tile = tile_first; tile < args.tiles; tile += stride) {
    float sums[2][4] = {};
#pragma unroll 1
    for (int step = step_begin; step < step_end; ++step) {
      copy_async_wait_for<Shape::kStages - 2>();
      __syncwarp();
      load_next();
      vector_step<kForm>(sums, ring + drain * Shape::kStageBytes,
                         x_lane + static_cast<uint32_t>(step * Shape::kUnits) * x_unit, x_unit, lane);
      if (++drain == Shape::kStages) drain = 0;
    }
    // Sums of a warp: (8 inputs, 16 rows). Two buffers, so that one barrier a tile is enough.
    float* tile_sums = sums_all + buffer * (kVectorWarps * 128) + group * args.k_warps * 128;
    float* own = tile_sums + k_warp * 128;
    const int g = lane / 4;
    const int n = lane % 4 * 2;
    if (n < args.inputs) {
      own[n * 16 + g] = sums[0][0] + sums[1][0];
      own[n * 16 + g + 8] = sums[0][2] + sums[1][2];
    }
    if (n + 1 < args.inputs) {
      own[n * 16 + 16 + g] = sums[0][1] + sums[1][1];
      own[n * 16 + 16 + g + 8] = sums[0][3] + sums[1][3];
    }
    vector_finish(args, tile, tile_sums, squares, k_warp, lane, 1 + group);
    buffer ^= 1;
  }
}

template <MatrixForm kForm>
VectorForm vector_form() {
  using Shape = VectorShape<kForm>;
  return {kernel_matrix_vector<kForm>, Shape::kStep, kVectorWarps * Shape::kWarpBytes};
}

}  // namespace leanedge::cuda
