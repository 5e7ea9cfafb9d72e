// From 16-byte chunks of weights to the left operands of tensor core products: lane 4 g + t holds
// rows g and g + 8 and columns 8 t .. 8 t + 7 of a unit of 32 columns, which are two m16n8k16.
//
// Codes become bf16 by placing their bits: exact in every form, and no conversion instruction.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#include "layout.h"
#include "matrix_ops.cuh"

namespace leanedge::cuda {

// Operands of the two products of a unit.
struct UnitOperand {
  uint32_t first[4];
  uint32_t second[4];
};

__device__ __forceinline__ uint32_t multiply_bf16(uint32_t a, uint32_t b) {
  const __nv_bfloat162 y = __hmul2(*reinterpret_cast<const __nv_bfloat162*>(&a),
                                   *reinterpret_cast<const __nv_bfloat162*>(&b));
  return *reinterpret_cast<const uint32_t*>(&y);
}

__device__ __forceinline__ uint32_t subtract_bf16(uint32_t a, uint32_t b) {
  const __nv_bfloat162 y = __hsub2(*reinterpret_cast<const __nv_bfloat162*>(&a),
                                   *reinterpret_cast<const __nv_bfloat162*>(&b));
  return *reinterpret_cast<const uint32_t*>(&y);
}

// Bytes 1 and 3 of `word`, e4m3, as bf16. Their bits in bf16's places are the value x 2^-120, whether
// normal or subnormal.
__device__ __forceinline__ uint32_t fp8_pair(uint32_t word) {
  const uint32_t bits = (word & 0x80008000u) | ((word >> 4) & 0x07f007f0u);
  return multiply_bf16(bits, 0x7b807b80u);  // 2^120
}

// Bytes 0 and 2 of `word`, signed, as bf16: (128 + low bits) - (128 + 128 sign).
__device__ __forceinline__ uint32_t int8_pair(uint32_t word, uint32_t base) {
  return subtract_bf16(masked_or(word, 0x007f007fu, base), masked_or(word, 0x00800080u, base));
}

// Nibbles 0 and 4 of `word` as bf16, 128 + nibble: 136 more than the weight. kInt4Excess times the sum
// of the activations is to be taken off.
inline constexpr float kInt4Excess = 136.0f;
__device__ __forceinline__ uint32_t int4_pair(uint32_t word, uint32_t base) {
  return masked_or(word, 0x000f000fu, base);
}

// Row g's words are a and b, row g + 8's c and d; each has 4 codes.
template <MatrixForm kForm>
__device__ __forceinline__ UnitOperand unit_bytes(uint32_t a, uint32_t b, uint32_t c, uint32_t d,
                                                  uint32_t base) {
  if constexpr (kForm == MatrixForm::kFp8) {
    return {{fp8_pair(a << 8), fp8_pair(c << 8), fp8_pair(a), fp8_pair(c)},
            {fp8_pair(b << 8), fp8_pair(d << 8), fp8_pair(b), fp8_pair(d)}};
  } else {
    return {{int8_pair(a, base), int8_pair(c, base), int8_pair(a >> 8, base),
             int8_pair(c >> 8, base)},
            {int8_pair(b, base), int8_pair(d, base), int8_pair(b >> 8, base),
             int8_pair(d >> 8, base)}};
  }
}

// Nibbles 0 and 4 of `word`, less 8, as bf16.
__device__ __forceinline__ uint32_t int4_pair_exact(uint32_t word, uint32_t base) {
  return subtract_bf16(int4_pair(word, base), 0x43084308u);  // 136
}

// Row g's word is a, row g + 8's c; each has 8 codes. With kInt4Excess in them, or without.
__device__ __forceinline__ UnitOperand unit_nibbles_exact(uint32_t a, uint32_t c, uint32_t base) {
  return {{int4_pair_exact(a, base), int4_pair_exact(c, base), int4_pair_exact(a >> 4, base),
           int4_pair_exact(c >> 4, base)},
          {int4_pair_exact(a >> 8, base), int4_pair_exact(c >> 8, base),
           int4_pair_exact(a >> 12, base), int4_pair_exact(c >> 12, base)}};
}
__device__ __forceinline__ UnitOperand unit_nibbles(uint32_t a, uint32_t c, uint32_t base) {
  return {{int4_pair(a, base), int4_pair(c, base), int4_pair(a >> 4, base), int4_pair(c >> 4, base)},
          {int4_pair(a >> 8, base), int4_pair(c >> 8, base), int4_pair(a >> 12, base),
           int4_pair(c >> 12, base)}};
}

// c[row g: n, n + 1; row g + 8: n, n + 1] += a unit of weights times a unit of activations.
template <bool kF16>
__device__ __forceinline__ void multiply_unit(float (&c)[4], const UnitOperand& a, const uint4& b) {
  multiply_unit_half<kF16>(c, a.first, b.x, b.y);
  multiply_unit_half<kF16>(c, a.second, b.z, b.w);
}

}  // namespace leanedge::cuda
