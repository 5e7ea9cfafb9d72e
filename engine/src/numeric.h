// Elementary functions whose bits the engine fixes, so that results do not depend on a libm.
// Plain IEEE arithmetic; compile without fast-math and without contraction.
#pragma once

#include <stdint.h>
#include <string.h>

namespace leanedge {

// e^x; relative error below 2^-51. 0 below -745, infinity above 709, NaN for NaN.
double exp_f64(double x);
// e^x rounded from double: at most one unit in the last place off.
float exp_f32(float x);
// e^x of x <= 0 with a relative error below 2^-21, 0 below -87: for weights of whole vocabularies.
// No branch and no conversion, so that compilers take several at a time.
inline float exp_weight(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float clamped = x < -87.0f ? -87.0f : x;
  const float shifted = clamped * 1.44269504f + kRound;
  const float k = shifted - kRound;
  const float r = (clamped - k * 0.693145752f) - k * 1.42860677e-6f;
  float sum = 1.0f / 720;
  sum = sum * r + 1.0f / 120;
  sum = sum * r + 1.0f / 24;
  sum = sum * r + 1.0f / 6;
  sum = sum * r + 0.5f;
  sum = sum * r + 1.0f;
  sum = sum * r + 1.0f;
  uint32_t bits;
  memcpy(&bits, &shifted, 4);
  bits = (bits << 23) + 0x3f800000u;  // kRound's low bits are 0: what is left is k
  float scale;
  memcpy(&scale, &bits, 4);
  return x < -87.0f ? 0.0f : sum * scale;
}
// Natural logarithm of a finite x > 0, normal; relative error below 2^-50 away from 1.
double log_f64(double x);
// Sine and cosine of |x| <= 2^20; absolute error below 2^-50.
void sincos_f64(double x, double* sine, double* cosine);
// Neither NaN nor infinite.
inline bool f32_finite(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return (bits & 0x7f800000u) != 0x7f800000u;
}

}  // namespace leanedge
