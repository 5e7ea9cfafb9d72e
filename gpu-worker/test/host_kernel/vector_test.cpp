// Products of few rows on the host, launched as the launcher launches them: those between two attentions, one behind the
// other, against float64, and twice with the same bits. What the kernel before writes comes when they wait for it and not
// before; copies come at once, or as late as they may.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vector>

#include "../kernels/variants.h"
#include "../kernels/warp_ops.cuh"
#include "host_threads.h"
#include "random.h"
#include "vector_product.cuh"
#undef gridDim  // a field below

namespace leanedge::cuda {

VectorForm vector_form_bf16() { return vector_form<MatrixForm::kBf16>(); }
VectorForm vector_form_f16() { return vector_form<MatrixForm::kF16>(); }
VectorForm vector_form_int8() { return vector_form<MatrixForm::kInt8>(); }
VectorForm vector_form_fp8() { return vector_form<MatrixForm::kFp8>(); }
VectorForm vector_form_int4() { return vector_form<MatrixForm::kInt4>(); }

}  // namespace leanedge::cuda

using namespace leanedge;
using namespace leanedge::cuda;
using std::vector;

namespace {

constexpr int32_t kSharedMax = static_cast<int32_t>(host::kSharedBytes);
constexpr double kBound = 2e-3;  // relative error of an output, in the Euclidean norm: one rounding to bf16 may fall otherwise
constexpr float kEps = 1e-5f;

int passed = 0;
int failed = 0;

uint16_t to_bf16(float x) {
  const uint32_t bits = f32_bits(x);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
float from_bf16(uint16_t x) { return f32_from_bits(static_cast<uint32_t>(x) << 16); }

// A matrix with random weights, and what they are.
struct Weights {
  vector<uint8_t> bytes;
  vector<float> values;  // (rows, cols)
  Matrix matrix;

  Weights(MatrixForm form, int32_t rows, int32_t cols, test::Random& random)
      : bytes(weight_bytes(form, rows, cols) + static_cast<size_t>(tiles_of(rows)) * kTileRows * sizeof(float) + 256),
        values(static_cast<size_t>(rows * cols)),
        matrix{} {
    uint8_t* data = bytes.data() + (256 - reinterpret_cast<uintptr_t>(bytes.data()) % 256) % 256;
    matrix = {data, form, rows, cols, 0};
    for (int32_t row = 0; row < rows; ++row) {
      for (int32_t col = 0; col < cols; ++col) {
        values[static_cast<size_t>(row * cols + col)] = put(data, row, col, random);
      }
    }
  }

  float put(uint8_t* data, int32_t row, int32_t col, test::Random& random) const {
    const MatrixForm form = matrix.form;
    if (form_row_major(form)) {
      const float x = 0.1f * random.normal();
      const uint16_t code = form == MatrixForm::kBf16 ? to_bf16(x) : f32_to_f16(x);
      memcpy(data + 2 * (row * matrix.cols + col), &code, 2);
      return form == MatrixForm::kBf16 ? from_bf16(code) : f16_to_f32(code);
    }
    uint8_t* step = data + step_at(form, matrix.cols, row, col);
    uint8_t* codes = step + codes_at(form, row, col);
    const int32_t j = col % 8;
    float scale = 1;
    if (form_block_scales(form)) {
      const uint16_t code = f32_to_f16(0.01f * static_cast<float>(1 + (row + col / 32) % 7));
      memcpy(step + scale_at(form, row, col), &code, 2);
      scale = f16_to_f32(code);
    } else {
      scale = 0.02f * static_cast<float>(1 + row % 5);
      const_cast<float*>(row_scales_of(matrix))[row] = scale;
    }
    const uint32_t bits = static_cast<uint32_t>(random.next() >> 32);
    if (form == MatrixForm::kInt4) {
      const int32_t nibble = code_nibble(j);
      codes[nibble / 2] = static_cast<uint8_t>((codes[nibble / 2] & (nibble % 2 ? 0x0f : 0xf0)) |
                                               (bits & 15) << (nibble % 2 * 4));
      return scale * static_cast<float>(static_cast<int32_t>(bits & 15) - 8);
    }
    uint8_t code = static_cast<uint8_t>(bits);
    if (form == MatrixForm::kFp8 && (code & 0x7f) == 0x7f) code = 0;  // NaN
    codes[j / 4 * 4 + code_byte(j % 4)] = code;
    if (form == MatrixForm::kInt8) return scale * static_cast<float>(static_cast<int8_t>(code));
    const int32_t exponent = code >> 3 & 15;
    const float magnitude = exponent ? ldexpf(static_cast<float>(8 + (code & 7)), exponent - 10)
                                     : ldexpf(static_cast<float>(code & 7), -9);
    return scale * (code & 0x80 ? -magnitude : magnitude);
  }
};

struct Case {
  MatrixForm form;
  int32_t inputs;
  int32_t dim;       // of the residual stream
  int32_t attended;  // columns of the output matrix
  int32_t ff;
  int32_t qkv;       // rows of the next layer's first product; 0: there is none
  int32_t multiprocessors;
  host::Copies copies;
};

// What products read and write; all of it is poison before.
struct Buffers {
  vector<uint16_t> attended;
  vector<float> x;
  vector<uint16_t> hidden;
  vector<float> qkv;
};

// What the kernel before writes.
struct Previous {
  const vector<uint16_t>* attended;
  const vector<float>* x;
  Buffers* to;
};

void write_previous(void* context) {
  const Previous& previous = *static_cast<Previous*>(context);
  memcpy(previous.to->attended.data(), previous.attended->data(), previous.attended->size() * 2);
  memcpy(previous.to->x.data(), previous.x->data(), previous.x->size() * 4);
}

double silu(double x) { return x / (1 + exp(-x)); }

// y (inputs, rows) in float64 of activations that are bf16 (or f16) already.
vector<double> product(const Weights& w, const vector<float>& x, int32_t inputs) {
  const size_t rows = static_cast<size_t>(w.matrix.rows);
  const size_t cols = static_cast<size_t>(w.matrix.cols);
  vector<double> y(static_cast<size_t>(inputs) * rows);
  for (size_t n = 0; n < static_cast<size_t>(inputs); ++n) {
    for (size_t r = 0; r < rows; ++r) {
      double sum = 0;
      for (size_t c = 0; c < cols; ++c) {
        sum += static_cast<double>(w.values[r * cols + c]) * static_cast<double>(x[n * cols + c]);
      }
      y[n * rows + r] = sum;
    }
  }
  return y;
}

float activation(MatrixForm form, float x) {
  return form == MatrixForm::kF16 ? f16_to_f32(f32_to_f16(x)) : from_bf16(to_bf16(x));
}

// The same behind a norm, whose weights are applied before the rounding and 1/rms behind the sum.
vector<double> normed(const Weights& w, const vector<double>& x, const vector<float>& weight,
                      int32_t inputs) {
  const size_t cols = static_cast<size_t>(w.matrix.cols);
  vector<float> rounded(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    rounded[i] = activation(w.matrix.form, static_cast<float>(x[i]) * weight[i % cols]);
  }
  vector<double> y = product(w, rounded, inputs);
  for (size_t n = 0; n < static_cast<size_t>(inputs); ++n) {
    double square = 0;
    for (size_t c = 0; c < cols; ++c) square += x[n * cols + c] * x[n * cols + c];
    const double scale = 1 / sqrt(square / static_cast<double>(cols) + static_cast<double>(kEps));
    for (size_t r = 0; r < static_cast<size_t>(w.matrix.rows); ++r) {
      y[n * static_cast<size_t>(w.matrix.rows) + r] *= scale;
    }
  }
  return y;
}

double distance(const vector<float>& got, const vector<double>& want) {
  double apart = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double d = static_cast<double>(got[i]) - want[i];
    apart += d * d;
    size += want[i] * want[i];
  }
  return sqrt(apart / size);
}

template <typename T>
bool same(const vector<T>& a, const vector<T>& b) {
  return memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

void run(const Case& c) {
  test::Random random = {static_cast<uint64_t>(static_cast<int>(c.form) * 100 + c.inputs * 10 + c.multiprocessors)};
  const size_t inputs = static_cast<size_t>(c.inputs);
  const size_t dim = static_cast<size_t>(c.dim), ff = static_cast<size_t>(c.ff);
  const Weights o(c.form, c.dim, c.attended, random);
  const Weights gate_up(c.form, 2 * c.ff, c.dim, random);
  const Weights down(c.form, c.dim, c.ff, random);
  const Weights next(c.form, c.qkv > 0 ? c.qkv : 16, c.dim, random);
  vector<uint16_t> attended(inputs * static_cast<size_t>(c.attended));
  for (uint16_t& x : attended) x = to_bf16(random.normal());
  vector<float> x(inputs * dim), ffn_norm(dim), attn_norm(dim), bias(static_cast<size_t>(next.matrix.rows));
  for (float& value : x) value = random.normal();
  for (float& value : ffn_norm) value = 0.05f * (1 + 0.3f * random.normal());
  for (float& value : attn_norm) value = 1 + 0.3f * random.normal();
  for (float& value : bias) value = random.normal();

  vector<float> read(attended.size());
  for (size_t i = 0; i < read.size(); ++i) read[i] = activation(c.form, from_bf16(attended[i]));
  vector<double> stream = product(o, read, c.inputs);
  for (size_t i = 0; i < stream.size(); ++i) stream[i] += static_cast<double>(x[i]);
  const vector<double> wide = normed(gate_up, stream, ffn_norm, c.inputs);
  vector<float> hidden(inputs * ff);
  for (size_t i = 0; i < hidden.size(); ++i) {
    hidden[i] = activation(c.form, from_bf16(to_bf16(static_cast<float>(silu(wide[2 * i]) * wide[2 * i + 1]))));
  }
  const vector<double> fed = product(down, hidden, c.inputs);
  for (size_t i = 0; i < stream.size(); ++i) stream[i] += fed[i];
  vector<double> qkv = normed(next, stream, attn_norm, c.inputs);
  for (size_t i = 0; i < qkv.size(); ++i) qkv[i] += static_cast<double>(bias[i % bias.size()]);

  Buffers buffers[2];
  bool ok = true;
  for (Buffers& to : buffers) {
    to.attended.assign(attended.size(), 0x7fc0);
    to.x.assign(x.size(), NAN);
    to.hidden.assign(inputs * ff, 0x7fc0);
    to.qkv.assign(inputs * bias.size(), NAN);
    Previous previous = {&attended, &x, &to};
    host::launches_set(c.copies, write_previous, &previous);
    MatrixProduct calls[4] = {};
    calls[0].x = to.attended.data();
    calls[0].out = to.x.data();
    calls[0].output = MatrixOutput::kResidual;
    calls[1].norm_x = to.x.data();
    calls[1].norm_weight = ffn_norm.data();
    calls[1].out = to.hidden.data();
    calls[1].output = MatrixOutput::kSwiglu;
    calls[2].x = to.hidden.data();
    calls[2].out = to.x.data();
    calls[2].output = MatrixOutput::kResidual;
    calls[3].norm_x = to.x.data();
    calls[3].norm_weight = attn_norm.data();
    calls[3].bias = bias.data();
    calls[3].out = to.qkv.data();
    calls[3].output = MatrixOutput::kF32;
    calls[3].next = gate_up.matrix.data;
    calls[3].next_bytes = 4096;
    for (MatrixProduct& call : calls) {
      call.inputs = c.inputs;
      call.norm_eps = kEps;
    }
    const Matrix* matrices[] = {&o.matrix, &gate_up.matrix, &down.matrix, &next.matrix};
    const int32_t count = c.qkv > 0 ? 4 : 3;
    for (int32_t i = 0; i < count; ++i) {
      ok = ok && vector_launch(*matrices[i], calls[i], c.multiprocessors, kSharedMax, nullptr) == cudaSuccess;
      host::launches_set(c.copies, nullptr, nullptr);
    }
  }
  const double x_error = distance(buffers[0].x, stream);
  const double qkv_error = c.qkv > 0 ? distance(buffers[0].qkv, qkv) : 0;
  const bool equal = same(buffers[0].x, buffers[1].x) && same(buffers[0].hidden, buffers[1].hidden) &&
                     same(buffers[0].qkv, buffers[1].qkv);
  ok = ok && equal && x_error < kBound && qkv_error < kBound;
  ++(ok ? passed : failed);
  printf("%s form %d inputs %d dim %d ff %d qkv %d blocks %d copies %s: error %.1e %.1e, bits %s\n", ok ? "ok  " : "FAIL",
         static_cast<int>(c.form), c.inputs, c.dim, c.ff, c.qkv, c.multiprocessors,
         c.copies == host::Copies::kLate ? "late" : "early", x_error, qkv_error, equal ? "equal" : "differ");
}

}  // namespace

extern "C" {

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void** arguments) {
  host::kernel_launch<VectorArgs>({static_cast<int32_t>(config->gridDim.x),
                                   static_cast<int32_t>(config->blockDim.x), 1, config->dynamicSmemBytes},
                                  kernel, arguments);
  return cudaSuccess;
}

}  // extern "C"

int main() {
  using host::Copies;
  for (MatrixForm form : {MatrixForm::kBf16, MatrixForm::kF16, MatrixForm::kFp8, MatrixForm::kInt8, MatrixForm::kInt4}) {
    // Fewer tiles than blocks, and more; columns that end within a step; warps without activations of their own to read.
    run({form, 1, 256, 128, 544, 400, 3, Copies::kLate});
    run({form, 3, 128, 256, 96, 48, 2, Copies::kEarly});
    run({form, 1, 64, 1152, 160, 0, 5, Copies::kLate});
    run({form, 8, 96, 64, 80, 32, 1, Copies::kLate});
  }
  // int4 with blocks of all warps of a multiprocessor.
  setenv("LEANEDGE_CUDA_VARIANTS", "halves=0", 1);
  variants_read();
  run({MatrixForm::kInt4, 1, 256, 128, 544, 400, 3, Copies::kLate});
  run({MatrixForm::kInt4, 3, 128, 256, 96, 48, 2, Copies::kEarly});
  printf("%d passed, %d failed   gpu-worker/test/host_kernel/vector_test.cpp\n", passed, failed);
  return failed != 0;
}
