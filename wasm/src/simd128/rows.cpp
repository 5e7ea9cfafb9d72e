// Work on whole rows: norms, sums, SwiGLU, RoPE, conversion to f16. Vector bodies take four or eight
// values at a time; what is left over goes through the same vector code in a buffer, so that a
// value's bits do not depend on where in a row it stands.
#include <math.h>
#include <string.h>

#include "leanedge/kernels.h"
#include "simd.h"

namespace leanedge::kernels {
namespace {

// The last `count` (1 .. 3) values of a row, filled up with zeros.
inline v128_t load_tail(const float* x, size_t count) {
  float values[4] = {};
  memcpy(values, x, count * sizeof(float));
  return simd::f32x4_load(values);
}

inline void store_tail(float* x, size_t count, v128_t v) {
  float values[4];
  simd::f32x4_store(values, v);
  memcpy(x, values, count * sizeof(float));
}

// Sum of squares; lane j of two alternating vectors.
inline float square_sum(const float* x, size_t dim) {
  v128_t a = wasm_f32x4_const_splat(0.0f);
  v128_t b = a;
  size_t i = 0;
  for (; i + 8 <= dim; i += 8) {
    const v128_t x0 = simd::f32x4_load(x + i);
    const v128_t x1 = simd::f32x4_load(x + i + 4);
    a = wasm_f32x4_add(a, wasm_f32x4_mul(x0, x0));
    b = wasm_f32x4_add(b, wasm_f32x4_mul(x1, x1));
  }
  for (; i < dim; i += 4) {
    const v128_t v = i + 4 <= dim ? simd::f32x4_load(x + i) : load_tail(x + i, dim - i);
    a = wasm_f32x4_add(a, wasm_f32x4_mul(v, v));
  }
  return simd::f32x4_sum(wasm_f32x4_add(a, b));
}

inline v128_t silu_mul(v128_t gate, v128_t up) {
  const v128_t one = wasm_f32x4_const_splat(1.0f);
  const v128_t e = simd::f32x4_exp(wasm_f32x4_neg(gate));
  return wasm_f32x4_mul(wasm_f32x4_div(gate, wasm_f32x4_add(one, e)), up);
}

// Turns the pairs (a[i], b[i]) by the angles of `cos` and `sin`, in place. All (count).
inline void rotate(float* a, float* b, const float* cos, const float* sin, size_t count) {
  size_t i = 0;
  for (; i + 4 <= count; i += 4) {
    const v128_t x = simd::f32x4_load(a + i);
    const v128_t y = simd::f32x4_load(b + i);
    const v128_t c = simd::f32x4_load(cos + i);
    const v128_t s = simd::f32x4_load(sin + i);
    simd::f32x4_store(a + i, wasm_f32x4_sub(wasm_f32x4_mul(x, c), wasm_f32x4_mul(y, s)));
    simd::f32x4_store(b + i, wasm_f32x4_add(wasm_f32x4_mul(x, s), wasm_f32x4_mul(y, c)));
  }
  for (; i < count; ++i) {
    const float x = a[i];
    const float y = b[i];
    a[i] = x * cos[i] - y * sin[i];
    b[i] = x * sin[i] + y * cos[i];
  }
}

}  // namespace

void rmsnorm(Context*, const float* x, const float* weight, float eps, int32_t rows, int32_t dim,
             float* y) {
  const size_t n = static_cast<size_t>(dim);
  for (int32_t row = 0; row < rows; ++row, x += n, y += n) {
    const float mean = square_sum(x, n) / static_cast<float>(dim);
    const float factor = 1.0f / sqrtf(mean + eps);
    const v128_t factors = wasm_f32x4_splat(factor);
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
      const v128_t scaled = wasm_f32x4_mul(simd::f32x4_load(x + i), factors);
      simd::f32x4_store(y + i, wasm_f32x4_mul(scaled, simd::f32x4_load(weight + i)));
    }
    for (; i < n; ++i) y[i] = x[i] * factor * weight[i];
  }
}

void add(Context*, float* x, const float* y, int32_t rows, int32_t dim) {
  const size_t count = static_cast<size_t>(rows) * static_cast<size_t>(dim);
  size_t i = 0;
  for (; i + 4 <= count; i += 4) {
    simd::f32x4_store(x + i, wasm_f32x4_add(simd::f32x4_load(x + i), simd::f32x4_load(y + i)));
  }
  for (; i < count; ++i) x[i] += y[i];
}

void add_bias(Context* context, float* x, const float* bias, int32_t rows, int32_t dim) {
  for (int32_t row = 0; row < rows; ++row) {
    add(context, x + static_cast<size_t>(row) * static_cast<size_t>(dim), bias, 1, dim);
  }
}

void swiglu(Context*, float* gate, const float* up, int32_t rows, int32_t dim) {
  const size_t count = static_cast<size_t>(rows) * static_cast<size_t>(dim);
  size_t i = 0;
  for (; i + 4 <= count; i += 4) {
    simd::f32x4_store(gate + i, silu_mul(simd::f32x4_load(gate + i), simd::f32x4_load(up + i)));
  }
  if (i < count) {
    const size_t left = count - i;
    store_tail(gate + i, left, silu_mul(load_tail(gate + i, left), load_tail(up + i, left)));
  }
}

void rope(Context*, float* x, const float* cos, const float* sin, int32_t rows, int32_t heads,
          int32_t head_dim, int32_t rope_dim) {
  const size_t half = static_cast<size_t>(rope_dim / 2);
  for (int32_t row = 0; row < rows; ++row, cos += half, sin += half) {
    for (int32_t head = 0; head < heads; ++head, x += head_dim) {
      rotate(x, x + half, cos, sin, half);
    }
  }
}

void to_f16(Context*, const float* x, size_t count, uint16_t* out) {
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const v128_t lo = simd::f32x4_to_f16_lanes(simd::f32x4_load(x + i));
    const v128_t hi = simd::f32x4_to_f16_lanes(simd::f32x4_load(x + i + 4));
    wasm_v128_store(out + i, wasm_u16x8_narrow_i32x4(lo, hi));
  }
  for (; i < count; ++i) {
    const v128_t lanes = simd::f32x4_to_f16_lanes(wasm_f32x4_splat(x[i]));
    out[i] = static_cast<uint16_t>(wasm_i32x4_extract_lane(lanes, 0));
  }
}

}  // namespace leanedge::kernels
