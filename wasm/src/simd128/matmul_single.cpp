// Products of block weights (Q8_0, Q4_0, Q4_1) with up to three rows of int8 activations, straight
// from the packed stream: exact integer sums within 32 columns, then sum += (weight scale *
// activation scale) * integer sum in f32, block after block. One row at a time: a tile stays in the
// first-level cache for the next row.
#include "dot.h"
#include "layout.h"
#include "matmul_rows.h"
#include "simd.h"

namespace leanedge::kernels {
namespace {

// Integer sums of one block for rows 0-3 and 4-7 of a tile.
struct Ints {
  v128_t lo;
  v128_t hi;
};

// A place that sums so far are written to and that nobody reads. Engines put all loads of a straight
// piece of code before its arithmetic, which spills registers; they may not put them before a store,
// which in turn needs the arithmetic. So one store after some columns keeps loads and arithmetic
// together: 1.4 to 1.9 times the speed where weights come from memory (Node 22).
struct Fence {
  volatile v128_t lo;
  volatile v128_t hi;
  inline void hold(v128_t sum_lo, v128_t sum_hi) {
    lo = sum_lo;
    hi = sum_hi;
  }
};

// Each Form below: what a block of weights is, and its integer sums with one activation block.

// Q8_0 with products of 16-bit lanes: layout.h has the algebra.
struct Q8Lanes {
  static constexpr size_t kHeader = 16;
  static constexpr size_t kQuants = 256;
  static constexpr int32_t kUnroll = 2;
  static constexpr bool kMinima = false;
  static inline Ints sums(const uint8_t* quants, const RowBlock* x, Fence& fence) {
    const v128_t even = wasm_i16x8_const_splat(0x00ff);
    v128_t lo = wasm_v128_load(x->offset_even);
    v128_t hi = lo;
#pragma clang loop unroll(full)
    for (int32_t quad = 0; quad < 8; ++quad, quants += 32) {
      const v128_t x_odd = wasm_v128_load(x->odd_even[quad][0]);
      const v128_t x_even = wasm_v128_load(x->odd_even[quad][1]);
      const v128_t w_lo = wasm_v128_load(quants);
      const v128_t w_hi = wasm_v128_load(quants + 16);
      lo = mul_add_int(lo, w_lo, x_odd);
      hi = mul_add_int(hi, w_hi, x_odd);
      lo = mul_add_int(lo, wasm_v128_and(w_lo, even), x_even);
      hi = mul_add_int(hi, wasm_v128_and(w_hi, even), x_even);
      if (quad % 2 == 1) fence.hold(lo, hi);
    }
    return {wasm_i32x4_shr(lo, 8), wasm_i32x4_shr(hi, 8)};
  }
};

#ifdef __wasm_relaxed_simd__

// Q8_0 where bytes of weights may have their top bit: odd columns get the bias of even ones, too.
struct Q8Bytes {
  static constexpr size_t kHeader = 16;
  static constexpr size_t kQuants = 256;
  static constexpr int32_t kUnroll = 2;
  static constexpr bool kMinima = false;
  static inline Ints sums(const uint8_t* quants, const RowBlock* x, Fence& fence) {
    const v128_t flip = wasm_u16x8_const_splat(0x8000);
    v128_t lo = wasm_v128_load(x->offset8);
    v128_t hi = lo;
#pragma clang loop unroll(full)
    for (int32_t quad = 0; quad < 8; ++quad, quants += 32) {
      const v128_t xs = wasm_v128_load(x->quads[quad]);
      lo = dot_add_i32(xs, wasm_v128_xor(wasm_v128_load(quants), flip), lo);
      hi = dot_add_i32(xs, wasm_v128_xor(wasm_v128_load(quants + 16), flip), hi);
      if (quad % 2 == 1) fence.hold(lo, hi);
    }
    return {lo, hi};
  }
};

// Nibbles, four products an instruction.
template <bool Minima>
struct Q4Bytes {
  static constexpr size_t kHeader = Minima ? 32 : 16;
  static constexpr size_t kQuants = 128;
  static constexpr int32_t kUnroll = 4;
  static constexpr bool kMinima = Minima;
  static inline Ints sums(const uint8_t* quants, const RowBlock* x, Fence& fence) {
    const v128_t mask = wasm_u8x16_const_splat(0x0f);
    v128_t lo = Minima ? wasm_i32x4_const_splat(0) : wasm_v128_load(x->offset4);
    v128_t hi = lo;
#pragma clang loop unroll(full)
    for (int32_t group = 0; group < 4; ++group, quants += 32) {
      const v128_t x_low = wasm_v128_load(x->nibbles[group][0]);
      const v128_t x_high = wasm_v128_load(x->nibbles[group][1]);
      const v128_t w_lo = wasm_v128_load(quants);
      const v128_t w_hi = wasm_v128_load(quants + 16);
      lo = dot_add_i32(x_low, wasm_v128_and(w_lo, mask), lo);
      hi = dot_add_i32(x_low, wasm_v128_and(w_hi, mask), hi);
      lo = dot_add_i32(x_high, wasm_v128_and(wasm_u16x8_shr(w_lo, 4), mask), lo);
      hi = dot_add_i32(x_high, wasm_v128_and(wasm_u16x8_shr(w_hi, 4), mask), hi);
      fence.hold(lo, hi);
    }
    return {lo, hi};
  }
};

// Nibbles, two products an instruction. A 16-bit lane adds up 8 dots of at most 2 * 15 * 127: 30,480.
template <bool Minima>
struct Q4Pairs {
  static constexpr size_t kHeader = Minima ? 32 : 16;
  static constexpr size_t kQuants = 128;
  static constexpr int32_t kUnroll = 4;
  static constexpr bool kMinima = Minima;
  static inline Ints sums(const uint8_t* quants, const RowBlock* x, Fence& fence) {
    const v128_t mask = wasm_u8x16_const_splat(0x0f);
    v128_t lo = wasm_i16x8_const_splat(0);
    v128_t hi = lo;
#pragma clang loop unroll(full)
    for (int32_t group = 0; group < 4; ++group, quants += 32) {
      const v128_t x_low = wasm_v128_load(x->nibbles[group][0]);
      const v128_t x_high = wasm_v128_load(x->nibbles[group][1]);
      const v128_t w_lo = wasm_v128_load(quants);
      const v128_t w_hi = wasm_v128_load(quants + 16);
      lo = wasm_i16x8_add(lo, dot_i16(x_low, wasm_v128_and(w_lo, mask)));
      hi = wasm_i16x8_add(hi, dot_i16(x_low, wasm_v128_and(w_hi, mask)));
      lo = wasm_i16x8_add(lo, dot_i16(x_high, wasm_v128_and(wasm_u16x8_shr(w_lo, 4), mask)));
      hi = wasm_i16x8_add(hi, dot_i16(x_high, wasm_v128_and(wasm_u16x8_shr(w_hi, 4), mask)));
      fence.hold(lo, hi);
    }
    const v128_t ones = wasm_i16x8_const_splat(1);
    const v128_t start =
        Minima ? wasm_i32x4_const_splat(0) : wasm_v128_load(x->offset4);
    return {mul_add_int(start, lo, ones), mul_add_int(start, hi, ones)};
  }
};

#else

// Nibbles with products of 16-bit lanes, masked in place.
template <bool Minima>
struct Q4Lanes {
  static constexpr size_t kHeader = Minima ? 32 : 16;
  static constexpr size_t kQuants = 128;
  static constexpr int32_t kUnroll = 4;
  static constexpr bool kMinima = Minima;
  static inline Ints sums(const uint8_t* quants, const RowBlock* x, Fence& fence) {
    const v128_t masks[3] = {wasm_i16x8_const_splat(0x000f), wasm_i16x8_const_splat(0x00f0),
                             wasm_i16x8_const_splat(0x0f00)};
    v128_t lo = Minima ? wasm_i32x4_const_splat(0) : wasm_v128_load(x->offset4);
    v128_t hi = lo;
#pragma clang loop unroll(full)
    for (int32_t group = 0; group < 4; ++group, quants += 32) {
      const v128_t w_lo = wasm_v128_load(quants);
      const v128_t w_hi = wasm_v128_load(quants + 16);
#pragma clang loop unroll(full)
      for (int32_t plane = 0; plane < 4; ++plane) {
        const v128_t xs = wasm_v128_load(x->planes[group][plane]);
        const v128_t n_lo = plane < 3 ? wasm_v128_and(w_lo, masks[plane]) : wasm_u16x8_shr(w_lo, 12);
        const v128_t n_hi = plane < 3 ? wasm_v128_and(w_hi, masks[plane]) : wasm_u16x8_shr(w_hi, 12);
        lo = mul_add_int(lo, n_lo, xs);
        hi = mul_add_int(hi, n_hi, xs);
      }
      fence.hold(lo, hi);
    }
    return {wasm_i32x4_shr(lo, 8), wasm_i32x4_shr(hi, 8)};
  }
};

#endif

// One tile times one row.
template <typename Form>
inline void run_row(const uint8_t* tile, const RowBlock* x, size_t blocks, float* y,
                    int32_t rows_left) {
  Fence fence;
  v128_t lo = wasm_f32x4_const_splat(0.0f);
  v128_t hi = lo;
#pragma clang loop unroll_count(Form::kUnroll)
  for (const RowBlock* end = x + blocks; x != end; ++x, tile += Form::kHeader + Form::kQuants) {
    const Ints ints = Form::sums(tile + Form::kHeader, x, fence);
    const v128_t scale = simd::f32x4_load(x->scale);
    lo = mul_add_scaled(lo, scales_load(tile), ints.lo, scale);
    hi = mul_add_scaled(hi, scales_load(tile + 8), ints.hi, scale);
    if constexpr (Form::kMinima) {
      const v128_t sum = simd::f32x4_load(x->sum);
      lo = mul_add_minima(lo, scales_load(tile + 16), scale, sum);
      hi = mul_add_minima(hi, scales_load(tile + 24), scale, sum);
    }
  }
  store_tile(y, rows_left, lo, hi);
}

// A function for each form: engines compile what is used, and the sooner the smaller it is.
template <typename Form>
__attribute__((noinline)) void run_tiles(const MatmulRange& range) {
  const PackedMatrix& matrix = *range.matrix;
  const Activations& activations = *range.activations;
  const size_t bytes = tile_bytes(matrix.dtype, matrix.cols);
  const size_t blocks = activation_blocks(matrix.cols);
  const size_t stride = static_cast<size_t>(matrix.rows);
  const uint8_t* tile = matrix.data + static_cast<size_t>(range.tile_begin) * bytes;
  for (int32_t t = range.tile_begin; t < range.tile_end; ++t, tile += bytes) {
    const int32_t first = t * kTileRows;
    float* y = range.y + static_cast<size_t>(first);
    for (int32_t row = 0; row < activations.rows; ++row, y += stride) {
      run_row<Form>(tile, prepared_row(activations.prepared, activations.cols, row), blocks, y,
                    matrix.rows - first);
    }
  }
}

}  // namespace

void matmul_single_simd128(const MatmulRange& range) {
  const Dtype dtype = range.matrix->dtype;
#ifdef __wasm_relaxed_simd__
  if (dot_bytes_exact()) {
    if (dtype == Dtype::kQ8_0) return run_tiles<Q8Bytes>(range);
    if (dtype == Dtype::kQ4_0) return run_tiles<Q4Bytes<false>>(range);
    return run_tiles<Q4Bytes<true>>(range);
  }
  if (dtype == Dtype::kQ4_0) return run_tiles<Q4Pairs<false>>(range);
  if (dtype == Dtype::kQ4_1) return run_tiles<Q4Pairs<true>>(range);
#else
  if (dtype == Dtype::kQ4_0) return run_tiles<Q4Lanes<false>>(range);
  if (dtype == Dtype::kQ4_1) return run_tiles<Q4Lanes<true>>(range);
#endif
  run_tiles<Q8Lanes>(range);
}

}  // namespace leanedge::kernels
