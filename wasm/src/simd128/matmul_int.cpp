// Products of block weights (Q8_0, Q4_0, Q4_1) with int8 activations: exact integer sums within 32
// columns, then sum += (weight scale * activation scale) * integer sum in f32, block after block.
#include "layout.h"
#include "matmul_rows.h"
#include "simd.h"

namespace leanedge::kernels {
namespace {

// Two columns of one activation row, the same in all four 32-bit lanes.
inline v128_t load_pair(const int16_t* x) { return wasm_v128_load32_splat(x); }

inline v128_t mul_add_int(v128_t sum, v128_t weights, v128_t pair) {
  return wasm_i32x4_add(sum, wasm_i32x4_dot_i16x8(weights, pair));
}

// Four f16 scales times an activation's scale, times the integer sums, onto the f32 sums.
inline v128_t mul_add_scaled(v128_t sum, v128_t scales, v128_t ints, v128_t activation_scale) {
  const v128_t scale = wasm_f32x4_mul(scales, activation_scale);
  return wasm_f32x4_add(sum, wasm_f32x4_mul(scale, wasm_f32x4_convert_i32x4(ints)));
}

template <int32_t Rows>
struct Sums {
  v128_t f[Rows][2];  // f32 sums of rows 0-3 and 4-7 of the tile
  v128_t i[Rows][2];  // i32 sums within a block
};

struct Q8 {
  static constexpr int32_t kRowsMax = 4;

  template <int32_t Rows>
  static inline void run(const uint8_t* tile, const Activations& activations, int32_t row,
                         v128_t (&out)[Rows][2]) {
    const size_t blocks = activation_blocks(activations.cols);
    PreparedRow x[Rows];
    for (int32_t r = 0; r < Rows; ++r) {
      x[r] = prepared_row(activations.prepared, activations.cols, row + r);
      out[r][0] = out[r][1] = wasm_f32x4_const_splat(0.0f);
    }
    for (size_t b = 0; b < blocks; ++b, tile += block_bytes(Dtype::kQ8_0)) {
      const uint8_t* quants = tile + 16;
      v128_t ints[Rows][2];
      for (int32_t r = 0; r < Rows; ++r) ints[r][0] = ints[r][1] = wasm_i32x4_const_splat(0);
#pragma clang loop unroll(full)
      for (int32_t pair = 0; pair < 16; ++pair, quants += 16) {
        const v128_t lo = wasm_i16x8_load8x8(quants);
        const v128_t hi = wasm_i16x8_load8x8(quants + 8);
        for (int32_t r = 0; r < Rows; ++r) {
          const v128_t xs = load_pair(x[r].wide + b * kBlockCols + pair * 2);
          ints[r][0] = mul_add_int(ints[r][0], lo, xs);
          ints[r][1] = mul_add_int(ints[r][1], hi, xs);
        }
      }
      const v128_t scale_lo = simd::f16x4_load(tile);
      const v128_t scale_hi = simd::f16x4_load(tile + 8);
      for (int32_t r = 0; r < Rows; ++r) {
        const v128_t s = wasm_v128_load32_splat(x[r].scale + b);
        out[r][0] = mul_add_scaled(out[r][0], scale_lo, ints[r][0], s);
        out[r][1] = mul_add_scaled(out[r][1], scale_hi, ints[r][1], s);
      }
    }
  }
};

// Q4_0 (no minima: the offset -8 starts the integer sums) and Q4_1 (minima times the sum of
// activations, added after the block's product).
template <bool Minima>
struct Q4 {
  static constexpr int32_t kRowsMax = 4;

  template <int32_t Rows>
  static inline void run(const uint8_t* tile, const Activations& activations, int32_t row,
                         v128_t (&out)[Rows][2]) {
    constexpr size_t header = Minima ? 32 : 16;
    const size_t blocks = activation_blocks(activations.cols);
    const v128_t mask0 = wasm_i16x8_const_splat(0x000f);
    const v128_t mask1 = wasm_i16x8_const_splat(0x00f0);
    const v128_t mask2 = wasm_i16x8_const_splat(0x0f00);
    PreparedRow x[Rows];
    for (int32_t r = 0; r < Rows; ++r) {
      x[r] = prepared_row(activations.prepared, activations.cols, row + r);
      out[r][0] = out[r][1] = wasm_f32x4_const_splat(0.0f);
    }
    for (size_t b = 0; b < blocks; ++b, tile += header + 128) {
      const uint8_t* quants = tile + header;
      v128_t ints[Rows][2];
      for (int32_t r = 0; r < Rows; ++r) {
        ints[r][0] = ints[r][1] =
            Minima ? wasm_i32x4_const_splat(0) : wasm_v128_load32_splat(x[r].offset + b);
      }
#pragma clang loop unroll(full)
      for (int32_t group = 0; group < 4; ++group, quants += 32) {
        const v128_t lo = wasm_v128_load(quants);
        const v128_t hi = wasm_v128_load(quants + 16);
        const v128_t planes_lo[4] = {wasm_v128_and(lo, mask0), wasm_v128_and(lo, mask1),
                                     wasm_v128_and(lo, mask2), wasm_u16x8_shr(lo, 12)};
        const v128_t planes_hi[4] = {wasm_v128_and(hi, mask0), wasm_v128_and(hi, mask1),
                                     wasm_v128_and(hi, mask2), wasm_u16x8_shr(hi, 12)};
        for (int32_t p = 0; p < 4; ++p) {
          for (int32_t r = 0; r < Rows; ++r) {
            const v128_t xs = load_pair(x[r].planes + b * kBlockCols + group * 8 + p * 2);
            ints[r][0] = mul_add_int(ints[r][0], planes_lo[p], xs);
            ints[r][1] = mul_add_int(ints[r][1], planes_hi[p], xs);
          }
        }
      }
      const v128_t scale_lo = simd::f16x4_load(tile);
      const v128_t scale_hi = simd::f16x4_load(tile + 8);
      for (int32_t r = 0; r < Rows; ++r) {
        const v128_t s = wasm_v128_load32_splat(x[r].scale8 + b);
        out[r][0] = mul_add_scaled(out[r][0], scale_lo, ints[r][0], s);
        out[r][1] = mul_add_scaled(out[r][1], scale_hi, ints[r][1], s);
        if constexpr (Minima) {
          const v128_t sum = wasm_v128_load32_splat(x[r].sum + b);
          const v128_t whole = wasm_v128_load32_splat(x[r].scale + b);
          const v128_t min_lo = wasm_f32x4_mul(simd::f16x4_load(tile + 16), whole);
          const v128_t min_hi = wasm_f32x4_mul(simd::f16x4_load(tile + 24), whole);
          out[r][0] = wasm_f32x4_add(out[r][0], wasm_f32x4_mul(min_lo, sum));
          out[r][1] = wasm_f32x4_add(out[r][1], wasm_f32x4_mul(min_hi, sum));
        }
      }
    }
  }
};

}  // namespace

void matmul_q8_0_simd128(const MatmulRange& range) { run_tiles<Q8>(range); }

void matmul_q4_0_simd128(const MatmulRange& range) { run_tiles<Q4<false>>(range); }

void matmul_q4_1_simd128(const MatmulRange& range) { run_tiles<Q4<true>>(range); }

}  // namespace leanedge::kernels
