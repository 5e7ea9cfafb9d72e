// Products of float weights (F32, F16, BF16) with f32 activations. Lane j of a sum takes the
// columns = j mod 4 in increasing order, in runs of kRunCols columns whose sums are then added up:
// rounding errors grow with the length of a run and the number of runs, not with their product. The
// four lanes are added as (s0 + s1) + (s2 + s3).
#include "layout.h"
#include "matmul_rows.h"
#include "simd.h"

namespace leanedge::kernels {
namespace {

struct F32Weights {
  static constexpr Dtype kDtype = Dtype::kF32;
  static inline v128_t load(const uint8_t* block, int32_t lane) {
    return wasm_v128_load(block + lane * 16);
  }
};

struct F16Weights {
  static constexpr Dtype kDtype = Dtype::kF16;
  static inline v128_t load(const uint8_t* block, int32_t lane) {
    return simd::f16x4_load(block + lane * 8);
  }
};

struct Bf16Weights {
  static constexpr Dtype kDtype = Dtype::kBF16;
  static inline v128_t load(const uint8_t* block, int32_t lane) {
    return wasm_i32x4_shl(wasm_u32x4_load16x4(block + lane * 8), 16);
  }
};

// The last 1 .. 3 activations of a row; what is missing is 0, as the weights there are.
inline v128_t load_tail(const float* x, int32_t left) {
  return wasm_f32x4_make(x[0], left > 1 ? x[1] : 0.0f, left > 2 ? x[2] : 0.0f, 0.0f);
}

constexpr int32_t kRunCols = 64;

template <typename Weights>
struct Float {
  // sums += one block of weights times four activations of each row.
  template <int32_t Rows>
  static inline void add_block(const uint8_t* block, const v128_t (&xs)[Rows],
                               v128_t (&sums)[Rows][kTileRows]) {
    for (int32_t n = 0; n < kTileRows; ++n) {
      const v128_t w = Weights::load(block, n);
      for (int32_t r = 0; r < Rows; ++r) {
        sums[r][n] = wasm_f32x4_add(sums[r][n], wasm_f32x4_mul(w, xs[r]));
      }
    }
  }

  template <int32_t Rows>
  static inline void run(const uint8_t* tile, const Activations& activations, int32_t row,
                         v128_t (&out)[Rows][2]) {
    const int32_t cols = activations.cols;
    const int32_t whole = cols / kFloatCols * kFloatCols;
    const float* x[Rows];
    for (int32_t r = 0; r < Rows; ++r) {
      x[r] = activations.x + static_cast<size_t>(row + r) * static_cast<size_t>(cols);
    }
    v128_t xs[Rows];
    v128_t totals[Rows][kTileRows] = {};
    for (int32_t begin = 0; begin < whole; begin += kRunCols) {
      const int32_t end = whole - begin < kRunCols ? whole : begin + kRunCols;
      v128_t sums[Rows][kTileRows] = {};
      for (int32_t c = begin; c < end; c += kFloatCols, tile += block_bytes(Weights::kDtype)) {
        for (int32_t r = 0; r < Rows; ++r) xs[r] = simd::f32x4_load(x[r] + c);
        add_block<Rows>(tile, xs, sums);
      }
      for (int32_t r = 0; r < Rows; ++r) {
        for (int32_t n = 0; n < kTileRows; ++n) {
          totals[r][n] = wasm_f32x4_add(totals[r][n], sums[r][n]);
        }
      }
    }
    if (whole < cols) {
      for (int32_t r = 0; r < Rows; ++r) xs[r] = load_tail(x[r] + whole, cols - whole);
      add_block<Rows>(tile, xs, totals);
    }
    for (int32_t r = 0; r < Rows; ++r) {
      out[r][0] = simd::f32x4_sum4(totals[r][0], totals[r][1], totals[r][2], totals[r][3]);
      out[r][1] = simd::f32x4_sum4(totals[r][4], totals[r][5], totals[r][6], totals[r][7]);
    }
  }
};

// Multiplies one tile with activation rows row .. row + Rows - 1.
template <typename Weights, int32_t Rows>
inline void run_rows(const MatmulRange& range, const uint8_t* tile, int32_t tile_index,
                     int32_t row) {
  v128_t out[Rows][2];
  Float<Weights>::template run<Rows>(tile, *range.activations, row, out);
  const size_t stride = static_cast<size_t>(range.matrix->rows);
  const int32_t first = tile_index * kTileRows;
  float* y = range.y + static_cast<size_t>(row) * stride + static_cast<size_t>(first);
  for (int32_t r = 0; r < Rows; ++r, y += stride) {
    store_tile(y, range.matrix->rows - first, out[r][0], out[r][1]);
  }
}

// Two activation rows at a time, so that a tile is loaded once for both.
template <typename Weights>
inline void run_tiles(const MatmulRange& range) {
  const PackedMatrix& matrix = *range.matrix;
  const size_t bytes = tile_bytes(matrix.dtype, matrix.cols);
  const uint8_t* tile = matrix.data + static_cast<size_t>(range.tile_begin) * bytes;
  const int32_t rows = range.activations->rows;
  for (int32_t t = range.tile_begin; t < range.tile_end; ++t, tile += bytes) {
    int32_t row = 0;
    for (; row + 2 <= rows; row += 2) run_rows<Weights, 2>(range, tile, t, row);
    if (row < rows) run_rows<Weights, 1>(range, tile, t, row);
  }
}

}  // namespace

void matmul_f32_simd128(const MatmulRange& range) { run_tiles<F32Weights>(range); }

void matmul_f16_simd128(const MatmulRange& range) { run_tiles<F16Weights>(range); }

void matmul_bf16_simd128(const MatmulRange& range) { run_tiles<Bf16Weights>(range); }

}  // namespace leanedge::kernels
