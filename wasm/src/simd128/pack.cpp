// Rows of a GGUF file -> the layouts of layout.h, and back.
#include <string.h>

#include "layout.h"
#include "leanedge/half.h"

namespace leanedge::kernels {
namespace {

// Where a row's values of one block lie.
struct RowPlace {
  uint8_t* tile;  // first block of the row's tile
  int32_t lane;   // row within the tile, 0 .. 7
  int32_t half;   // 0: rows 0-3, 1: rows 4-7
  int32_t quad;   // row within its half
};

RowPlace place_of(const PackedMatrix& matrix, int32_t row) {
  ENGINE_ASSERT(row >= 0 && row < matrix.rows);
  const size_t tile = static_cast<size_t>(row / kTileRows);
  RowPlace place;
  place.tile = matrix.data + tile * tile_bytes(matrix.dtype, matrix.cols);
  place.lane = row % kTileRows;
  place.half = place.lane / 4;
  place.quad = place.lane % 4;
  return place;
}

// Bytes of one block of 32 weights in the file.
constexpr size_t file_block_bytes(Dtype dtype) {
  return dtype == Dtype::kQ8_0 ? 34 : dtype == Dtype::kQ4_0 ? 18 : 20;
}

// What a byte of Q8_0's even columns is stored with.
constexpr uint8_t kEvenFlip = 0x80;

// Offset of the four bytes that hold a row's columns 4 * quad .. 4 * quad + 3 within a block.
size_t q8_at(const RowPlace& place, int32_t quad) {
  return 16 + static_cast<size_t>(quad) * 32 + static_cast<size_t>(place.half) * 16 +
         static_cast<size_t>(place.quad) * 4;
}

// Offset of the four bytes that hold a row's columns 8 * group .. 8 * group + 7.
size_t q4_at(const RowPlace& place, size_t header, int32_t group) {
  return header + static_cast<size_t>(group) * 32 + static_cast<size_t>(place.half) * 16 +
         static_cast<size_t>(place.quad) * 4;
}

// The file keeps column c in the low nibble of byte c, column c + 16 in its high nibble.
uint32_t file_nibble(const uint8_t* nibbles, int32_t col) {
  return col < 16 ? nibbles[col] & 15u : static_cast<uint32_t>(nibbles[col - 16] >> 4);
}

// Where column `col`, 0 .. 7, stands in a row's four bytes.
int32_t nibble_shift(int32_t col) {
  return (col & 2) * 8 + (col & 4) * 2 + (col & 1) * 4;
}

void pack_q4_block(const RowPlace& place, size_t header, const uint8_t* nibbles, uint8_t* block) {
  for (int32_t group = 0; group < 4; ++group) {
    uint32_t word = 0;
    for (int32_t col = 0; col < 8; ++col) {
      word |= file_nibble(nibbles, group * 8 + col) << nibble_shift(col);
    }
    memcpy(block + q4_at(place, header, group), &word, 4);
  }
}

float unpack_nibble(const RowPlace& place, size_t header, const uint8_t* block, int32_t col) {
  uint32_t word;
  memcpy(&word, block + q4_at(place, header, col / 8), 4);
  return static_cast<float>((word >> nibble_shift(col % 8)) & 15u);
}

float load_f16(const uint8_t* at) {
  uint16_t bits;
  memcpy(&bits, at, 2);
  return f16_to_f32(bits);
}

// Whether f16 holds kScaleLift times as much.
bool liftable(uint16_t bits) { return (bits & 0x7fff) < 0x5400; }

// The f16 whose value is `factor` times that of `bits`; exact for what was lifted or is liftable.
uint16_t scaled_f16(uint16_t bits, float factor) { return f32_to_f16(f16_to_f32(bits) * factor); }

// Bytes of a block's scales and minima.
size_t header_bytes(Dtype dtype) { return dtype == Dtype::kQ4_1 ? 32 : 16; }

// Gives a matrix the file's own scales and minima, from now on.
void unlift(const PackedMatrix& matrix) {
  uint8_t* block = matrix.data;
  const size_t blocks = tiles_of(matrix.rows) * blocks_of(matrix.dtype, matrix.cols);
  for (size_t b = 0; b < blocks; ++b, block += block_bytes(matrix.dtype)) {
    for (size_t at = 0; at < header_bytes(matrix.dtype); at += 2) {
      uint16_t bits;
      memcpy(&bits, block + at, 2);
      bits = scaled_f16(bits, 1.0f / kScaleLift);
      memcpy(block + at, &bits, 2);
    }
  }
  *scale_note(matrix) = 1;
}

// Stores a scale or minimum of the file, 2 bytes at `src`.
void pack_scale(const PackedMatrix& matrix, const uint8_t* src, uint8_t* out) {
  uint16_t bits;
  memcpy(&bits, src, 2);
  if (*scale_note(matrix) == 0 && !liftable(bits)) unlift(matrix);
  if (*scale_note(matrix) == 0) bits = scaled_f16(bits, kScaleLift);
  memcpy(out, &bits, 2);
}

// What pack_scale took.
float unpack_scale(const PackedMatrix& matrix, const uint8_t* at) {
  return *scale_note(matrix) == 0 ? load_f16(at) / kScaleLift : load_f16(at);
}

void pack_row_blocks(const PackedMatrix& matrix, const RowPlace& place, const uint8_t* src) {
  const size_t blocks = blocks_of(matrix.dtype, matrix.cols);
  const size_t scale_at = static_cast<size_t>(place.lane) * 2;
  uint8_t* block = place.tile;
  for (size_t b = 0; b < blocks; ++b, block += block_bytes(matrix.dtype)) {
    pack_scale(matrix, src, block + scale_at);
    if (matrix.dtype == Dtype::kQ8_0) {
      for (int32_t quad = 0; quad < 8; ++quad) {
        uint32_t word;
        memcpy(&word, src + 2 + 4 * quad, 4);
        word ^= kEvenFlip | kEvenFlip << 16;
        memcpy(block + q8_at(place, quad), &word, 4);
      }
    } else if (matrix.dtype == Dtype::kQ4_0) {
      pack_q4_block(place, 16, src + 2, block);
    } else {
      pack_scale(matrix, src + 2, block + 16 + scale_at);
      pack_q4_block(place, 32, src + 4, block);
    }
    src += file_block_bytes(matrix.dtype);
  }
}

void unpack_row_blocks(const PackedMatrix& matrix, const RowPlace& place, float* out) {
  const size_t blocks = blocks_of(matrix.dtype, matrix.cols);
  const size_t scale_at = static_cast<size_t>(place.lane) * 2;
  const uint8_t* block = place.tile;
  for (size_t b = 0; b < blocks; ++b, block += block_bytes(matrix.dtype), out += kBlockCols) {
    const float d = unpack_scale(matrix, block + scale_at);
    const float m =
        matrix.dtype == Dtype::kQ4_1 ? unpack_scale(matrix, block + 16 + scale_at) : 0.0f;
    for (int32_t col = 0; col < kBlockCols; ++col) {
      if (matrix.dtype == Dtype::kQ8_0) {
        const uint8_t byte = block[q8_at(place, col / 4) + static_cast<size_t>(col % 4)];
        const int8_t q = static_cast<int8_t>(col % 2 == 0 ? byte ^ kEvenFlip : byte);
        out[col] = d * static_cast<float>(q);
      } else if (matrix.dtype == Dtype::kQ4_0) {
        out[col] = d * (unpack_nibble(place, 16, block, col) - 8.0f) + m;  // + 0 makes -0 a +0
      } else {
        out[col] = d * unpack_nibble(place, 32, block, col) + m;
      }
    }
  }
}

}  // namespace

size_t packed_bytes(Dtype dtype, int32_t rows, int32_t cols) {
  ENGINE_ASSERT(rows > 0 && cols > 0);
  ENGINE_ASSERT(!is_block_dtype(dtype) || cols % kBlockCols == 0);
  return tiles_of(rows) * tile_bytes(dtype, cols) + (is_block_dtype(dtype) ? kNoteBytes : 0);
}

void pack_row(const PackedMatrix& matrix, int32_t row, const uint8_t* src) {
  const RowPlace place = place_of(matrix, row);
  if (is_block_dtype(matrix.dtype)) {
    pack_row_blocks(matrix, place, src);
    return;
  }
  const size_t value_bytes = matrix.dtype == Dtype::kF32 ? 4 : 2;
  const size_t run_bytes = value_bytes * kFloatCols;
  uint8_t* at = place.tile + static_cast<size_t>(place.lane) * run_bytes;
  size_t rest = static_cast<size_t>(matrix.cols) * value_bytes;
  while (rest > 0) {
    const size_t bytes = rest < run_bytes ? rest : run_bytes;
    memcpy(at, src, bytes);
    at += block_bytes(matrix.dtype);
    src += bytes;
    rest -= bytes;
  }
}

void unpack_row(const PackedMatrix& matrix, int32_t row, float* out) {
  const RowPlace place = place_of(matrix, row);
  if (is_block_dtype(matrix.dtype)) {
    unpack_row_blocks(matrix, place, out);
    return;
  }
  const size_t value_bytes = matrix.dtype == Dtype::kF32 ? 4 : 2;
  for (int32_t col = 0; col < matrix.cols; ++col) {
    const size_t value = static_cast<size_t>(place.lane * kFloatCols + col % kFloatCols);
    const uint8_t* at = place.tile +
                        static_cast<size_t>(col / kFloatCols) * block_bytes(matrix.dtype) +
                        value * value_bytes;
    if (matrix.dtype == Dtype::kF32) {
      memcpy(&out[col], at, 4);
    } else if (matrix.dtype == Dtype::kF16) {
      out[col] = load_f16(at);
    } else {
      uint16_t bits;
      memcpy(&bits, at, 2);
      out[col] = f32_from_bits(static_cast<uint32_t>(bits) << 16);
    }
  }
}

}  // namespace leanedge::kernels
