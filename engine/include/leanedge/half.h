// binary16 <-> binary32, exact and the same on every backend. Bits only, no f16 type: neither
// WASM SIMD nor portable C++20 has one.
#pragma once

#include <stdint.h>
#include <string.h>

namespace leanedge {

inline uint32_t f32_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}

inline float f32_from_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

// Exact. NaNs keep their payload and become quiet.
inline float f16_to_f32(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t exponent = (h >> 10) & 0x1fu;
  const uint32_t mantissa = h & 0x3ffu;
  if (exponent == 0x1f) {
    return f32_from_bits(sign | 0x7f800000u | (mantissa ? 0x400000u | (mantissa << 13) : 0u));
  }
  if (exponent == 0) {  // zero or subnormal: mantissa x 2^-24, exact in f32
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  return f32_from_bits(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

// To nearest, ties to even. Beyond 65,504 + half a step it becomes infinite; NaN stays NaN.
inline uint16_t f32_to_f16(float x) {
  const uint32_t bits = f32_bits(x);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {  // below the smallest normal f16: round to a multiple of 2^-24
    // 0.5 has a unit in the last place of 2^-24, so the addition rounds as wanted.
    const float rounded = f32_from_bits(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (f32_bits(rounded) - 0x3f000000u));
  }
  const uint32_t odd = (magnitude >> 13) & 1u;
  return static_cast<uint16_t>(sign | ((magnitude + 0xfffu + odd - 0x38000000u) >> 13));
}

// Neither NaN nor infinite.
inline bool f16_finite(uint16_t h) { return (h & 0x7c00u) != 0x7c00u; }

}  // namespace leanedge
