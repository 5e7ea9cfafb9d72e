// How this backend lays out weights and prepared activations.
//
// Weights: tiles of 8 rows, one stream a tile. A tile is a run of blocks; a block holds a few
// columns of all 8 rows:
//
//   dtype   columns  block
//   Q8_0    32       8 f16 scales, then for each pair of columns 8 B of rows 0-3 and 8 B of rows
//                    4-7; within 8 B: row-major (4 rows, 2 columns) int8
//   Q4_0    32       8 f16 scales, then for each 8 columns 16 B of rows 0-3 and 16 B of rows 4-7
//   Q4_1    32       8 f16 scales, 8 f16 minima, then as Q4_0
//   F32     4        (8 rows, 4 columns) f32
//   F16     4        (8 rows, 4 columns) f16
//   BF16    4        (8 rows, 4 columns) bf16
//
// What it buys: with int8 or nibbles, the 16-bit lanes 2r and 2r + 1 of a vector are two columns of
// row r, so i32x4.dot_i16x8 adds up four rows at once and no sum across lanes is ever needed; and
// the eight scales of a block are one load. With floats, lane j adds up the columns = j mod 4.
//
// Nibbles: a row's 8 columns are two 16-bit lanes, even columns in the first, odd columns in the
// second; columns 0 and 1 in bits 0-3, 2 and 3 in bits 4-7, 4 and 5 in bits 8-11, 6 and 7 in bits
// 12-15. Masking gives a nibble times 1, 16 or 256 without a shift; activations times 256, 16 or 1
// make all products 256 times too large, which one exact factor of 2^-8 undoes.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "leanedge/kernels.h"

namespace leanedge::kernels {

inline constexpr int32_t kTileRows = 8;
inline constexpr int32_t kBlockCols = 32;  // columns that share a scale
inline constexpr int32_t kFloatCols = 4;   // columns of a block of float weights

// Bytes of one block of a tile.
constexpr size_t block_bytes(Dtype dtype) {
  switch (dtype) {
    case Dtype::kQ8_0: return 16 + 256;
    case Dtype::kQ4_0: return 16 + 128;
    case Dtype::kQ4_1: return 32 + 128;
    case Dtype::kF32: return kTileRows * kFloatCols * 4;
    case Dtype::kF16:
    case Dtype::kBF16: return kTileRows * kFloatCols * 2;
  }
  return 0;
}

constexpr bool is_block_dtype(Dtype dtype) {
  return dtype == Dtype::kQ8_0 || dtype == Dtype::kQ4_0 || dtype == Dtype::kQ4_1;
}

// Blocks in a tile: columns rounded up.
constexpr size_t blocks_of(Dtype dtype, int32_t cols) {
  const int32_t step = is_block_dtype(dtype) ? kBlockCols : kFloatCols;
  return static_cast<size_t>((cols + step - 1) / step);
}

constexpr size_t tile_bytes(Dtype dtype, int32_t cols) {
  return block_bytes(dtype) * blocks_of(dtype, cols);
}

// What prepare_activations writes for one row, in this order, each part 16-byte aligned; nb blocks
// of 32 columns, the last one filled up with zeros:
//   wide    (nb, 32) i16  q
//   planes  (nb, 32) i16  q times 256, 16, 1, 256 for the column pairs 0, 1, 2, 3 of each 8
//   scale   (nb) f32      s: x is about s q
//   scale8  (nb) f32      s 2^-8, for products with planes
//   offset  (nb) i32      -8 * 256 * sum of q: what Q4_0's "q - 8" takes off
//   sum     (nb) f32      sum of q, for Q4_1's minima
struct PreparedRow {
  int16_t* wide;
  int16_t* planes;
  float* scale;
  float* scale8;
  int32_t* offset;
  float* sum;
};

constexpr size_t activation_blocks(int32_t cols) {
  return static_cast<size_t>((cols + kBlockCols - 1) / kBlockCols);
}

// Bytes between prepared rows.
constexpr size_t prepared_row_bytes(int32_t cols) {
  const size_t blocks = activation_blocks(cols);
  const size_t blocks4 = (blocks + 3) / 4 * 4;  // keeps the f32 parts aligned
  return blocks * kBlockCols * 2 * 2 + blocks4 * 4 * 4;
}

inline PreparedRow prepared_row(uint8_t* prepared, int32_t cols, int32_t row) {
  const size_t blocks = activation_blocks(cols);
  const size_t blocks4 = (blocks + 3) / 4 * 4;
  uint8_t* base = prepared + static_cast<size_t>(row) * prepared_row_bytes(cols);
  PreparedRow out;
  out.wide = reinterpret_cast<int16_t*>(base);
  out.planes = out.wide + blocks * kBlockCols;
  out.scale = reinterpret_cast<float*>(out.planes + blocks * kBlockCols);
  out.scale8 = out.scale + blocks4;
  out.offset = reinterpret_cast<int32_t*>(out.scale8 + blocks4);
  out.sum = reinterpret_cast<float*>(out.offset + blocks4);
  return out;
}

// A piece of a matrix product: all activation rows against tiles [tile_begin, tile_end). Ranges of
// tiles are independent, so that threads could share one product.
struct MatmulRange {
  const PackedMatrix* matrix;
  const Activations* activations;
  float* y;  // (activations->rows, matrix->rows)
  int32_t tile_begin;
  int32_t tile_end;
};

void matmul_q8_0_simd128(const MatmulRange& range);
void matmul_q4_0_simd128(const MatmulRange& range);
void matmul_q4_1_simd128(const MatmulRange& range);
void matmul_f32_simd128(const MatmulRange& range);
void matmul_f16_simd128(const MatmulRange& range);
void matmul_bf16_simd128(const MatmulRange& range);

}  // namespace leanedge::kernels
