#include "numeric.h"

#include <string.h>

namespace leanedge {
namespace {

constexpr double kLn2Hi = 6.93147180369123816490e-01;     // 32 bits: k * kLn2Hi is exact
constexpr double kLn2Lo = 1.90821492927058770002e-10;     // ln 2 - kLn2Hi
constexpr double kHalfPiHi = 1.57079632673412561417e+00;  // 33 bits
constexpr double kHalfPiLo = 6.07710050650619224932e-11;  // pi/2 - kHalfPiHi

// 1 / n!
constexpr double kFactorial[] = {1.0,
                                 1.0,
                                 1.0 / 2,
                                 1.0 / 6,
                                 1.0 / 24,
                                 1.0 / 120,
                                 1.0 / 720,
                                 1.0 / 5040,
                                 1.0 / 40320,
                                 1.0 / 362880,
                                 1.0 / 3628800,
                                 1.0 / 39916800,
                                 1.0 / 479001600,
                                 1.0 / 6227020800,
                                 1.0 / 87178291200};

// 2^exponent for -1022 .. 1023.
double power_of_two(int32_t exponent) {
  const uint64_t bits = static_cast<uint64_t>(exponent + 1023) << 52;
  double x;
  memcpy(&x, &bits, 8);
  return x;
}

}  // namespace

double exp_f64(double x) {
  if (!(x == x)) return x;
  if (x > 709.0) return power_of_two(1023) * 2.0;
  if (x < -745.0) return 0.0;
  const int32_t k = static_cast<int32_t>(x * 1.44269504088896340736 + (x < 0 ? -0.5 : 0.5));
  const double r = (x - k * kLn2Hi) - k * kLn2Lo;
  // Taylor's series: |r| <= 0.35, the first term left out is below 2^-57. Even and odd terms run
  // side by side.
  const double r2 = r * r;
  double even = kFactorial[14];
  double odd = kFactorial[13];
  for (int32_t i = 12; i >= 0; i -= 2) even = even * r2 + kFactorial[i];
  for (int32_t i = 11; i >= 1; i -= 2) odd = odd * r2 + kFactorial[i];
  const double sum = even + r * odd;
  const int32_t half = k / 2;
  return sum * power_of_two(half) * power_of_two(k - half);
}

float exp_f32(float x) { return static_cast<float>(exp_f64(static_cast<double>(x))); }

double log_f64(double x) {
  uint64_t bits;
  memcpy(&bits, &x, 8);
  int32_t exponent = static_cast<int32_t>((bits >> 52) & 0x7ff) - 1023;
  bits = (bits & 0xfffffffffffffull) | 0x3ff0000000000000ull;
  double m;
  memcpy(&m, &bits, 8);
  if (m > 1.41421356237309504880) {
    m *= 0.5;
    ++exponent;
  }
  // log m = 2 atanh(f) with |f| <= 0.172: the series of odd powers.
  const double f = (m - 1.0) / (m + 1.0);
  const double f2 = f * f;
  double sum = 0.0;
  for (int32_t i = 23; i >= 1; i -= 2) sum = sum * f2 + 1.0 / i;
  return exponent * kLn2Hi + (2.0 * f * sum + exponent * kLn2Lo);
}

void sincos_f64(double x, double* sine, double* cosine) {
  const int32_t k = static_cast<int32_t>(x * 0.636619772367581343076 + (x < 0 ? -0.5 : 0.5));
  const double r = (x - k * kHalfPiHi) - k * kHalfPiLo;
  // Taylor's series: |r| <= pi/4, the first terms left out are below 2^-60.
  const double r2 = r * r;
  double s = 1.0;
  double c = 1.0;
  for (int32_t i = 18; i >= 2; i -= 2) {
    c = 1.0 - r2 / (i * (i - 1)) * c;
    s = 1.0 - r2 / (i * (i + 1)) * s;
  }
  s *= r;
  switch (k & 3) {
    case 0:
      *sine = s;
      *cosine = c;
      break;
    case 1:
      *sine = c;
      *cosine = -s;
      break;
    case 2:
      *sine = -s;
      *cosine = -c;
      break;
    default:
      *sine = -c;
      *cosine = s;
      break;
  }
}

}  // namespace leanedge
