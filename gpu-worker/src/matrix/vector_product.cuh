// The product with few rows of activations: weights stream through once, at memory speed.
//
// A persistent grid: a block of 16 warps a multiprocessor, or two of 8 (int4), of which the one that ends first makes room
// for the kernel to come. Blocks take tiles of 16 rows in turn; the warps of a
// group share a tile, each with a run of its columns and of the activations. A warp has a ring of its
// own, filled by asynchronous copies that run on across tiles: each lane copies what it will read
// itself. Sums of a tile lie in one of two buffers until one warp, another for each tile, adds them
// up; the others go on. Nothing makes all warps wait for each other.
//
// Weights do not depend on the kernel before: the rings fill while that one still runs. Activations do: when it has ended,
// a warp reads those of its columns. One copy for all groups would be read once, but all warps would wait for it: 3 % slower.
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
  static constexpr bool kUnitSums = kForm == MatrixForm::kInt4;
  static constexpr int kUnits = kRowMajor ? 2 : kStepUnits;  // of a step
  static constexpr int kStep = kUnits * kUnitCols;            // columns
  static constexpr int kChunks = kForm == MatrixForm::kInt4 ? 2 : 4;  // of a lane and step
  static constexpr int kStageBytes = kChunks * 512 + (kScales ? kScaleBytes : 0);
  static constexpr int kStages = kForm == MatrixForm::kInt4 ? 5 : 3;
  static constexpr int kWarpBytes = kStages * kStageBytes;
};

// A warp's part of a product.
struct VectorPart {
  int32_t group;       // of warps that share a tile
  int32_t k_warp;      // of the group
  int32_t step_begin;  // of each tile
  int32_t step_end;
  int32_t tile_first;  // of the group
  int32_t stride;      // to its next tile
};

template <int kWarps>
__device__ __forceinline__ VectorPart vector_part(const VectorArgs& args, int warp) {
  const int groups = kWarps / args.k_warps;
  VectorPart part;
  part.group = warp / args.k_warps;
  part.k_warp = warp % args.k_warps;
  part.step_begin = args.steps * part.k_warp / args.k_warps;
  part.step_end = args.steps * (part.k_warp + 1) / args.k_warps;
  part.tile_first = static_cast<int>(blockIdx.x) * groups + part.group;
  part.stride = static_cast<int>(gridDim.x) * groups;
  return part;
}

// A warp's walk over its steps of its tiles: what is to be asked for next.
struct VectorWalk {
  const uint8_t* low;   // this lane's next chunk; row-major: of row g
  const uint8_t* high;  // row-major: of row g + 8
  int32_t tile;
  int32_t step;
  int32_t left;         // steps
};

template <MatrixForm kForm>
__device__ __forceinline__ void vector_walk_tile(const VectorArgs& args, VectorWalk* walk, int lane) {
  using Shape = VectorShape<kForm>;
  if constexpr (Shape::kRowMajor) {
    // Rows beyond the last one are read again: nobody takes their sums.
    const int row = walk->tile * kTileRows + lane / 4;
    const size_t col = static_cast<size_t>(walk->step * Shape::kStep + 8 * (lane % 4)) * 2;
    walk->low = args.data + col +
                static_cast<size_t>(min(row, args.rows - 1)) * static_cast<size_t>(args.row_bytes);
    walk->high = args.data + col + static_cast<size_t>(min(row + 8, args.rows - 1)) *
                                       static_cast<size_t>(args.row_bytes);
  } else {
    walk->low = args.data + static_cast<int64_t>(walk->tile) * args.tile_bytes +
                walk->step * Shape::kStageBytes + lane * 16;
  }
}

