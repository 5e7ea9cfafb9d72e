// Chooses the matrix product for a dtype.
#include "layout.h"

namespace leanedge::kernels {

void matmul(Context*, const PackedMatrix& matrix, const Activations& activations, float* y) {
  ENGINE_ASSERT(matrix.cols == activations.cols);
  ENGINE_ASSERT(activations.rows > 0);
  MatmulRange range;
  range.matrix = &matrix;
  range.activations = &activations;
  range.y = y;
  range.tile_begin = 0;
  range.tile_end = (matrix.rows + kTileRows - 1) / kTileRows;
  switch (matrix.dtype) {
    case Dtype::kQ8_0: return matmul_q8_0_simd128(range);
    case Dtype::kQ4_0: return matmul_q4_0_simd128(range);
    case Dtype::kQ4_1: return matmul_q4_1_simd128(range);
    case Dtype::kF32: return matmul_f32_simd128(range);
    case Dtype::kF16: return matmul_f16_simd128(range);
    case Dtype::kBF16: return matmul_bf16_simd128(range);
  }
  ENGINE_ASSERT(false);
}

}  // namespace leanedge::kernels
