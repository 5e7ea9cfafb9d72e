// Dot products of bytes, where the module is built with relaxed SIMD. What two engines may do with
// the same operands differs as soon as an operand of the second vector has its top bit set, so the
// kernels keep to what is exact everywhere, or ask dot_bytes_exact() first: every form gives the
// same integers, hence the same bits as the plain module.
#pragma once

#include <stdint.h>
#include <wasm_simd128.h>

namespace leanedge::kernels {

#ifdef __wasm_relaxed_simd__

inline constexpr bool kRelaxed = true;

// 16-bit lane j: x[2j] w[2j] + x[2j + 1] w[2j + 1]; exact for w in 0 .. 127.
inline v128_t dot_i16(v128_t x, v128_t w) { return wasm_i16x8_relaxed_dot_i8x16_i7x16(x, w); }

// 32-bit lane j: sum[j] + the four products of bytes 4j .. 4j + 3; exact for w in 0 .. 127, and for
// w in 0 .. 255 where dot_bytes_exact().
inline v128_t dot_add_i32(v128_t x, v128_t w, v128_t sum) {
  return wasm_i32x4_relaxed_dot_i8x16_i7x16_add(x, w, sum);
}

// Whether dot_add_i32 takes w as an unsigned byte and adds up without saturation: so does the one
// instruction that engines use for it on x86 with AVX-VNNI. Where it is three instructions, they
// saturate, and then this says no. Asked once.
bool dot_bytes_exact();

#else

inline constexpr bool kRelaxed = false;
inline bool dot_bytes_exact() { return false; }

#endif

}  // namespace leanedge::kernels
