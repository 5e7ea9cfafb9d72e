// Matrix products, one dot product at a time.
#include <string.h>

#include "../dtype.h"
#include "leanedge/half.h"
#include "leanedge/kernels.h"
#include "leanedge/status.h"
#include "quantized_row.h"

namespace leanedge::kernels {
namespace {

uint16_t load_u16(const uint8_t* at) {
  uint16_t bits;
  memcpy(&bits, at, 2);
  return bits;
}

float load_weight(Dtype dtype, const uint8_t* row, int32_t c) {
  const size_t i = static_cast<size_t>(c);
  if (dtype == Dtype::kF32) {
    float w;
    memcpy(&w, row + 4 * i, 4);
    return w;
  }
  const uint16_t bits = load_u16(row + 2 * i);
  return dtype == Dtype::kF16 ? f16_to_f32(bits) : f32_from_bits(static_cast<uint32_t>(bits) << 16);
}

// Sums in double: the reference is what others are measured against.
float dot_float(Dtype dtype, const uint8_t* row, const float* x, int32_t cols) {
  double sum = 0;
  for (int32_t c = 0; c < cols; ++c) {
    sum += static_cast<double>(load_weight(dtype, row, c)) * static_cast<double>(x[c]);
  }
  return static_cast<float>(sum);
}

float dot_q8_0(const uint8_t* row, const QuantizedBlock* x, int32_t cols) {
  float sum = 0;
  for (int32_t b = 0; b < cols / kBlockCols; ++b, row += 34) {
    int32_t products = 0;
    for (int32_t i = 0; i < kBlockCols; ++i)
      products += static_cast<int8_t>(row[2 + i]) * x[b].q[i];
    sum += static_cast<float>(products) * (f16_to_f32(load_u16(row)) * x[b].scale);
  }
  return sum;
}

// Sum of nibble * q of one block: byte j holds weight j (low) and weight j + 16 (high).
int32_t nibble_products(const uint8_t* nibbles, const int8_t* q) {
  int32_t products = 0;
  for (int32_t j = 0; j < 16; ++j) {
    products += (nibbles[j] & 15) * q[j] + (nibbles[j] >> 4) * q[j + 16];
  }
  return products;
}

float dot_q4_0(const uint8_t* row, const QuantizedBlock* x, int32_t cols) {
  float sum = 0;
  for (int32_t b = 0; b < cols / kBlockCols; ++b, row += 18) {
    const int32_t products = nibble_products(row + 2, x[b].q) - 8 * x[b].sum;
    sum += static_cast<float>(products) * (f16_to_f32(load_u16(row)) * x[b].scale);
  }
  return sum;
}

float dot_q4_1(const uint8_t* row, const QuantizedBlock* x, int32_t cols) {
  float sum = 0;
  for (int32_t b = 0; b < cols / kBlockCols; ++b, row += 20) {
    const float products = static_cast<float>(nibble_products(row + 4, x[b].q));
    sum += products * (f16_to_f32(load_u16(row)) * x[b].scale);
    sum += static_cast<float>(x[b].sum) * (f16_to_f32(load_u16(row + 2)) * x[b].scale);
  }
  return sum;
}

}  // namespace

void matmul(Context*, const PackedMatrix& matrix, const Activations& activations, float* y) {
  ENGINE_ASSERT(matrix.cols == activations.cols);
  const size_t row_bytes = dtype_row_bytes(matrix.dtype, matrix.cols);
  const size_t blocks = static_cast<size_t>(matrix.cols / kBlockCols);
  for (int32_t r = 0; r < activations.rows; ++r) {
    const float* x = activations.x + static_cast<size_t>(r) * static_cast<size_t>(matrix.cols);
    const QuantizedBlock* q = reinterpret_cast<const QuantizedBlock*>(activations.prepared) +
                              static_cast<size_t>(r) * blocks;
    float* out = y + static_cast<size_t>(r) * static_cast<size_t>(matrix.rows);
    const uint8_t* row = matrix.data;
    for (int32_t n = 0; n < matrix.rows; ++n, row += row_bytes) {
      switch (matrix.dtype) {
        case Dtype::kQ8_0: out[n] = dot_q8_0(row, q, matrix.cols); break;
        case Dtype::kQ4_0: out[n] = dot_q4_0(row, q, matrix.cols); break;
        case Dtype::kQ4_1: out[n] = dot_q4_1(row, q, matrix.cols); break;
        default: out[n] = dot_float(matrix.dtype, row, x, matrix.cols);
      }
    }
  }
}

}  // namespace leanedge::kernels
