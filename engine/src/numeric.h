// Elementary functions whose bits the engine fixes, so that results do not depend on a libm.
// Plain IEEE arithmetic; compile without fast-math and without contraction.
#pragma once

#include <stdint.h>

namespace leanedge {

// e^x; relative error below 2^-51. 0 below -745, infinity above 709, NaN for NaN.
double exp_f64(double x);
// e^x rounded from double: at most one unit in the last place off.
float exp_f32(float x);
// Natural logarithm of a finite x > 0, normal; relative error below 2^-50 away from 1.
double log_f64(double x);
// Sine and cosine of |x| <= 2^20; absolute error below 2^-50.
void sincos_f64(double x, double* sine, double* cosine);
// Neither NaN nor infinite.
bool f32_finite(float x);

}  // namespace leanedge
