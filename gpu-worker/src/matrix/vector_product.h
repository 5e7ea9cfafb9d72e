// The product with up to kMatrixVectorRowsMax rows of activations: what its kernel takes.
#pragma once

#include <cuda_runtime_api.h>
#include <stdint.h>

#include "layout.h"
#include "leanedge_cuda/matrix.h"

namespace leanedge::cuda {

inline constexpr int32_t kVectorWarps = 16;
inline constexpr int32_t kVectorHalfWarps = kVectorWarps / 2;  // of a block where a multiprocessor has two

struct VectorArgs {
  const uint8_t* data;
  const float* row_scales;   // (rows), or null
  const uint16_t* x;         // (inputs, x_pitch) bf16, or null
  const float* norm_x;       // (inputs, x_pitch) f32, or null
  const float* norm_weight;  // (cols)
  const float* bias;         // (rows), or null
  void* out;
  const uint8_t* next;       // weights of a kernel to come: next_bytes of them for each warp of the grid
  int64_t tile_bytes;        // from one tile of 16 rows to the next
  float norm_eps;
  int32_t rows;
  int32_t cols;       // of this launch's part of the columns
  int32_t row_bytes;  // row-major forms: from one row to the next
  int32_t x_pitch;
  int32_t tiles;
  int32_t steps;      // of this launch's part of a tile
  int32_t k_warps;    // a power of two: so many warps share a tile, each takes some of its steps
  int32_t inputs;     // 1 .. kMatrixVectorRowsMax
  uint32_t code_base;    // kCodeBase
  uint32_t next_bytes;   // a multiple of 16
  MatrixOutput output;
};

using VectorKernel = void (*)(VectorArgs);

// What a launch must know of a form's kernels.
struct VectorForm {
  VectorKernel kernel;  // blocks of kVectorWarps
  VectorKernel halves;  // blocks of kVectorHalfWarps; null: none
  int32_t step_cols;   // columns of a step
  int32_t step_units;  // units of 32 columns of a step
  int32_t ring_bytes;  // shared memory of a warp's ring
  bool unit_sums;      // whether it needs the activations' sums a unit
};

// Shared memory: rings; sums of warps, kVectorBuffers tiles of them; squares of activations; barriers; then, for
// each group of warps, activations and (int4) their sums a unit.
inline constexpr int32_t kVectorBuffers = 2;
LEANEDGE_MATRIX_FN int32_t vector_sum_bytes(int32_t inputs, int32_t warps) {
  return kVectorBuffers * warps * inputs * kTileRows * 4;
}
inline constexpr int32_t kVectorSquareBytes = kVectorWarps * 8 * 4;
inline constexpr int32_t kVectorBarrierBytes = 2 * kVectorBuffers * kVectorWarps * 8;
inline constexpr int32_t kUnitSumBytes = 32;  // of up to 8 inputs
LEANEDGE_MATRIX_FN int32_t vector_group_bytes(int32_t units, int32_t inputs, bool unit_sums) {
  return units * (inputs * 64 + (unit_sums ? kUnitSumBytes : 0));
}

VectorForm vector_form_bf16();
VectorForm vector_form_f16();
VectorForm vector_form_int8();
VectorForm vector_form_fp8();
VectorForm vector_form_int4();

// Lets the kernels take as much shared memory as the device has.
cudaError_t vector_prepare(int32_t shared_max);

// Launches one or, where the activations are too many for shared memory, a few kernels.
// Arguments have been checked.
cudaError_t vector_launch(const Matrix& matrix, const MatrixProduct& call, int32_t processors,
                          int32_t shared_max, cudaStream_t stream);

}  // namespace leanedge::cuda
