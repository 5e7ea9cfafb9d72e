// Activations in int8, in the forms that the integer kernels multiply with (layout.h).
#include "dot.h"
#include "layout.h"
#include "parallel.h"
#include "simd.h"

namespace leanedge::kernels {
namespace {

// Towards zero after adding a half away from zero, clamped to -127 .. 127 (a subnormal scale is
// coarse enough for a quotient beyond that); NaN becomes 0. The reference's steps exactly.
inline v128_t round_half_away(v128_t x) {
  const v128_t sign = wasm_v128_and(x, wasm_i32x4_const_splat(static_cast<int32_t>(0x80000000u)));
  const v128_t half = wasm_v128_or(sign, wasm_f32x4_const_splat(0.5f));
  v128_t q = wasm_f32x4_pmin(wasm_f32x4_add(x, half), wasm_f32x4_const_splat(127.0f));
  q = wasm_f32x4_pmax(q, wasm_f32x4_const_splat(-127.0f));
  return wasm_i32x4_trunc_sat_f32x4(q);
}

// A block's int8 values as i16, and what both forms need of them.
struct Quantised {
  v128_t q[4];  // 8 columns each
  float scale;
  int32_t sum;       // of q
  int32_t even_sum;  // of q over even columns
};

inline int32_t sum_lanes(v128_t v) {
  return (wasm_i32x4_extract_lane(v, 0) + wasm_i32x4_extract_lane(v, 1)) +
         (wasm_i32x4_extract_lane(v, 2) + wasm_i32x4_extract_lane(v, 3));
}

// x: (32) f32.
inline Quantised quantise(const float* x) {
  Quantised out;
  v128_t peak = wasm_f32x4_const_splat(0.0f);
#pragma clang loop unroll(full)
  for (int32_t c = 0; c < kBlockCols; c += 4) {
    peak = wasm_f32x4_max(peak, wasm_f32x4_abs(simd::f32x4_load(x + c)));
  }
  out.scale = simd::f32x4_max(peak) / 127.0f;
  // 0 / 0 and infinity / infinity are NaN, hence q = 0. With an input that is not finite the scale
  // is not either, and the products become NaN, which sampling then reports.
  const v128_t scales = wasm_f32x4_splat(out.scale);
  v128_t sum = wasm_i32x4_const_splat(0);
  v128_t even_sum = sum;
#pragma clang loop unroll(full)
  for (int32_t i = 0; i < 4; ++i) {
    const v128_t lo = round_half_away(wasm_f32x4_div(simd::f32x4_load(x + 8 * i), scales));
    const v128_t hi = round_half_away(wasm_f32x4_div(simd::f32x4_load(x + 8 * i + 4), scales));
    out.q[i] = wasm_i16x8_narrow_i32x4(lo, hi);
    sum = wasm_i32x4_add(sum, wasm_i32x4_dot_i16x8(out.q[i], wasm_i16x8_const_splat(1)));
    even_sum = wasm_i32x4_add(
        even_sum, wasm_i32x4_dot_i16x8(out.q[i], wasm_i16x8_const(1, 0, 1, 0, 1, 0, 1, 0)));
  }
  out.sum = sum_lanes(sum);
  out.even_sum = sum_lanes(even_sum);
  return out;
}

// Writes each 32-bit lane of v as a vector of four of it, one behind the other: 64 bytes.
inline void store_splats(v128_t v, void* out) {
  uint8_t* at = static_cast<uint8_t*>(out);
  wasm_v128_store(at, wasm_i32x4_shuffle(v, v, 0, 0, 0, 0));
  wasm_v128_store(at + 16, wasm_i32x4_shuffle(v, v, 1, 1, 1, 1));
  wasm_v128_store(at + 32, wasm_i32x4_shuffle(v, v, 2, 2, 2, 2));
  wasm_v128_store(at + 48, wasm_i32x4_shuffle(v, v, 3, 3, 3, 3));
}

// Columns as 16-bit lanes, odd beside even, for Q8_0.
inline void write_odd_even(const Quantised& in, RowBlock* out) {
#pragma clang loop unroll(full)
  for (int32_t i = 0; i < 4; ++i) {
    const v128_t q = in.q[i];
    const v128_t odd = wasm_i16x8_shuffle(q, q, 1, 3, 1, 3, 5, 7, 5, 7);
    const v128_t even = wasm_i16x8_shuffle(q, q, 0, 2, 0, 2, 4, 6, 4, 6);
    const v128_t rest = wasm_i16x8_sub(wasm_i16x8_shl(even, 8), odd);
    store_splats(wasm_i32x4_shuffle(odd, rest, 0, 5, 2, 7),
                     out->odd_even[2 * i]);
  }
}

#ifdef __wasm_relaxed_simd__

void write_row(const Quantised& in, RowBlock* out) {
  // Of the two forms that Q8_0 may meet only the one that it will.
  const bool bytes = dot_bytes_exact();
  if (!bytes) write_odd_even(in, out);
#pragma clang loop unroll(full)
  for (int32_t i = 0; i < 2; ++i) {
    const v128_t q = wasm_i8x16_narrow_i16x8(in.q[2 * i], in.q[2 * i + 1]);
    if (bytes) store_splats(q, out->quads[4 * i]);
    store_splats(
        wasm_i8x16_shuffle(q, q, 0, 4, 2, 6, 1, 5, 3, 7, 8, 12, 10, 14, 9, 13, 11, 15),
        out->nibbles[2 * i]);
  }
#else

void write_row(const Quantised& in, RowBlock* out) {
  write_odd_even(in, out);
#pragma clang loop unroll(full)
  for (int32_t i = 0; i < 4; ++i) {
    const v128_t q = in.q[i];
    const v128_t factors = wasm_i16x8_const(256, 256, 16, 16, 1, 1, 256, 256);
    store_splats(wasm_i16x8_mul(wasm_i16x8_shuffle(q, q, 0, 2, 1, 3, 4, 6, 5, 7), factors),
                     out->planes[i]);
  }
#endif
  simd::f32x4_store(out->scale, wasm_f32x4_splat(in.scale));
  wasm_v128_store(out->offset_even, wasm_i32x4_splat(-128 * 256 * in.even_sum));
  wasm_v128_store(out->offset8, wasm_i32x4_splat(-128 * in.sum));
  wasm_v128_store(out->offset4, wasm_i32x4_splat((kRelaxed ? -8 : -8 * 256) * in.sum));
  simd::f32x4_store(out->sum, wasm_f32x4_splat(static_cast<float>(in.sum)));
}

void write_group(const Quantised& in, int32_t r, GroupBlock* out) {
#pragma clang loop unroll(full)
  for (int32_t i = 0; i < 4; ++i) {
    const v128_t q = wasm_i16x8_shuffle(in.q[i], in.q[i], 0, 2, 1, 3, 4, 6, 5, 7);
    wasm_v128_store32_lane(out->pairs[4 * i][r], q, 0);
    wasm_v128_store32_lane(out->pairs[4 * i + 1][r], q, 1);
    wasm_v128_store32_lane(out->pairs[4 * i + 2][r], q, 2);
    wasm_v128_store32_lane(out->pairs[4 * i + 3][r], q, 3);
  }
#ifdef __wasm_relaxed_simd__
#pragma clang loop unroll(full)
  for (int32_t i = 0; i < 2; ++i) {
    const v128_t q = wasm_i8x16_narrow_i16x8(in.q[2 * i], in.q[2 * i + 1]);
    wasm_v128_store32_lane(out->quads[4 * i][r], q, 0);
    wasm_v128_store32_lane(out->quads[4 * i + 1][r], q, 1);
    wasm_v128_store32_lane(out->quads[4 * i + 2][r], q, 2);
    wasm_v128_store32_lane(out->quads[4 * i + 3][r], q, 3);
  }
#endif
  out->scale[r] = in.scale;
  out->offset8[r] = -128 * in.sum;
  out->offset4[r] = -8 * in.sum;
  out->sum[r] = static_cast<float>(in.sum);
}

// Block `block` of row `row`, zeros where the row ends or there is none.
Quantised quantise_block(const Activations& activations, int32_t row, int32_t block) {
  float last[kBlockCols];
  const int32_t left = activations.cols - block * kBlockCols;
  const float* x = activations.x +
                   static_cast<size_t>(row) * static_cast<size_t>(activations.cols) +
                   static_cast<size_t>(block) * kBlockCols;
  if (row < activations.rows && left >= kBlockCols) return quantise(x);
  for (int32_t c = 0; c < kBlockCols; ++c) last[c] = row < activations.rows && c < left ? x[c] : 0;
  return quantise(last);
}

struct Prepare {
  const Activations* activations;
  int32_t blocks;
};

void prepare_rows(void* arg, int32_t begin, int32_t end, int32_t) {
  const Prepare& work = *static_cast<const Prepare*>(arg);
  const Activations& a = *work.activations;
  for (int32_t row = begin; row < end; ++row) {
    RowBlock* out = prepared_row(a.prepared, a.cols, row);
    for (int32_t b = 0; b < work.blocks; ++b) write_row(quantise_block(a, row, b), &out[b]);
  }
}

void prepare_groups(void* arg, int32_t begin, int32_t end, int32_t) {
  const Prepare& work = *static_cast<const Prepare*>(arg);
  const Activations& a = *work.activations;
  for (int32_t group = begin; group < end; ++group) {
    GroupBlock* out = prepared_group(a.prepared, a.cols, group);
    for (int32_t b = 0; b < work.blocks; ++b) {
      for (int32_t r = 0; r < kGroupRows; ++r) {
        write_group(quantise_block(a, group * kGroupRows + r, b), r, &out[b]);
      }
    }
  }
}

int32_t groups_of(int32_t rows) { return (rows + kGroupRows - 1) / kGroupRows; }

}  // namespace

size_t activations_bytes(int32_t rows, int32_t cols) {
  ENGINE_ASSERT(rows > 0 && cols > 0);
  // Room for fewer rows, too: single rows take more each than rows in groups.
  const int32_t singles = rows < kSingleRowsMax ? rows : kSingleRowsMax;
  const size_t single = static_cast<size_t>(singles) * sizeof(RowBlock);
  const size_t grouped =
      rows > kSingleRowsMax ? static_cast<size_t>(groups_of(rows)) * sizeof(GroupBlock) : 0;
  return (single > grouped ? single : grouped) * activation_blocks(cols);
}

void prepare_activations(Context* context, Activations& activations) {
  Prepare work = {&activations, static_cast<int32_t>(activation_blocks(activations.cols))};
  if (activations.rows > kSingleRowsMax) {
    parallel_for(context, groups_of(activations.rows), prepare_groups, &work);
  } else {
    prepare_rows(&work, 0, activations.rows, 0);
  }
}

}  // namespace leanedge::kernels
