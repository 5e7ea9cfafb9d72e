// Each kernel against a plain sum in double, over odd sizes, and row invariance of all of them.
#include "leanedge/kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <initializer_list>

#include "../src/dtype.h"
#include "check.h"
#include "leanedge/half.h"
#include "random.h"
#include "tiny_model.h"

using namespace leanedge;
using leanedge::test::Random;

namespace {

// Memory of exactly `count` Ts, so that the sanitizer sees what goes beyond.
template <class T>
struct Buffer {
  T* data;
  size_t count;

  explicit Buffer(size_t n)
      : data(static_cast<T*>(aligned_alloc(64, (n * sizeof(T) + 63) / 64 * 64))), count(n) {
    memset(static_cast<void*>(data), 0, n * sizeof(T));
  }
  ~Buffer() { free(data); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
};

void fill(Buffer<float>* buffer, Random* random) {
  for (size_t i = 0; i < buffer->count; ++i) buffer->data[i] = 2 * random->uniform();
}

size_t size(int32_t a, int32_t b) { return static_cast<size_t>(a) * static_cast<size_t>(b); }

// A random tensor as its file has it, from the tests' models.
uint8_t* random_tensor(Dtype dtype, int32_t rows, int32_t cols, uint64_t seed) {
  test::TinyModel model = {};
  model.tensors[0] = {TensorRole::kAttnQ, 0, dtype, rows, cols, 0};
  model.tensor_count = 1;
  model.seed = seed;
  size_t bytes = 0;
  return test::tiny_tensor(model, 0, &bytes);
}

constexpr Dtype kDtypes[] = {Dtype::kF32,  Dtype::kF16,  Dtype::kBF16,
                             Dtype::kQ4_0, Dtype::kQ4_1, Dtype::kQ8_0};

void check_matmul(Dtype dtype, int32_t rows, int32_t cols, int32_t batch, Random* random) {
  uint8_t* file = random_tensor(dtype, rows, cols, random->next());
  Buffer<uint8_t> packed(kernels::packed_bytes(dtype, rows, cols));
  const kernels::PackedMatrix matrix = {packed.data, dtype, rows, cols, 0};
  const size_t row_bytes = dtype_row_bytes(dtype, cols);
  for (int32_t r = rows - 1; r >= 0; --r)
    kernels::pack_row(matrix, r, file + static_cast<size_t>(r) * row_bytes);
  Buffer<float> x(size(batch, cols));
  Buffer<float> y(size(batch, rows));
  Buffer<float> one(static_cast<size_t>(rows));
  Buffer<float> weights(static_cast<size_t>(cols));
  fill(&x, random);
  Buffer<uint8_t> prepared(kernels::activations_bytes(batch, cols) + 1);
  kernels::Activations all = {x.data, prepared.data, batch, cols};
  kernels::prepare_activations(nullptr, all);
  kernels::matmul(nullptr, matrix, all, y.data);
  for (int32_t b = 0; b < batch; ++b) {
    kernels::Activations single = {x.data + size(b, cols), prepared.data, 1, cols};
    kernels::prepare_activations(nullptr, single);
    kernels::matmul(nullptr, matrix, single, one.data);
    CHECK(memcmp(one.data, y.data + size(b, rows), static_cast<size_t>(rows) * 4) == 0);
    for (int32_t n = 0; n < rows; ++n) {
      kernels::unpack_row(matrix, n, weights.data);
      double sum = 0;
      double magnitude = 0;
      for (int32_t c = 0; c < cols; ++c) {
        const double term = static_cast<double>(weights.data[c]) *
                            static_cast<double>(x.data[size(b, cols) + static_cast<size_t>(c)]);
        sum += term;
        magnitude += fabs(static_cast<double>(weights.data[c])) * 2;
      }
      // int8 activations are off by at most half a step: 1/254 of the largest of 32, which is 2.
      const double bound = dtype_blocked(dtype) ? magnitude / 254 + 1e-5 : magnitude * 1e-6;
      CHECK_NEAR(y.data[size(b, rows) + static_cast<size_t>(n)], sum, bound);
    }
  }
  free(file);
}

}  // namespace

TEST(matmul_of_every_type_and_odd_sizes) {
  Random random = {1};
  for (const Dtype dtype : kDtypes) {
    const int32_t unit = dtype_blocked(dtype) ? 32 : 1;
    for (const int32_t rows : {1, 3, 4, 5, 17}) {
      for (const int32_t cols : {1, 2, 3, 7})
        check_matmul(dtype, rows, cols * unit, 1 + random.below(6), &random);
    }
  }
  check_matmul(Dtype::kF32, 5, 172, 3, &random);
}

TEST(matmul_with_infinite_inputs_is_not_finite) {
  uint8_t* file = random_tensor(Dtype::kQ8_0, 1, 64, 1);
  const kernels::PackedMatrix matrix = {file, Dtype::kQ8_0, 1, 64, 0};
  Buffer<float> x(64);
  Buffer<uint8_t> prepared(kernels::activations_bytes(1, 64));
  for (const float bad : {INFINITY, -INFINITY, NAN}) {
    x.data[40] = bad;
    kernels::Activations input = {x.data, prepared.data, 1, 64};
    kernels::prepare_activations(nullptr, input);
    float y = 0;
    kernels::matmul(nullptr, matrix, input, &y);
    CHECK(!(y - y == 0));
  }
  free(file);
}

TEST(unpack_row_gives_the_formulas_of_the_file) {
  uint8_t q4[20] = {};
  const uint16_t scale = f32_to_f16(0.5f);
  const uint16_t min = f32_to_f16(-3.0f);
  memcpy(q4, &scale, 2);
  memcpy(q4 + 2, &min, 2);
  for (int32_t j = 0; j < 16; ++j) q4[4 + j] = static_cast<uint8_t>(j | (15 - j) << 4);
  float out[32];
  kernels::unpack_row({q4, Dtype::kQ4_1, 1, 32, 0}, 0, out);
  for (int32_t j = 0; j < 16; ++j) {
    CHECK_EQ(out[j], 0.5f * static_cast<float>(j) - 3);
    CHECK_EQ(out[j + 16], 0.5f * static_cast<float>(15 - j) - 3);
  }
  uint8_t q8[34] = {};
  memcpy(q8, &scale, 2);
  for (int32_t j = 0; j < 32; ++j) q8[2 + j] = static_cast<uint8_t>(j * 8 - 128);
  kernels::unpack_row({q8, Dtype::kQ8_0, 1, 32, 0}, 0, out);
  for (int32_t j = 0; j < 32; ++j) CHECK_EQ(out[j], 0.5f * static_cast<float>(j * 8 - 128));
}

TEST(rmsnorm_over_odd_sizes) {
  Random random = {2};
  for (const int32_t dim : {1, 3, 8, 33, 127}) {
    for (const int32_t rows : {1, 2, 5}) {
      Buffer<float> x(size(rows, dim));
      Buffer<float> w(static_cast<size_t>(dim));
      Buffer<float> y(size(rows, dim));
      fill(&x, &random);
      fill(&w, &random);
      kernels::rmsnorm(nullptr, x.data, w.data, 1e-5f, rows, dim, y.data);
      for (int32_t r = 0; r < rows; ++r) {
        double squares = 0;
        for (int32_t i = 0; i < dim; ++i)
          squares += pow(static_cast<double>(x.data[size(r, dim) + static_cast<size_t>(i)]), 2);
        const double scale = 1 / sqrt(squares / dim + 1e-5);
        for (int32_t i = 0; i < dim; ++i) {
          const size_t at = size(r, dim) + static_cast<size_t>(i);
          CHECK_NEAR(y.data[at],
                     static_cast<double>(x.data[at]) * scale * static_cast<double>(w.data[i]),
                     2e-6);
        }
      }
      kernels::rmsnorm(nullptr, x.data, w.data, 1e-5f, rows, dim, x.data);
      CHECK(memcmp(x.data, y.data, x.count * 4) == 0);
    }
  }
}

TEST(rope_turns_pairs_and_leaves_the_rest) {
  Random random = {3};
  const int32_t rows = 3;
  const int32_t heads = 2;
  const int32_t head_dim = 10;
  const int32_t rope_dim = 6;
  Buffer<float> x(size(rows, heads * head_dim));
  Buffer<float> before(x.count);
  Buffer<float> c(size(rows, rope_dim / 2));
  Buffer<float> s(size(rows, rope_dim / 2));
  fill(&x, &random);
  memcpy(before.data, x.data, x.count * 4);
  for (size_t i = 0; i < c.count; ++i) {
    c.data[i] = static_cast<float>(cos(0.3 * static_cast<double>(i)));
    s.data[i] = static_cast<float>(sin(0.3 * static_cast<double>(i)));
  }
  kernels::rope(nullptr, x.data, c.data, s.data, rows, heads, head_dim, rope_dim);
  for (int32_t r = 0; r < rows; ++r) {
    for (int32_t h = 0; h < heads; ++h) {
      const size_t at = size(r * heads + h, head_dim);
      for (size_t i = 0; i < 3; ++i) {
        const double angle = 0.3 * static_cast<double>(size(r, 3) + i);
        const double a = static_cast<double>(before.data[at + i]);
        const double b = static_cast<double>(before.data[at + i + 3]);
        CHECK_NEAR(x.data[at + i], a * cos(angle) - b * sin(angle), 1e-6);
        CHECK_NEAR(x.data[at + i + 3], a * sin(angle) + b * cos(angle), 1e-6);
      }
      for (size_t i = 6; i < 10; ++i) CHECK_EQ(x.data[at + i], before.data[at + i]);
    }
  }
}

TEST(elementwise_kernels) {
  Random random = {4};
  Buffer<float> a(size(3, 7));
  Buffer<float> b(size(3, 7));
  Buffer<float> was(a.count);
  fill(&a, &random);
  fill(&b, &random);
  a.data[0] = 90;
  a.data[1] = -90;
  memcpy(was.data, a.data, a.count * 4);
  kernels::swiglu(nullptr, a.data, b.data, 3, 7);
  for (size_t i = 0; i < a.count; ++i) {
    const double x = static_cast<double>(was.data[i]);
    CHECK_NEAR(a.data[i], x / (1 + exp(-x)) * static_cast<double>(b.data[i]), 1e-5);
  }
  memcpy(a.data, was.data, a.count * 4);
  kernels::add(nullptr, a.data, b.data, 3, 7);
  for (size_t i = 0; i < a.count; ++i) CHECK_EQ(a.data[i], was.data[i] + b.data[i]);
  memcpy(a.data, was.data, a.count * 4);
  kernels::add_bias(nullptr, a.data, b.data, 3, 7);
  for (size_t i = 0; i < a.count; ++i) CHECK_EQ(a.data[i], was.data[i] + b.data[i % 7]);
  Buffer<uint16_t> half(a.count);
  kernels::to_f16(nullptr, was.data, was.count, half.data);
  for (size_t i = 0; i < a.count; ++i) CHECK_EQ(half.data[i], f32_to_f16(was.data[i]));
}
