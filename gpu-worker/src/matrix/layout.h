// Where a weight lies. Row-major forms are what cuBLASLt takes; the others are cut into tiles of 16
// rows and steps of 128 columns, laid out so that 16 contiguous bytes are what one lane feeds to two
// to four tensor core products, and 512 what a warp does. Plain C++: the tests run it on a CPU.
//
// In a product (mma m16n8k16) lane 4 g + t holds rows g and g + 8. Which columns it holds is free as
// long as the activations agree: of each unit of 32 columns it takes 8 t .. 8 t + 7, in every form.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "leanedge_cuda/matrix.h"

#ifdef __CUDACC__
#define LEANEDGE_MATRIX_FN __host__ __device__ __forceinline__
#else
#define LEANEDGE_MATRIX_FN inline
#endif

namespace leanedge::cuda {

inline constexpr int32_t kTileRows = 16;
inline constexpr int32_t kUnitCols = 32;   // columns of two products; also those that share a scale
inline constexpr int32_t kStepCols = 128;  // columns of a step of a tiled form
inline constexpr int32_t kStepUnits = kStepCols / kUnitCols;
inline constexpr int32_t kScaleBytes = 2 * kTileRows * kStepUnits;  // f16 scales of a step

// 128 as bf16, twice: codes of up to 7 bits, placed in its mantissa, are added to it. A kernel takes it
// as an argument: two masks that the compiler knows cost two instructions, one that it does not know
// and one that it does cost one.
inline constexpr uint32_t kCodeBase = 0x43004300u;

LEANEDGE_MATRIX_FN bool form_row_major(MatrixForm form) {
  return form == MatrixForm::kBf16 || form == MatrixForm::kF16;
}

LEANEDGE_MATRIX_FN bool form_block_scales(MatrixForm form) {
  return form == MatrixForm::kInt8 || form == MatrixForm::kInt4;
}

// Bytes of the codes of a step of a tiled form.
LEANEDGE_MATRIX_FN int32_t step_code_bytes(MatrixForm form) {
  return form == MatrixForm::kInt4 ? kTileRows * kStepCols / 2 : kTileRows * kStepCols;
}

// Bytes of a step: codes, then the scales of its units.
LEANEDGE_MATRIX_FN int32_t step_bytes(MatrixForm form) {
  return step_code_bytes(form) + (form_block_scales(form) ? kScaleBytes : 0);
}

LEANEDGE_MATRIX_FN int32_t steps_of(int32_t cols) { return (cols + kStepCols - 1) / kStepCols; }
LEANEDGE_MATRIX_FN int32_t tiles_of(int32_t rows) { return (rows + kTileRows - 1) / kTileRows; }

LEANEDGE_MATRIX_FN size_t tile_bytes(MatrixForm form, int32_t cols) {
  return form_row_major(form) ? static_cast<size_t>(kTileRows) * 2 * static_cast<size_t>(cols)
                              : static_cast<size_t>(steps_of(cols)) *
                                    static_cast<size_t>(step_bytes(form));
}

// Bytes before the row scales of fp8.
LEANEDGE_MATRIX_FN size_t weight_bytes(MatrixForm form, int32_t rows, int32_t cols) {
  const size_t bytes = form_row_major(form)
                           ? static_cast<size_t>(rows) * 2 * static_cast<size_t>(cols)
                           : static_cast<size_t>(tiles_of(rows)) * tile_bytes(form, cols);
  return (bytes + 255) / 256 * 256;
}

LEANEDGE_MATRIX_FN const float* row_scales_of(const Matrix& matrix) {
  return reinterpret_cast<const float*>(matrix.data +
                                        weight_bytes(matrix.form, matrix.rows, matrix.cols));
}

// Byte of the step that holds row `row` and column `col`, of a tiled form.
LEANEDGE_MATRIX_FN size_t step_at(MatrixForm form, int32_t cols, int32_t row, int32_t col) {
  return static_cast<size_t>(row / kTileRows) * tile_bytes(form, cols) +
         static_cast<size_t>(col / kStepCols) * static_cast<size_t>(step_bytes(form));
}

// Within a step: where the 8 codes begin that a lane holds of one row and one unit (8 bytes, or 4 in
// int4). `row` and `col` are those of any of them.
LEANEDGE_MATRIX_FN int32_t codes_at(MatrixForm form, int32_t row, int32_t col) {
  const int32_t half = row % kTileRows / 8;
  const int32_t lane = 4 * (row % 8) + col % kUnitCols / 8;
  const int32_t unit = col % kStepCols / kUnitCols;
  return form == MatrixForm::kInt4 ? unit / 2 * 512 + lane * 16 + unit % 2 * 8 + half * 4
                                   : unit * 512 + lane * 16 + half * 8;
}

// Of 8 codes in a row: the byte that holds code `j`, so that bytes 0 and 2 of a word are two
// neighbours, and bytes 1 and 3 the next two.
LEANEDGE_MATRIX_FN int32_t code_byte(int32_t j) { return (j & 4) | (j & 1) << 1 | (j & 2) >> 1; }

// Of 8 codes in a row of int4: the nibble that holds code `j`: nibbles i and i + 4 are neighbours.
LEANEDGE_MATRIX_FN int32_t code_nibble(int32_t j) { return j >> 1 | (j & 1) << 2; }

// Within a step: the f16 scale of a row and unit. A lane's two rows are neighbours.
LEANEDGE_MATRIX_FN int32_t scale_at(MatrixForm form, int32_t row, int32_t col) {
  return step_code_bytes(form) + row % 8 * 16 + col % kStepCols / kUnitCols * 4 +
         row % kTileRows / 8 * 2;
}

}  // namespace leanedge::cuda
