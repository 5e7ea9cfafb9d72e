// A C interface over matrices for the Python checks and benchmarks of gpu-worker/device. Not part of
// the engine.
#include <cuda_runtime.h>

#include "leanedge_cuda/matrix.h"

using namespace leanedge;

namespace {

ErrorDetail last_error;

cuda::Matrix matrix_of(void* data, int32_t form, int32_t rows, int32_t cols) {
  return {static_cast<uint8_t*>(data), static_cast<cuda::MatrixForm>(form), rows, cols, 0};
}

}  // namespace

extern "C" {

// The last error's message.
const char* matrix_harness_error() { return last_error.message; }

size_t matrix_harness_bytes(int32_t form, int32_t rows, int32_t cols) {
  return cuda::matrix_bytes(static_cast<cuda::MatrixForm>(form), rows, cols);
}

size_t matrix_harness_context_bytes() { return cuda::matrix_context_bytes(); }

// A context, or null.
void* matrix_harness_context(void* scratch) {
  cuda::MatrixContext* context = nullptr;
  cuda::matrix_context_create(static_cast<uint8_t*>(scratch), true, nullptr, &context, &last_error);
  return context;
}

void matrix_harness_context_free(void* context) {
  cuda::matrix_context_destroy(static_cast<cuda::MatrixContext*>(context));
}

int32_t matrix_harness_clear(void* data, int32_t form, int32_t rows, int32_t cols, void* stream) {
  return static_cast<int32_t>(cuda::matrix_clear_launch(
      matrix_of(data, form, rows, cols), static_cast<cudaStream_t>(stream), &last_error));
}

// part: dtype, rows, to_row, to_step, head_dim, rope_dim.
int32_t matrix_harness_pack(void* data, int32_t form, int32_t rows, int32_t cols, const void* raw,
                            const int32_t* part, void* stream) {
  const cuda::MatrixPart to = {static_cast<const uint8_t*>(raw), static_cast<Dtype>(part[0]),
                               part[1], part[2], part[3], part[4], part[5]};
  return static_cast<int32_t>(cuda::matrix_pack_launch(
      matrix_of(data, form, rows, cols), to, static_cast<cudaStream_t>(stream), &last_error));
}

int32_t matrix_harness_rows(void* data, int32_t form, int32_t rows, int32_t cols, const void* ids,
                            void* out, int32_t first, int32_t count, void* stream) {
  const cuda::MatrixRows call = {static_cast<const int32_t*>(ids), static_cast<float*>(out), first,
                                 count};
  return static_cast<int32_t>(cuda::matrix_rows_launch(
      matrix_of(data, form, rows, cols), call, static_cast<cudaStream_t>(stream), &last_error));
}

int32_t matrix_harness_product(void* context, void* data, int32_t form, int32_t rows, int32_t cols,
                               const void* x, const void* norm_x, const void* norm_weight,
                               float norm_eps, int32_t inputs, const void* bias, void* out,
                               int32_t output, int32_t overlap, void* stream) {
  cuda::MatrixProduct call = {};
  call.x = static_cast<const uint16_t*>(x);
  call.norm_x = static_cast<const float*>(norm_x);
  call.norm_weight = static_cast<const float*>(norm_weight);
  call.norm_eps = norm_eps;
  call.inputs = inputs;
  call.bias = static_cast<const float*>(bias);
  call.out = out;
  call.output = static_cast<cuda::MatrixOutput>(output);
  call.overlap = overlap;
  return static_cast<int32_t>(cuda::matrix_product_launch(
      static_cast<cuda::MatrixContext*>(context), matrix_of(data, form, rows, cols), call,
      static_cast<cudaStream_t>(stream), &last_error));
}

}  // extern "C"
