// Chooses the matrix product for a dtype and a number of rows, and shares its tiles among threads.
#include "layout.h"
#include "parallel.h"

namespace leanedge::kernels {
namespace {

using MatmulKernel = void (*)(const MatmulRange& range);

struct Product {
  MatmulKernel kernel;
  MatmulRange range;  // of all tiles
};

// Multiplies a range's products by kScaleLift, where the kernel took scales for lifted that are not.
void lift_products(const MatmulRange& range) {
  const PackedMatrix& matrix = *range.matrix;
  const int32_t end = range.tile_end * kTileRows;
  float* y = range.y;
  for (int32_t row = 0; row < range.activations->rows; ++row, y += matrix.rows) {
    for (int32_t i = range.tile_begin * kTileRows; i < end && i < matrix.rows; ++i) y[i] *= kScaleLift;
  }
}

void run_piece(void* arg, int32_t begin, int32_t end, int32_t) {
  const Product& product = *static_cast<const Product*>(arg);
  MatmulRange range = product.range;
  range.tile_begin = begin;
  range.tile_end = end;
  product.kernel(range);
  if (is_block_dtype(range.matrix->dtype) && *scale_note(*range.matrix) != 0) lift_products(range);
}

MatmulKernel kernel_of(Dtype dtype, int32_t rows) {
  switch (dtype) {
    case Dtype::kQ8_0:
    case Dtype::kQ4_0:
    case Dtype::kQ4_1: return rows > kSingleRowsMax ? matmul_panel_simd128 : matmul_single_simd128;
    case Dtype::kF32: return matmul_f32_simd128;
    case Dtype::kF16: return matmul_f16_simd128;
    case Dtype::kBF16: return matmul_bf16_simd128;
  }
  return nullptr;
}

}  // namespace

void matmul(Context* context, const PackedMatrix& matrix, const Activations& activations,
            float* y) {
  ENGINE_ASSERT(matrix.cols == activations.cols);
  ENGINE_ASSERT(activations.rows > 0);
  Product product = {kernel_of(matrix.dtype, activations.rows), {&matrix, &activations, y, 0, 0}};
  ENGINE_ASSERT(product.kernel != nullptr);
  parallel_for(context, static_cast<int32_t>(tiles_of(matrix.rows)), run_piece, &product);
}

}  // namespace leanedge::kernels