// Copies a step to `stage`, this lane's place in the ring.
template <MatrixForm kForm>
__device__ __forceinline__ void vector_load(const VectorArgs& args, const VectorWalk& walk,
                                            uint32_t stage, int lane) {
  using Shape = VectorShape<kForm>;
  if constexpr (Shape::kRowMajor) {
#pragma unroll
    for (int unit = 0; unit < Shape::kUnits; ++unit) {
      const bool valid = walk.step * Shape::kStep + unit * kUnitCols + 8 * (lane % 4) < args.cols;
      const int at = valid ? unit * kUnitCols * 2 : 0;
      copy_async_16_or_zero(stage + (unit * 2) * 512, valid ? walk.low + at : args.data, valid);
      copy_async_16_or_zero(stage + (unit * 2 + 1) * 512, valid ? walk.high + at : args.data, valid);
    }
  } else {
#pragma unroll
    for (int chunk = 0; chunk < Shape::kChunks; ++chunk) {
      copy_async_16(stage + chunk * 512, walk.low + chunk * 512);
    }
    if (Shape::kScales && lane < 8) {
      copy_async_16(stage + Shape::kChunks * 512, walk.low + Shape::kChunks * 512);
    }
  }
}

// sums += the step at `stage` times the activations at `x` (this lane's chunk of the step's first
// unit; the next unit's lies x_unit bytes on). unit_sums: this lane's two sums of the first unit.
template <MatrixForm kForm>
__device__ __forceinline__ void vector_step(float (&sums)[2][4], uint32_t stage, uint32_t x,
                                            uint32_t x_unit, uint32_t unit_sums, uint32_t code_base,
                                            int lane) {
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
      multiply_unit<kForm == MatrixForm::kF16>(sums[unit % 2], a, load_chunk(x + unit * x_unit));
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
        a = unit % 2 ? unit_nibbles(two.z, two.w, code_base)
                     : unit_nibbles(two.x, two.y, code_base);
      } else {
        a = unit_bytes<kForm>(chunks[unit].x, chunks[unit].y, chunks[unit].z, chunks[unit].w,
                              code_base);
      }
      if constexpr (Shape::kScales) {
        float part[4] = {};
        if constexpr (Shape::kUnitSums) {
          const float2 two = load_two(unit_sums + unit * kUnitSumBytes);
          part[0] = part[2] = two.x;
          part[1] = part[3] = two.y;
        }
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
__device__ __forceinline__ float bf16_sum(uint32_t pair) { return bf16_low(pair) + bf16_high(pair); }

// Puts this warp's activations, chunks begin .. end - 1 of 8 columns (a multiple of 4 of them), where
// its lanes find them: chunk c of row n at ((c / 4) * inputs + n) * 64 + c % 4 * 16. norm_x is
// multiplied by the norm's weight only: 1/rms is a factor of the whole row and follows at the end; the
// sums of squares go to `squares` (inputs).
template <MatrixForm kForm>
__device__ __forceinline__ void vector_activations(const VectorArgs& args, int begin, int end,
                                                   uint4* to, float* unit_sums, float* squares,
                                                   int lane) {
  constexpr bool kF16 = kForm == MatrixForm::kF16;
  const int chunks = args.cols / 8;
  for (int n = 0; n < args.inputs; ++n) {
    const size_t row = static_cast<size_t>(n) * static_cast<size_t>(args.x_pitch);
    float square = 0;
#pragma unroll 4
    for (int base = begin; base < end; base += 32) {
      const int c = base + lane;
      uint4 out = {0, 0, 0, 0};
      if (c < chunks && c < end) {
        if (args.norm_x) {
          const float4* from = reinterpret_cast<const float4*>(args.norm_x + row + 8 * c);
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
          out = __ldcg(reinterpret_cast<const uint4*>(args.x + row + 8 * c));
          if constexpr (kF16) {
            out.x = activation_pair<true>(bf16_low(out.x), bf16_high(out.x));
            out.y = activation_pair<true>(bf16_low(out.y), bf16_high(out.y));
            out.z = activation_pair<true>(bf16_low(out.z), bf16_high(out.z));
            out.w = activation_pair<true>(bf16_low(out.w), bf16_high(out.w));
          }
        }
      }
      if (c < end) to[(c / 4 * args.inputs + n) * 4 + c % 4] = out;
      if constexpr (VectorShape<kForm>::kUnitSums) {
        float sum = (bf16_sum(out.x) + bf16_sum(out.y)) + (bf16_sum(out.z) + bf16_sum(out.w));
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        if (c < end && c % 4 == 0) unit_sums[c / 4 * (kUnitSumBytes / 4) + n] = -kInt4Excess * sum;
      }
    }
    if (args.norm_x) {
#pragma unroll
      for (int d = 16; d > 0; d /= 2) square += __shfl_xor_sync(~0u, square, d);
      if (lane == 0) squares[n] = square;
    }
  }
}

// Asks for what the kernel reads besides weights and activations, before it waits for the one before it: the norm's
// weights of chunks begin .. end - 1, and the scales and biases of this group's tiles. From memory they would take longer
// to come than the activations, and at the end of the last tile nothing else is on its way.
__device__ __forceinline__ void vector_ask_vectors(const VectorArgs& args, int begin, int end,
                                                   int tile_first, int stride, bool of_tiles,
                                                   int lane) {
  if (args.norm_x) {
    for (int c = begin + lane; c < min(end, args.cols / 8); c += 32) {
      prefetch_line(args.norm_weight + 8 * c);
    }
  }
  if (!of_tiles || (!args.row_scales && !args.bias)) return;
  for (int tile = tile_first + lane * stride; tile < args.tiles; tile += 32 * stride) {
    if (args.row_scales) prefetch_line(args.row_scales + tile * kTileRows);
    if (args.bias) prefetch_line(args.bias + tile * kTileRows);
  }
}

// Adds up a tile's sums, (k_warps, inputs, 16 rows), and applies the epilogue. One warp.
__device__ __forceinline__ void vector_finish(const VectorArgs& args, int tile, const float* sums,
                                              const float* squares, uint32_t full, uint32_t parity,
                                              int lane) {
  const int outputs = kTileRows * args.inputs;
  const int row = tile * kTileRows + lane % kTileRows;
  const bool row_valid = row < args.rows;
  float* residual = static_cast<float*>(args.out);
  // What the epilogue reads does not depend on the sums: it is on its way before the wait.
  const float scale = row_valid && args.row_scales ? __ldg(args.row_scales + row) : 1.0f;
  const float bias = row_valid && args.bias ? __ldg(args.bias + row) : 0.0f;
  const size_t to_first = static_cast<size_t>(lane / kTileRows) * static_cast<size_t>(args.rows) +
                          static_cast<size_t>(row);
  float before = 0;
  if (row_valid && lane < outputs && args.output == MatrixOutput::kResidual) {
    before = __ldcg(residual + to_first);
  }
  barrier_wait(full, parity);
  for (int base = 0; base < outputs; base += 32) {
    const int at = base + lane;
    const bool valid = at < outputs && row_valid;
    const size_t to = to_first + static_cast<size_t>(base / kTileRows) *
                                     static_cast<size_t>(args.rows);
    float y = 0;
    if (at < outputs) {
#pragma unroll 4
      for (int w = 0; w < args.k_warps; ++w) y += sums[w * outputs + at];
      if (args.norm_x) {
        float square = 0;
#pragma unroll 4
        for (int w = 0; w < args.k_warps; ++w) square += squares[w * 8 + at / kTileRows];
        y *= rsqrtf(square / static_cast<float>(args.cols) + args.norm_eps);
      }
      y = y * scale + bias;
    }
    const float up = __shfl_down_sync(~0u, y, 1);
    if (!valid) continue;
    switch (args.output) {
      case MatrixOutput::kBf16:
        static_cast<__nv_bfloat16*>(args.out)[to] = __float2bfloat16_rn(y);
        break;
      case MatrixOutput::kF32: residual[to] = y; break;
      case MatrixOutput::kResidual:
        residual[to] = y + (base == 0 ? before : __ldcg(residual + to));
        break;
      case MatrixOutput::kSwiglu:
        if (row % 2 == 0) {
          static_cast<__nv_bfloat16*>(args.out)[to / 2] =
              __float2bfloat16_rn(y / (1.0f + __expf(-y)) * up);
        }
        break;
    }
  }
}

// Asks for this warp's share of what the kernel to come reads: memory would be idle from the last weights of this one
// until the first of that one.
template <int kWarps>
__device__ __forceinline__ void vector_ask_next(const VectorArgs& args, int warp, int lane) {
  constexpr uint32_t kAtOnce = 4096;
  const uint32_t at = kAtOnce * static_cast<uint32_t>(lane);
  if (at >= args.next_bytes) return;
  const size_t share = static_cast<size_t>(blockIdx.x) * kWarps + static_cast<size_t>(warp);
  prefetch_l2(args.next + share * args.next_bytes + at, min(kAtOnce, args.next_bytes - at));
}

// Begins a warp's walk; where it has no steps, nothing is left.
template <MatrixForm kForm>
__device__ __forceinline__ VectorWalk vector_walk_begin(const VectorArgs& args, const VectorPart& part,
                                                        int lane) {
  VectorWalk walk = {};
  if (part.tile_first >= args.tiles || part.step_begin == part.step_end) return walk;
  walk.tile = part.tile_first;
  walk.step = part.step_begin;
  walk.left = (args.tiles - part.tile_first + part.stride - 1) / part.stride *
              (part.step_end - part.step_begin);
  vector_walk_tile<kForm>(args, &walk, lane);
  return walk;
}

template <MatrixForm kForm, int kWarps>
__global__ void __launch_bounds__(32 * kWarps, kVectorWarps / kWarps)
    kernel_matrix_vector(const __grid_constant__ VectorArgs args) {
  using Shape = VectorShape<kForm>;
  extern __shared__ __align__(128) uint8_t shared[];
  const int inputs = args.inputs;
  uint8_t* place = shared + kWarps * Shape::kWarpBytes;
  float* sums_all = reinterpret_cast<float*>(place);
  place += vector_sum_bytes(inputs, kWarps);
  float* squares_all = reinterpret_cast<float*>(place);
  place += kVectorSquareBytes;
  const uint32_t barriers_all = shared_address(place);
  place += kVectorBarrierBytes;

  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const uint32_t ring = shared_address(shared + warp * Shape::kWarpBytes);

  const VectorPart part = vector_part<kWarps>(args, warp);
  const int step_begin = part.step_begin;
  const int step_end = part.step_end;
  VectorWalk walk = vector_walk_begin<kForm>(args, part, lane);
  if (walk.left == 0) vector_ask_next<kWarps>(args, warp, lane);
  uint32_t fill = ring + static_cast<uint32_t>(lane * 16);
  const uint32_t fill_end = fill + Shape::kWarpBytes;
  auto load_next = [&]() {
    if (walk.left > 0) {
      vector_load<kForm>(args, walk, fill, lane);
      if (--walk.left == 0) {
        vector_ask_next<kWarps>(args, warp, lane);
      } else {
        constexpr int kAdvance = Shape::kRowMajor ? Shape::kStep * 2 : Shape::kStageBytes;
        walk.low += kAdvance;
        if constexpr (Shape::kRowMajor) walk.high += kAdvance;
        if (++walk.step == step_end) {
          walk.step = step_begin;
          walk.tile += part.stride;
          vector_walk_tile<kForm>(args, &walk, lane);
        }
      }
      fill += Shape::kStageBytes;
      if (fill == fill_end) fill -= Shape::kWarpBytes;
    }
    copy_async_commit();
  };
#pragma unroll 1
  for (int i = 0; i + 1 < Shape::kStages; ++i) load_next();
  // Barriers of a group of warps: kVectorBuffers that say "all sums are there", then as many "may be written again".
  for (int i = static_cast<int>(threadIdx.x); i < kWarps * kVectorBuffers; i += 32 * kWarps) {
    const int group = i / kVectorBuffers;  // as if each warp were one
    const uint32_t at = barriers_all + static_cast<uint32_t>((group * 2 * kVectorBuffers + i % kVectorBuffers) * 8);
    barrier_init(at, static_cast<uint32_t>(args.k_warps));
    barrier_init(at + kVectorBuffers * 8, 1);
  }
  __syncthreads();
  const int units = args.steps * Shape::kUnits;
  uint4* activations =
      reinterpret_cast<uint4*>(place + part.group * vector_group_bytes(units, inputs, Shape::kUnitSums));
  float* unit_sums = reinterpret_cast<float*>(activations + units * inputs * 4);
  float* squares = squares_all + part.group * args.k_warps * 8;
  const int col_begin = step_begin * Shape::kStep / 8;
  const int col_end = step_end * Shape::kStep / 8;
  vector_ask_vectors(args, col_begin, col_end, part.tile_first, part.stride, part.k_warp == 0, lane);
  wait_for_previous_kernel();
  vector_activations<kForm>(args, col_begin, col_end, activations, unit_sums, squares + part.k_warp * 8, lane);
  __syncwarp();

  const int warp_sums = kTileRows * inputs;
  float* group_sums = sums_all + part.group * args.k_warps * warp_sums;
  const uint32_t full = barriers_all + static_cast<uint32_t>(part.group * 2 * kVectorBuffers * 8);
  const uint32_t empty = full + kVectorBuffers * 8;
  uint32_t drain = ring;
  const uint32_t x_unit = static_cast<uint32_t>(64 * inputs);
  const uint32_t x_begin =
      shared_address(activations) +
      static_cast<uint32_t>(64 * min(lane / 4, inputs - 1) + 16 * (lane % 4)) +
      static_cast<uint32_t>(step_begin * Shape::kUnits) * x_unit;
  const uint32_t unit_sums_begin =
      shared_address(unit_sums) +
      static_cast<uint32_t>(step_begin * Shape::kUnits * kUnitSumBytes + lane % 4 * 8);
  int turn = 0;      // which of the group's tiles
  int finisher = 0;  // the warp that finishes it
  for (int tile = part.tile_first; tile < args.tiles; tile += part.stride, ++turn) {
    float sums[2][4] = {};
    uint32_t x = x_begin;
    uint32_t unit_sums_at = unit_sums_begin;
#pragma unroll 1
    for (int step = step_begin; step < step_end; ++step) {
      copy_async_wait_for<Shape::kStages - 2>();
      __syncwarp();
      load_next();
      vector_step<kForm>(sums, drain, x, x_unit, unit_sums_at, args.code_base, lane);
      x += Shape::kUnits * x_unit;
      unit_sums_at += Shape::kUnits * kUnitSumBytes;
      drain += Shape::kStageBytes;
      if (drain == ring + Shape::kWarpBytes) drain = ring;
    }
    const int buffer = turn % kVectorBuffers;
    const uint32_t parity = static_cast<uint32_t>(turn / kVectorBuffers) & 1u;
    if (turn >= kVectorBuffers) barrier_wait(empty + buffer * 8, parity ^ 1u);
    float* tile_sums = group_sums + buffer * (kWarps * warp_sums);
    float* own = tile_sums + part.k_warp * warp_sums;
    const int g = lane / 4;
    const int n = lane % 4 * 2;
    if (n < inputs) {
      own[n * 16 + g] = sums[0][0] + sums[1][0];
      own[n * 16 + g + 8] = sums[0][2] + sums[1][2];
    }
    if (n + 1 < inputs) {
      own[n * 16 + 16 + g] = sums[0][1] + sums[1][1];
      own[n * 16 + 16 + g + 8] = sums[0][3] + sums[1][3];
    }
    __syncwarp();
    if (lane == 0) barrier_arrive(full + buffer * 8);
    if (finisher == part.k_warp) {
      vector_finish(args, tile, tile_sums, squares, full + buffer * 8, parity, lane);
      __syncwarp();
      if (lane == 0) barrier_arrive(empty + buffer * 8);
    }
    if (++finisher == args.k_warps) finisher = 0;
  }
}

template <MatrixForm kForm>
VectorForm vector_form() {
  using Shape = VectorShape<kForm>;
  VectorKernel halves = nullptr;
  if constexpr (kForm == MatrixForm::kInt4) halves = kernel_matrix_vector<kForm, kVectorHalfWarps>;
  return {kernel_matrix_vector<kForm, kVectorWarps>, halves, Shape::kStep, Shape::kUnits, Shape::kWarpBytes,
          Shape::kUnitSums};
}

}  // namespace leanedge::cuda
