// How this backend lays out weights and prepared activations.
//
// Weights: tiles of 8 rows, one stream a tile. A tile is a run of blocks; a block holds a few
// columns of all 8 rows:
//
//   dtype   columns  block
//   Q8_0    32       8 f16 scales, then for each 4 columns 16 B of rows 0-3 and 16 B of rows 4-7;
//                    within 16 B: row-major (4 rows, 4 columns) bytes, even columns as q + 128,
//                    odd columns as q
//   Q4_0    32       8 f16 scales, then for each 8 columns 16 B of rows 0-3 and 16 B of rows 4-7
//   Q4_1    32       8 f16 scales, 8 f16 minima, then as Q4_0
//   F32     4        (8 rows, 4 columns) f32
//   F16     4        (8 rows, 4 columns) f16
//   BF16    4        (8 rows, 4 columns) bf16
//
// What it buys: with int8 or nibbles, a 32-bit lane holds columns of one row, so a dot product with
// i32 lanes adds up four rows at once and no sum across lanes is ever needed; and the eight scales of
// a block are one load. With floats, lane j adds up the columns = j mod 4.
//
// Q8_0 as 16-bit lanes: a lane is v = 256 o + e, o an odd column, e = (even column) + 128 in its
// unsigned low byte. With x_e, x_o the activations of the two columns,
//   v x_o + (v & 255) (256 x_e - x_o) = 256 (o x_o + e x_e):
// two products of 16-bit lanes and one mask where widening would take two shuffles. All factors fit
// 16 bits, all sums of a block 32; the bias of 128 comes off at the start (`offset_even`), the factor
// of 256 at the end, exactly.
//
// Nibbles: a row's 8 columns are two 16-bit lanes; columns 0 and 2 in bits 0-3 of the first and the
// second, 1 and 3 in bits 4-7, 4 and 6 in bits 8-11, 5 and 7 in bits 12-15. Masking gives a nibble
// times 1, 16 or 256 without a shift; activations times 256, 16 or 1 make all products 256 times too
// large. As bytes: the low nibbles of four bytes are columns 0, 4, 2, 6, the high ones 1, 5, 3, 7.
//
// Scales and minima stand 2^10 times as large as in the file (`kScaleLift`). Files have scales that are
// subnormal in f16, trained models thousands of them; widened by a shift they would be subnormal f32,
// and a product with one of those takes a processor some 150 cycles. A matrix with a value of 64 or
// more, which f16 could not hold then, keeps the file's; the word behind its last tile says so, and its
// products are multiplied by 2^10 at the end.
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

constexpr size_t tiles_of(int32_t rows) {
  return static_cast<size_t>((rows + kTileRows - 1) / kTileRows);
}

// What scales and minima of block weights are multiplied by.
inline constexpr float kScaleLift = 0x1p10f;

// Behind the last tile of block weights: 0, or 1 where scales and minima are the file's own.
inline constexpr size_t kNoteBytes = 16;
inline uint32_t* scale_note(const PackedMatrix& matrix) {
  return reinterpret_cast<uint32_t*>(matrix.data +
                                     tiles_of(matrix.rows) * tile_bytes(matrix.dtype, matrix.cols));
}

// What prepare_activations writes. q is the int8 value of an activation, s its block's scale: x is
// about s q. Up to kSingleRowsMax rows stand one by one and meet the weights as they are packed; more
// stand in groups of four (the last one filled up with zeros) and meet weights unpacked into a panel.
inline constexpr int32_t kSingleRowsMax = 3;
inline constexpr int32_t kGroupRows = 4;

// One block of 32 columns of a single row. What one vector of weights meets is a whole vector, the same
// in all four lanes: engines address those by a constant beside one register, and a splat of one lane
// by a register of its own.
struct RowBlock {
  int16_t odd_even[8][2][8];  // for each 4 columns q1, q3; then 256 q0 - q1, 256 q2 - q3
#ifdef __wasm_relaxed_simd__
  int8_t quads[8][16];        // for each 4 columns q in order
  int8_t nibbles[4][2][16];   // for each 8 columns q0, q4, q2, q6; then q1, q5, q3, q7
#else
  int16_t planes[4][4][8];    // for each 8 columns 256 (q0, q2), 16 (q1, q3), q4, q6, 256 (q5, q7)
#endif
  float scale[4];             // s
  int32_t offset_even[4];     // -128 * 256 * sum of q over even columns: the bias of Q8_0's
  int32_t offset8[4];         // -128 * sum of q
  int32_t offset4[4];         // -8 * sum of q: what Q4_0's "q - 8" takes off; planes: 256 times it
  float sum[4];               // sum of q, for Q4_1's minima
};
static_assert(sizeof(RowBlock) == 592, "rows follow each other without gaps");

// One block of 32 columns of four rows.
struct GroupBlock {
  int16_t pairs[16][kGroupRows][2];  // columns 0 and 2 of each 4, then 1 and 3
#ifdef __wasm_relaxed_simd__
  int8_t quads[8][kGroupRows][4];    // columns in order
#endif
  float scale[kGroupRows];
  int32_t offset8[kGroupRows];
  int32_t offset4[kGroupRows];
  float sum[kGroupRows];
};

constexpr size_t activation_blocks(int32_t cols) {
  return static_cast<size_t>((cols + kBlockCols - 1) / kBlockCols);
}

inline RowBlock* prepared_row(uint8_t* prepared, int32_t cols, int32_t row) {
  return reinterpret_cast<RowBlock*>(prepared) + static_cast<size_t>(row) * activation_blocks(cols);
}

inline GroupBlock* prepared_group(uint8_t* prepared, int32_t cols, int32_t group) {
  return reinterpret_cast<GroupBlock*>(prepared) +
         static_cast<size_t>(group) * activation_blocks(cols);
}

// A piece of a matrix product: all activation rows against tiles [tile_begin, tile_end). Ranges of
// tiles are independent: threads share a product by them.
struct MatmulRange {
  const PackedMatrix* matrix;
  const Activations* activations;
  float* y;  // (activations->rows, matrix->rows)
  int32_t tile_begin;
  int32_t tile_end;
};

// Block weights, at most kSingleRowsMax rows.
void matmul_single_simd128(const MatmulRange& range);
// Block weights, more rows.
void matmul_panel_simd128(const MatmulRange& range);
void matmul_f32_simd128(const MatmulRange& range);
void matmul_f16_simd128(const MatmulRange& range);
void matmul_bf16_simd128(const MatmulRange& range);

}  // namespace leanedge::kernels
