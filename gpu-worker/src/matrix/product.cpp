// A product's checks, and which kernels serve it.
#include <cuda_runtime.h>

#include "../cuda_status.h"
#include "block_product.h"
#include "check.h"
#include "context.h"
#include "epilogue.h"
#include "layout.h"
#include "pack.h"
#include "vector_product.h"

namespace leanedge::cuda {
namespace {

Status check_address(const void* pointer, const char* thing, ErrorDetail* detail) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(pointer);
  return at % 16 == 0 ? Status::kOk : matrix_invalid(detail, thing, static_cast<int64_t>(at), 16);
}

Status check_call(const Matrix& matrix, const MatrixProduct& call, ErrorDetail* detail) {
  if (call.inputs < 1 || call.inputs > kMatrixInputsMax) {
    return matrix_invalid(detail, "number of activation rows", call.inputs, kMatrixInputsMax);
  }
  if ((call.x != nullptr) == (call.norm_x != nullptr)) {
    return matrix_invalid(detail, "number of activation arrays", call.x ? 2 : 0, 1);
  }
  if (call.norm_x && !call.norm_weight) {
    return matrix_invalid(detail, "address of the norm's weights", 0, 16);
  }
  if (call.norm_x && call.inputs > kMatrixNormRowsMax) {
    return matrix_invalid(detail, "number of rows to normalise", call.inputs, kMatrixNormRowsMax);
  }
  const int32_t output = static_cast<int32_t>(call.output);
  if (output < 0 || output > static_cast<int32_t>(MatrixOutput::kSwiglu)) {
    return matrix_invalid(detail, "output", output, static_cast<int32_t>(MatrixOutput::kSwiglu));
  }
  if (call.output == MatrixOutput::kSwiglu && (call.bias || matrix.rows % 2 != 0)) {
    return matrix_invalid(detail, "number of rows of a SwiGLU (even, no bias)", matrix.rows, 2);
  }
  if (!call.out) return matrix_invalid(detail, "address of the output", 0, 16);
  if (call.out == call.x || call.out == call.norm_x) {
    return matrix_invalid(detail, "distance of output and activations", 0, 1);
  }
  Status status = check_address(call.x, "address of the activations (a multiple of the bound)",
                                detail);
  if (status == Status::kOk) {
    status = check_address(call.norm_x, "address of the residual (a multiple of the bound)", detail);
  }
  if (status == Status::kOk) {
    status = check_address(call.norm_weight, "address of the norm's weights (a multiple of the bound)",
                           detail);
  }
  return status == Status::kOk
             ? check_address(call.out, "address of the output (a multiple of the bound)", detail)
             : status;
}

bool out_is_f32(MatrixOutput output) {
  return output == MatrixOutput::kF32 || output == MatrixOutput::kResidual;
}

// Rows first .. first + rows - 1 of the matrix, which lie at `weights` as bf16 or f16, times
// `inputs` rows of activations.
Status wide_part(MatrixContext* context, const Matrix& matrix, const MatrixProduct& call,
                 const void* weights, int32_t first, int32_t rows, const void* x, bool f16,
                 int32_t input, int32_t inputs, cudaStream_t stream, ErrorDetail* detail) {
  const bool f32 = out_is_f32(call.output);
  // cuBLASLt writes f32 from f16, but not bf16.
  const bool direct = !call.bias && call.output != MatrixOutput::kSwiglu && (f32 || !f16);
  const size_t pitch = static_cast<size_t>(
      call.output == MatrixOutput::kSwiglu ? matrix.rows / 2 : matrix.rows);
  const size_t to = static_cast<size_t>(input) * pitch +
                    static_cast<size_t>(call.output == MatrixOutput::kSwiglu ? first / 2 : first);
  uint8_t* out = static_cast<uint8_t*>(call.out) + to * (f32 ? sizeof(float) : sizeof(uint16_t));
  // Sums of a SwiGLU of bf16 weights are rounded to bf16, all others stay f32.
  const bool sums_bf16 = call.output == MatrixOutput::kSwiglu && !f16;
  LtShape shape = {};
  shape.rows = rows;
  shape.inputs = inputs;
  shape.cols = matrix.cols;
  shape.out_pitch = direct ? matrix.rows : rows;
  shape.f16 = f16;
  shape.out_f32 = direct ? f32 : !sums_bf16;
  shape.accumulate = direct && call.output == MatrixOutput::kResidual;
  const Status status = lt_product(context, shape, weights, x,
                                   direct ? static_cast<void*>(out) : context->sums, stream, detail);
  if (status != Status::kOk || direct) return status;
  EpilogueArgs args = {};
  args.sums = sums_bf16 ? nullptr : reinterpret_cast<const float*>(context->sums);
  args.sums_bf16 = sums_bf16 ? reinterpret_cast<const uint16_t*>(context->sums) : nullptr;
  args.bias = call.bias ? call.bias + first : nullptr;
  args.out = out;
  args.rows = rows;
  args.inputs = inputs;
  args.out_pitch = matrix.rows;
  args.output = call.output;
  LEANEDGE_CUDA_TRY(matrix_epilogue_kernel(args, stream), detail);
  return Status::kOk;
}

int32_t down_to(int64_t value, int32_t unit) {
  return static_cast<int32_t>(value > unit ? value / unit * unit : value);
}

// By cuBLASLt: bf16 and f16 as they lie, other forms a tile of rows at a time as bf16.
Status wide_product(MatrixContext* context, const Matrix& matrix, const MatrixProduct& call,
                    cudaStream_t stream, ErrorDetail* detail) {
  const bool row_major = form_row_major(matrix.form);
  const bool f16 = matrix.form == MatrixForm::kF16;
  const int64_t row_bytes = static_cast<int64_t>(matrix.cols) * 2;
  const int32_t tile = row_major ? matrix.rows
                                 : down_to(static_cast<int64_t>(kWideBytes) / row_bytes, 128);
  for (int32_t first = 0; first < matrix.rows; first += tile) {
    const int32_t rows = tile < matrix.rows - first ? tile : matrix.rows - first;
    const void* weights = matrix.data;
    if (!row_major) {
      uint16_t* wide = reinterpret_cast<uint16_t*>(context->wide);
      LEANEDGE_CUDA_TRY(matrix_widen_kernel(matrix, first, rows, wide, stream), detail);
      weights = wide;
    }
    // What the scratch holds of sums and, for f16, of activations.
    int64_t most = static_cast<int64_t>(kSumsBytes) / (static_cast<int64_t>(rows) * 4);
    if (f16 && static_cast<int64_t>(kNarrowBytes) / row_bytes < most) {
      most = static_cast<int64_t>(kNarrowBytes) / row_bytes;
    }
    const int32_t inputs_max = most < 1 ? 1 : down_to(most, 128);
    for (int32_t input = 0; input < call.inputs; input += inputs_max) {
      const int32_t inputs =
          inputs_max < call.inputs - input ? inputs_max : call.inputs - input;
      const uint16_t* x = call.x + static_cast<size_t>(input) * static_cast<size_t>(matrix.cols);
      if (f16) {
        uint16_t* narrow = reinterpret_cast<uint16_t*>(context->narrow);
        LEANEDGE_CUDA_TRY(bf16_to_f16_kernel(x, static_cast<int64_t>(inputs) * matrix.cols, narrow,
                                             stream),
                          detail);
        x = narrow;
      }
      const Status status = wide_part(context, matrix, call, weights, first, rows, x, f16, input,
                                      inputs, stream, detail);
      if (status != Status::kOk) return status;
    }
  }
  return Status::kOk;
}

}  // namespace

Status matrix_product_launch(MatrixContext* context, const Matrix& matrix, const MatrixProduct& call,
                             cudaStream_t stream, ErrorDetail* detail) {
  Status status = matrix_check(matrix, detail);
  if (status == Status::kOk) status = check_call(matrix, call, detail);
  if (status != Status::kOk) return status;
  if (call.inputs <= kMatrixVectorRowsMax) {
    LEANEDGE_CUDA_TRY(
        vector_launch(matrix, call, context->processors, context->shared_max, stream), detail);
    return Status::kOk;
  }
  if (block_serves(matrix, call, context->shared_max)) {
    LEANEDGE_CUDA_TRY(block_launch(matrix, call, context->processors, context->alone, context->sums,
                                   context->counters, stream),
                      detail);
    return Status::kOk;
  }
  return wide_product(context, matrix, call, stream, detail);
}

}  // namespace leanedge::cuda
