// Products of block weights with four rows of int8 activations and more. A run of a tile's blocks is
// unpacked once into a panel, which stays in the first-level cache while all groups of four rows meet
// it; four rows by eight weight rows are 8 integer sums in registers. Sums are those of
// matmul_single.cpp in the same order.
//
// The inner loops take one step of columns a turn and are kept from being unrolled: engines place
// all loads of a straight piece of code before its arithmetic, so a longer piece spills registers.
#include "dot.h"
#include "layout.h"
#include "matmul_rows.h"
#include "simd.h"

namespace leanedge::kernels {
namespace {

// Blocks of a panel: 2,048 columns.
constexpr size_t kPanelBlocks = 64;

// A block of a panel: scales and minima as f32, then the weights of 8 rows in one of two forms:
//   lanes  for columns 0 and 2 of each 4, then 1 and 3: (8 rows, 2 columns) i16
//   bytes  for each 4 columns: (8 rows, 4 columns) u8, Q8_0's as q + 128
struct PanelBlock {
  float scale[kTileRows];
  float minimum[kTileRows];
  uint8_t weights[512];
};

struct Panel {
  PanelBlock blocks[kPanelBlocks];
};

// Sums of a group: four activation rows, eight weight rows.
struct GroupSums {
  float at[kGroupRows][kTileRows];
};

// ---- unpacking ------------------------------------------------------------------------------

// Bytes of 4 columns (layout.h's Q8_0) -> i16 lanes.
inline void unpack_q8_lanes(v128_t v, uint8_t* even, uint8_t* odd) {
  const v128_t low = wasm_v128_and(v, wasm_i16x8_const_splat(0x00ff));
  wasm_v128_store(even, wasm_i16x8_sub(low, wasm_i16x8_const_splat(128)));
  wasm_v128_store(odd, wasm_i16x8_shr(v, 8));
}

void unpack_q8(const uint8_t* quants, bool bytes, uint8_t* out) {
  if (bytes) {
    const v128_t flip = wasm_u16x8_const_splat(0x8000);
    for (int32_t i = 0; i < 256; i += 16) {
      wasm_v128_store(out + i, wasm_v128_xor(wasm_v128_load(quants + i), flip));
    }
    return;
  }
  for (int32_t quad = 0; quad < 8; ++quad, quants += 32, out += 64) {
    unpack_q8_lanes(wasm_v128_load(quants), out, out + 32);
    unpack_q8_lanes(wasm_v128_load(quants + 16), out + 16, out + 48);
  }
}

// Nibbles of 8 columns of 4 rows -> lanes at 0, 32, 64, 96 (columns 0 2, 1 3, 4 6, 5 7).
inline void unpack_q4_lanes(v128_t v, v128_t bias, uint8_t* out) {
  const v128_t mask = wasm_i16x8_const_splat(0x000f);
  wasm_v128_store(out, wasm_i16x8_sub(wasm_v128_and(v, mask), bias));
  wasm_v128_store(out + 32, wasm_i16x8_sub(wasm_v128_and(wasm_u16x8_shr(v, 4), mask), bias));
  wasm_v128_store(out + 64, wasm_i16x8_sub(wasm_v128_and(wasm_u16x8_shr(v, 8), mask), bias));
  wasm_v128_store(out + 96, wasm_i16x8_sub(wasm_u16x8_shr(v, 12), bias));
}

// Nibbles of 8 columns of 4 rows -> bytes at 0 (columns 0-3) and 32 (columns 4-7).
inline void unpack_q4_bytes(v128_t v, uint8_t* out) {
  const v128_t mask = wasm_u8x16_const_splat(0x0f);
  const v128_t low = wasm_v128_and(v, mask);                      // columns 0 4 2 6
  const v128_t high = wasm_v128_and(wasm_u16x8_shr(v, 4), mask);  // columns 1 5 3 7
  const v128_t byte = wasm_i16x8_const_splat(0x00ff);
  wasm_v128_store(out, wasm_v128_or(wasm_v128_and(low, byte), wasm_i16x8_shl(high, 8)));
  wasm_v128_store(out + 32, wasm_v128_or(wasm_u16x8_shr(low, 8), wasm_v128_andnot(high, byte)));
}

void unpack_q4(const uint8_t* quants, bool bytes, int32_t bias, uint8_t* out) {
  const v128_t biases = wasm_i16x8_splat(static_cast<int16_t>(bias));
  for (int32_t group = 0; group < 4; ++group, quants += 32) {
    const v128_t lo = wasm_v128_load(quants);
    const v128_t hi = wasm_v128_load(quants + 16);
    if (bytes) {
      unpack_q4_bytes(lo, out);
      unpack_q4_bytes(hi, out + 16);
      out += 64;
    } else {
      unpack_q4_lanes(lo, biases, out);
      unpack_q4_lanes(hi, biases, out + 16);
      out += 128;
    }
  }
}

void unpack_blocks(Dtype dtype, const uint8_t* tile, size_t blocks, bool bytes, Panel* panel) {
  const size_t header = dtype == Dtype::kQ4_1 ? 32 : 16;
  for (size_t b = 0; b < blocks; ++b, tile += block_bytes(dtype)) {
    PanelBlock& out = panel->blocks[b];
    simd::f32x4_store(out.scale, scales_load(tile));
    simd::f32x4_store(out.scale + 4, scales_load(tile + 8));
    if (dtype == Dtype::kQ4_1) {
      simd::f32x4_store(out.minimum, scales_load(tile + 16));
      simd::f32x4_store(out.minimum + 4, scales_load(tile + 24));
    }
    if (dtype == Dtype::kQ8_0) {
      unpack_q8(tile + header, bytes, out.weights);
    } else {
      unpack_q4(tile + header, bytes, dtype == Dtype::kQ4_0 ? 8 : 0, out.weights);
    }
  }
}

// ---- products -------------------------------------------------------------------------------

// Each Form below: integer sums of a panel's block with a group's block.

struct Lanes {
  static constexpr bool kBytes = false;
  template <typename Offsets>
  static inline void sums(const uint8_t* w, const GroupBlock& x, Offsets,
                          v128_t (&ints)[kGroupRows][2]) {
#pragma clang loop unroll(full)
    for (int32_t r = 0; r < kGroupRows; ++r) ints[r][0] = ints[r][1] = wasm_i32x4_const_splat(0);
    const int16_t* pairs = &x.pairs[0][0][0];
    const uint8_t* end = w + 512;
#pragma clang loop unroll(disable)
    for (; w != end; w += 32, pairs += 2 * kGroupRows) {
      const v128_t lo = wasm_v128_load(w);
      const v128_t hi = wasm_v128_load(w + 16);
#pragma clang loop unroll(full)
      for (int32_t r = 0; r < kGroupRows; ++r) {
        const v128_t xs = wasm_v128_load32_splat(pairs + 2 * r);
        ints[r][0] = mul_add_int(ints[r][0], lo, xs);
        ints[r][1] = mul_add_int(ints[r][1], hi, xs);
      }
    }
  }
};

#ifdef __wasm_relaxed_simd__

struct Bytes {
  static constexpr bool kBytes = true;
  template <typename Offsets>
  static inline void sums(const uint8_t* w, const GroupBlock& x, Offsets offsets,
                          v128_t (&ints)[kGroupRows][2]) {
#pragma clang loop unroll(full)
    for (int32_t r = 0; r < kGroupRows; ++r) ints[r][0] = ints[r][1] = offsets(x, r);
    const int8_t* quads = &x.quads[0][0][0];
    const uint8_t* end = w + 256;
#pragma clang loop unroll(disable)
    for (; w != end; w += 32, quads += 4 * kGroupRows) {
      const v128_t lo = wasm_v128_load(w);
      const v128_t hi = wasm_v128_load(w + 16);
#pragma clang loop unroll(full)
      for (int32_t r = 0; r < kGroupRows; ++r) {
        const v128_t xs = wasm_v128_load32_splat(quads + 4 * r);
        ints[r][0] = dot_add_i32(xs, lo, ints[r][0]);
        ints[r][1] = dot_add_i32(xs, hi, ints[r][1]);
      }
    }
  }
};

// For nibbles: a 16-bit lane adds up 8 dots of at most 2 * 15 * 127, 30,480.
struct BytePairs {
  static constexpr bool kBytes = true;
  template <typename Offsets>
  static inline void sums(const uint8_t* w, const GroupBlock& x, Offsets offsets,
                          v128_t (&ints)[kGroupRows][2]) {
#pragma clang loop unroll(full)
    for (int32_t r = 0; r < kGroupRows; ++r) ints[r][0] = ints[r][1] = wasm_i16x8_const_splat(0);
    const int8_t* quads = &x.quads[0][0][0];
    const uint8_t* end = w + 256;
#pragma clang loop unroll(disable)
    for (; w != end; w += 32, quads += 4 * kGroupRows) {
      const v128_t lo = wasm_v128_load(w);
      const v128_t hi = wasm_v128_load(w + 16);
#pragma clang loop unroll(full)
      for (int32_t r = 0; r < kGroupRows; ++r) {
        const v128_t xs = wasm_v128_load32_splat(quads + 4 * r);
        ints[r][0] = wasm_i16x8_add(ints[r][0], dot_i16(xs, lo));
        ints[r][1] = wasm_i16x8_add(ints[r][1], dot_i16(xs, hi));
      }
    }
    const v128_t ones = wasm_i16x8_const_splat(1);
#pragma clang loop unroll(full)
    for (int32_t r = 0; r < kGroupRows; ++r) {
      const v128_t offset = offsets(x, r);
      ints[r][0] = mul_add_int(offset, ints[r][0], ones);
      ints[r][1] = mul_add_int(offset, ints[r][1], ones);
    }
  }
};

#endif

// What the sums of a block begin with.
struct NoOffset {
  inline v128_t operator()(const GroupBlock&, int32_t) const { return wasm_i32x4_const_splat(0); }
};
struct Offset8 {
  inline v128_t operator()(const GroupBlock& x, int32_t r) const {
    return wasm_v128_load32_splat(&x.offset8[r]);
  }
};
struct Offset4 {
  inline v128_t operator()(const GroupBlock& x, int32_t r) const {
    return wasm_v128_load32_splat(&x.offset4[r]);
  }
};

// A group's blocks times a panel's, onto `sums`, which lie in memory: the registers are full.
template <typename Form, typename Offsets, bool Minima>
__attribute__((noinline)) void run_group(const PanelBlock* panel, const GroupBlock* x, size_t blocks,
                                         GroupSums* sums) {
  for (const GroupBlock* end = x + blocks; x != end; ++x, ++panel) {
    v128_t ints[kGroupRows][2];
    Form::sums(panel->weights, *x, Offsets(), ints);
    const v128_t lo = simd::f32x4_load(panel->scale);
    const v128_t hi = simd::f32x4_load(panel->scale + 4);
#pragma clang loop unroll(full)
    for (int32_t r = 0; r < kGroupRows; ++r) {
      float* at = sums->at[r];
      const v128_t scale = wasm_v128_load32_splat(&x->scale[r]);
      v128_t sum_lo = mul_add_scaled(simd::f32x4_load(at), lo, ints[r][0], scale);
      v128_t sum_hi = mul_add_scaled(simd::f32x4_load(at + 4), hi, ints[r][1], scale);
      if constexpr (Minima) {
        const v128_t sum = wasm_v128_load32_splat(&x->sum[r]);
        sum_lo = mul_add_minima(sum_lo, simd::f32x4_load(panel->minimum), scale, sum);
        sum_hi = mul_add_minima(sum_hi, simd::f32x4_load(panel->minimum + 4), scale, sum);
      }
      simd::f32x4_store(at, sum_lo);
      simd::f32x4_store(at + 4, sum_hi);
    }
  }
}

// ---- tiles ----------------------------------------------------------------------------------

// The sums so far: zeros, or what an earlier panel of the tile has left in y.
inline void load_sums(const float* y, size_t stride, int32_t rows, int32_t cols, bool fresh,
                      GroupSums* sums) {
  for (int32_t r = 0; r < kGroupRows; ++r, y += stride) {
    if (fresh || r >= rows) {
      // Hidden from the compiler, which would make it a memory.fill: engines call a function for it.
      int32_t zero = 0;
      __asm__ volatile("" : "+r"(zero));
      wasm_v128_store(sums->at[r], wasm_i32x4_splat(zero));
      wasm_v128_store(sums->at[r] + 4, wasm_i32x4_splat(zero));
    } else if (cols >= kTileRows) {
      simd::f32x4_store(sums->at[r], simd::f32x4_load(y));
      simd::f32x4_store(sums->at[r] + 4, simd::f32x4_load(y + 4));
    } else {
      for (int32_t i = 0; i < cols; ++i) sums->at[r][i] = y[i];
    }
  }
}

inline void store_sums(const GroupSums& sums, float* y, size_t stride, int32_t rows, int32_t cols) {
  for (int32_t r = 0; r < rows; ++r, y += stride) {
    store_tile(y, cols, simd::f32x4_load(sums.at[r]), simd::f32x4_load(sums.at[r] + 4));
  }
}

template <typename Form, typename Offsets, bool Minima>
void run_tiles(const MatmulRange& range) {
  const PackedMatrix& matrix = *range.matrix;
  const Activations& activations = *range.activations;
  const size_t blocks = activation_blocks(matrix.cols);
  const size_t stride = static_cast<size_t>(matrix.rows);
  Panel panel;  // 37 KiB of this thread's stack
  for (int32_t t = range.tile_begin; t < range.tile_end; ++t) {
    const uint8_t* tile =
        matrix.data + static_cast<size_t>(t) * tile_bytes(matrix.dtype, matrix.cols);
    const int32_t cols = matrix.rows - t * kTileRows;
    for (size_t begin = 0; begin < blocks; begin += kPanelBlocks) {
      const size_t count = blocks - begin < kPanelBlocks ? blocks - begin : kPanelBlocks;
      unpack_blocks(matrix.dtype, tile + begin * block_bytes(matrix.dtype), count, Form::kBytes,
                    &panel);
      for (int32_t row = 0; row < activations.rows; row += kGroupRows) {
        const int32_t rows = activations.rows - row < kGroupRows ? activations.rows - row : kGroupRows;
        float* y = range.y + static_cast<size_t>(row) * stride + static_cast<size_t>(t * kTileRows);
        GroupSums sums;
        load_sums(y, stride, rows, cols, begin == 0, &sums);
        run_group<Form, Offsets, Minima>(
            panel.blocks,
            prepared_group(activations.prepared, activations.cols, row / kGroupRows) + begin, count,
            &sums);
        store_sums(sums, y, stride, rows, cols);
      }
    }
  }
}

}  // namespace

void matmul_panel_simd128(const MatmulRange& range) {
  const Dtype dtype = range.matrix->dtype;
#ifdef __wasm_relaxed_simd__
  if (dot_bytes_exact()) {
    if (dtype == Dtype::kQ8_0) return run_tiles<Bytes, Offset8, false>(range);
    if (dtype == Dtype::kQ4_0) return run_tiles<Bytes, Offset4, false>(range);
    return run_tiles<Bytes, NoOffset, true>(range);
  }
  if (dtype == Dtype::kQ4_0) return run_tiles<BytePairs, Offset4, false>(range);
  if (dtype == Dtype::kQ4_1) return run_tiles<BytePairs, NoOffset, true>(range);
#endif
  if (dtype == Dtype::kQ4_1) return run_tiles<Lanes, NoOffset, true>(range);
  run_tiles<Lanes, NoOffset, false>(range);
}

}  // namespace leanedge::kernels
