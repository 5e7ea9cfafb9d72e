// The layout of tiled matrices on a CPU: every weight has a place of its own, and what a lane reads is
// what fragments.cuh makes operands of. Prints what fails; exit code 1 if anything does.
#include <stdio.h>
#include <stdlib.h>

#include "../src/matrix/layout.h"

using namespace leanedge::cuda;

namespace {

constexpr int32_t kRows = 3 * kTileRows;
constexpr int32_t kCols = 2 * kStepCols;
constexpr MatrixForm kTiled[] = {MatrixForm::kFp8, MatrixForm::kInt8, MatrixForm::kInt4};

int failures = 0;

void expect(bool ok, const char* what, MatrixForm form, int32_t row, int32_t col) {
  if (ok) return;
  ++failures;
  if (failures < 20) {
    printf("%s: form %d row %d col %d\n", what, static_cast<int>(form), row, col);
  }
}

// Bit of the matrix where the code of (row, col) begins.
size_t code_bit(MatrixForm form, int32_t row, int32_t col) {
  const size_t at = step_at(form, kCols, row, col) +
                    static_cast<size_t>(codes_at(form, row, col));
  const int32_t j = col % 8;
  return form == MatrixForm::kInt4
             ? at * 8 + static_cast<size_t>(4 * code_nibble(j))
             : (at + static_cast<size_t>(j / 4 * 4 + code_byte(j % 4))) * 8;
}

// Every byte of the matrix belongs to one weight, to one scale, or (int4) to two weights.
void check_places(MatrixForm form) {
  const size_t bytes = weight_bytes(form, kRows, kCols);
  uint8_t* bits_used = static_cast<uint8_t*>(calloc(bytes, 1));
  const int32_t code_bits = form == MatrixForm::kInt4 ? 4 : 8;
  for (int32_t row = 0; row < kRows; ++row) {
    for (int32_t col = 0; col < kCols; ++col) {
      const size_t bit = code_bit(form, row, col);
      const uint8_t mask =
          static_cast<uint8_t>(((1 << code_bits) - 1) << (bit % 8));
      expect(bit / 8 < bytes && !(bits_used[bit / 8] & mask), "two codes in one place", form, row,
             col);
      bits_used[bit / 8] = static_cast<uint8_t>(bits_used[bit / 8] | mask);
      if (!form_block_scales(form) || col % kUnitCols != 0) continue;
      const size_t at = step_at(form, kCols, row, col) +
                        static_cast<size_t>(scale_at(form, row, col));
      for (size_t i = at; i < at + 2; ++i) {
        expect(i < bytes && !bits_used[i], "a scale in a taken place", form, row, col);
        bits_used[i] = 0xff;
      }
    }
  }
  const size_t used = static_cast<size_t>(kRows / kTileRows) * tile_bytes(form, kCols);
  for (size_t i = 0; i < used; ++i) {
    expect(bits_used[i] == 0xff, "a hole", form, static_cast<int32_t>(i), 0);
  }
  free(bits_used);
}

// Lane 4 g + t of a tile, unit by unit: its 16-byte chunks, word by word, and in a word the pairs of
// neighbouring columns, low first.
void check_lanes(MatrixForm form) {
  for (int32_t row = 0; row < kRows; ++row) {
    for (int32_t col = 0; col < kCols; ++col) {
      const int32_t lane = 4 * (row % 8) + col % kUnitCols / 8;
      const int32_t unit = col % kStepCols / kUnitCols;
      const int32_t half = row % kTileRows / 8;
      const int32_t j = col % 8;
      size_t word = step_at(form, kCols, row, col) / 4 + static_cast<size_t>(lane) * 4;
      int32_t shift = 0;
      if (form == MatrixForm::kInt4) {
        // Two units a chunk: words are (unit, half) 00 01 10 11; pair p at bits 4 p and 4 p + 16.
        word += static_cast<size_t>(unit / 2 * 128 + unit % 2 * 2 + half);
        shift = j / 2 * 4 + j % 2 * 16;
      } else {
        // A unit a chunk: two words of row g, two of row g + 8; pair p at bits 8 p and 8 p + 16.
        word += static_cast<size_t>(unit * 128 + half * 2 + j / 4);
        shift = j % 4 / 2 * 8 + j % 2 * 16;
      }
      expect(code_bit(form, row, col) == word * 32 + static_cast<size_t>(shift),
             "not where a lane reads it", form, row, col);
    }
  }
}

// Matrices of odd shapes have room for whole tiles and steps.
void check_sizes() {
  for (const MatrixForm form : kTiled) {
    const size_t one = static_cast<size_t>(step_bytes(form));
    expect(tile_bytes(form, kStepCols + 32) == 2 * one, "steps of a tile", form, 0, 0);
    expect(weight_bytes(form, kTileRows + 1, kStepCols) >= 2 * one, "tiles of a matrix", form, 0, 0);
    expect(one % 16 == 0, "chunks of a step", form, 0, 0);
  }
  expect(weight_bytes(MatrixForm::kBf16, 3, 40) == 256, "bytes of a row-major matrix",
         MatrixForm::kBf16, 3, 40);
}

}  // namespace

int main() {
  for (const MatrixForm form : kTiled) {
    check_places(form);
    check_lanes(form);
  }
  check_sizes();
  printf(failures ? "matrix layout: %d failures\n" : "ok   matrix layout (%d failures)\n", failures);
  return failures ? 1 : 0;
}
