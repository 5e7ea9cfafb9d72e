// The loops that all matrix products share: tiles of 8 weight rows, and for each tile groups of up
// to kRowsMax activation rows, so that a tile is unpacked once a group and stays in the first-level
// cache for all of them. A product's order of summation does not depend on the group.
#pragma once

#include <string.h>

#include "layout.h"
#include "simd.h"

namespace leanedge::kernels {

// Writes one activation row's 8 results; the last tile may have fewer weight rows.
inline void store_tile(float* y, int32_t rows_left, v128_t lo, v128_t hi) {
  if (rows_left >= kTileRows) {
    simd::f32x4_store(y, lo);
    simd::f32x4_store(y + 4, hi);
    return;
  }
  float values[kTileRows];
  simd::f32x4_store(values, lo);
  simd::f32x4_store(values + 4, hi);
  memcpy(y, values, static_cast<size_t>(rows_left) * sizeof(float));
}

// Kernel: a type with
//   static constexpr int32_t kRowsMax                activation rows of its widest form, 1 .. 4
//   template <int32_t Rows> static void run(const uint8_t* tile, const Activations& activations,
//                                           int32_t row, v128_t (&out)[Rows][2])
// which multiplies one tile with activation rows row .. row + Rows - 1.
template <typename Kernel, int32_t Rows>
inline void run_tile(const MatmulRange& range, const uint8_t* tile, int32_t tile_index,
                     int32_t row) {
  v128_t out[Rows][2];
  Kernel::template run<Rows>(tile, *range.activations, row, out);
  const size_t stride = static_cast<size_t>(range.matrix->rows);
  const int32_t first = tile_index * kTileRows;
  float* y = range.y + static_cast<size_t>(row) * stride + static_cast<size_t>(first);
  for (int32_t r = 0; r < Rows; ++r, y += stride) {
    store_tile(y, range.matrix->rows - first, out[r][0], out[r][1]);
  }
}

template <typename Kernel>
inline void run_tiles(const MatmulRange& range) {
  const PackedMatrix& matrix = *range.matrix;
  const size_t bytes = tile_bytes(matrix.dtype, matrix.cols);
  const uint8_t* tile = matrix.data + static_cast<size_t>(range.tile_begin) * bytes;
  const int32_t rows = range.activations->rows;
  for (int32_t t = range.tile_begin; t < range.tile_end; ++t, tile += bytes) {
    int32_t row = 0;
    if constexpr (Kernel::kRowsMax >= 4) {
      for (; row + 4 <= rows; row += 4) run_tile<Kernel, 4>(range, tile, t, row);
    }
    if constexpr (Kernel::kRowsMax >= 2) {
      for (; row + 2 <= rows; row += 2) run_tile<Kernel, 2>(range, tile, t, row);
    }
    for (; row < rows; ++row) run_tile<Kernel, 1>(range, tile, t, row);
  }
}

}  // namespace leanedge::kernels
