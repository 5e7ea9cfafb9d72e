// Packed weights of the reference: the file's rows, one after the other.
#include <string.h>

#include "../dtype.h"
#include "leanedge/half.h"
#include "leanedge/kernels.h"
#include "leanedge/status.h"

namespace leanedge::kernels {
namespace {

float load_f16(const uint8_t* at) {
  uint16_t bits;
  memcpy(&bits, at, 2);
  return f16_to_f32(bits);
}

// Weights of one block of 32; `src` as the file has it.
void unpack_block(Dtype dtype, const uint8_t* src, float* out) {
  const float scale = load_f16(src);
  if (dtype == Dtype::kQ8_0) {
    for (int32_t i = 0; i < 32; ++i)
      out[i] = scale * static_cast<float>(static_cast<int8_t>(src[2 + i]));
    return;
  }
  // Nibbles: byte j holds weight j (low) and weight j + 16 (high).
  const float min = dtype == Dtype::kQ4_1 ? load_f16(src + 2) : 0.0f;
  const int32_t zero = dtype == Dtype::kQ4_0 ? 8 : 0;
  const uint8_t* nibbles = src + (dtype == Dtype::kQ4_1 ? 4 : 2);
  for (int32_t j = 0; j < 16; ++j) {
    out[j] = scale * static_cast<float>((nibbles[j] & 15) - zero) + min;
    out[j + 16] = scale * static_cast<float>((nibbles[j] >> 4) - zero) + min;
  }
}

}  // namespace

size_t packed_bytes(Dtype dtype, int32_t rows, int32_t cols) {
  return static_cast<size_t>(rows) * dtype_row_bytes(dtype, cols);
}

void pack_row(const PackedMatrix& matrix, int32_t row, const uint8_t* src) {
  ENGINE_ASSERT(row >= 0 && row < matrix.rows);
  const size_t row_bytes = dtype_row_bytes(matrix.dtype, matrix.cols);
  memcpy(matrix.data + static_cast<size_t>(row) * row_bytes, src, row_bytes);
}

void unpack_row(const PackedMatrix& matrix, int32_t row, float* out) {
  ENGINE_ASSERT(row >= 0 && row < matrix.rows);
  const size_t row_bytes = dtype_row_bytes(matrix.dtype, matrix.cols);
  const uint8_t* src = matrix.data + static_cast<size_t>(row) * row_bytes;
  switch (matrix.dtype) {
    case Dtype::kF32: memcpy(out, src, row_bytes); return;
    case Dtype::kF16:
      for (int32_t c = 0; c < matrix.cols; ++c) out[c] = load_f16(src + 2 * static_cast<size_t>(c));
      return;
    case Dtype::kBF16:
      for (int32_t c = 0; c < matrix.cols; ++c) {
        uint16_t bits;
        memcpy(&bits, src + 2 * static_cast<size_t>(c), 2);
        out[c] = f32_from_bits(static_cast<uint32_t>(bits) << 16);
      }
      return;
    default:
      for (int32_t c = 0; c < matrix.cols; c += kBlockCols) {
        unpack_block(matrix.dtype, src, out + c);
        src += dtype_unit_bytes(matrix.dtype);
      }
  }
}

}  // namespace leanedge::kernels
