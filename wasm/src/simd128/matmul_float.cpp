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

// Four activations; those past the end are 0, as the weights there are.
inline v128_t load_x(const float* x, int32_t left) {
  if (left >= kFloatCols) return simd::f32x4_load(x);
  return wasm_f32x4_make(left > 0 ? x[0] : 0.0f, left > 1 ? x[1] : 0.0f, left > 2 ? x[2] : 0.0f,
                         0.0f);
}

constexpr int32_t kRunCols = 64;

template <typename Weights>
struct Float {
  static constexpr int32_t kRowsMax = 2;  // 8 weight rows x 2: as many sums as registers

  template <int32_t Rows>
  static inline void run(const uint8_t* tile, const Activations& activations, int32_t row,
                         v128_t (&out)[Rows][2]) {
    const int32_t cols = activations.cols;
    const float* x = activations.x + static_cast<size_t>(row) * static_cast<size_t>(cols);
    v128_t totals[Rows][kTileRows] = {};
    for (int32_t begin = 0; begin < cols; begin += kRunCols) {
      const int32_t end = cols - begin < kRunCols ? cols : begin + kRunCols;
      v128_t sums[Rows][kTileRows] = {};
      for (int32_t c = begin; c < end; c += kFloatCols, tile += block_bytes(Weights::kDtype)) {
        v128_t xs[Rows];
        for (int32_t r = 0; r < Rows; ++r) {
          xs[r] = load_x(x + static_cast<size_t>(r) * static_cast<size_t>(cols) + c, cols - c);
        }
        for (int32_t n = 0; n < kTileRows; ++n) {
          const v128_t w = Weights::load(tile, n);
          for (int32_t r = 0; r < Rows; ++r) {
            sums[r][n] = wasm_f32x4_add(sums[r][n], wasm_f32x4_mul(w, xs[r]));
          }
        }
      }
      for (int32_t r = 0; r < Rows; ++r) {
        for (int32_t n = 0; n < kTileRows; ++n) {
          totals[r][n] = wasm_f32x4_add(totals[r][n], sums[r][n]);
        }
      }
    }
    for (int32_t r = 0; r < Rows; ++r) {
      out[r][0] = simd::f32x4_sum4(totals[r][0], totals[r][1], totals[r][2], totals[r][3]);
      out[r][1] = simd::f32x4_sum4(totals[r][4], totals[r][5], totals[r][6], totals[r][7]);
    }
  }
};

}  // namespace

void matmul_f32_simd128(const MatmulRange& range) { run_tiles<Float<F32Weights>>(range); }

void matmul_f16_simd128(const MatmulRange& range) { run_tiles<Float<F16Weights>>(range); }

void matmul_bf16_simd128(const MatmulRange& range) { run_tiles<Float<Bf16Weights>>(range); }

}  // namespace leanedge::kernels
