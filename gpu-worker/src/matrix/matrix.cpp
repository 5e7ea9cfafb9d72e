// Host side of matrices: sizes, checks, packing.
#include <cuda_runtime.h>

#include "../cuda_status.h"
#include "check.h"
#include "layout.h"
#include "leanedge_cuda/matrix.h"
#include "pack.h"

namespace leanedge::cuda {
namespace {

bool aligned(const void* pointer, uintptr_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

bool dtype_known(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF32:
    case Dtype::kF16:
    case Dtype::kQ4_0:
    case Dtype::kQ4_1:
    case Dtype::kQ8_0:
    case Dtype::kBF16: return true;
  }
  return false;
}

bool dtype_blocks(Dtype dtype) {
  return dtype == Dtype::kQ4_0 || dtype == Dtype::kQ4_1 || dtype == Dtype::kQ8_0;
}

bool shape_served(MatrixForm form, int32_t rows, int32_t cols) {
  const int32_t value = static_cast<int32_t>(form);
  return value >= 0 && value <= static_cast<int32_t>(MatrixForm::kInt4) && rows >= 1 &&
         rows <= kVocabMax && cols >= 8 && cols <= kMatrixColsMax &&
         cols % matrix_cols_unit(form) == 0;
}

}  // namespace

size_t matrix_bytes(MatrixForm form, int32_t rows, int32_t cols) {
  if (!shape_served(form, rows, cols)) return 0;
  const size_t scales = form == MatrixForm::kFp8 ? static_cast<size_t>(rows) * sizeof(float) : 0;
  return weight_bytes(form, rows, cols) + (scales + 255) / 256 * 256;
}

Status matrix_check(const Matrix& matrix, ErrorDetail* detail) {
  const int32_t form = static_cast<int32_t>(matrix.form);
  if (form < 0 || form > static_cast<int32_t>(MatrixForm::kInt4)) {
    return matrix_invalid(detail, "form", form, static_cast<int32_t>(MatrixForm::kInt4));
  }
  if (matrix.rows < 1 || matrix.rows > kVocabMax) {
    return matrix_invalid(detail, "number of rows", matrix.rows, kVocabMax);
  }
  if (matrix.cols < 8 || matrix.cols > kMatrixColsMax) {
    return matrix_invalid(detail, "number of columns", matrix.cols, kMatrixColsMax);
  }
  if (!shape_served(matrix.form, matrix.rows, matrix.cols)) {
    return matrix_invalid(detail, "number of columns (a multiple of the bound)", matrix.cols,
                          matrix_cols_unit(matrix.form));
  }
  if (!matrix.data || !aligned(matrix.data, 256)) {
    return matrix_invalid(detail, "address of the data (a multiple of the bound)",
                          static_cast<int64_t>(reinterpret_cast<uintptr_t>(matrix.data)), 256);
  }
  return Status::kOk;
}

Status matrix_clear_launch(const Matrix& matrix, cudaStream_t stream, ErrorDetail* detail) {
  const Status status = matrix_check(matrix, detail);
  if (status != Status::kOk) return status;
  LEANEDGE_CUDA_TRY(cudaMemsetAsync(matrix.data, 0,
                                    matrix_bytes(matrix.form, matrix.rows, matrix.cols), stream),
                    detail);
  return Status::kOk;
}

Status matrix_pack_launch(const Matrix& matrix, const MatrixPart& part, cudaStream_t stream,
                          ErrorDetail* detail) {
  const Status status = matrix_check(matrix, detail);
  if (status != Status::kOk) return status;
  if (!dtype_known(part.dtype)) {
    return matrix_invalid(detail, "dtype of a part", static_cast<int64_t>(part.dtype),
                          static_cast<int64_t>(Dtype::kBF16));
  }
  if (dtype_blocks(part.dtype) && matrix.cols % kUnitCols != 0) {
    return matrix_invalid(detail, "number of columns of a part in blocks", matrix.cols, kUnitCols);
  }
  if (!part.raw || !aligned(part.raw, 4)) {
    return matrix_invalid(detail, "address of a part (a multiple of the bound)",
                          static_cast<int64_t>(reinterpret_cast<uintptr_t>(part.raw)), 4);
  }
  if (part.rows < 1 || part.rows > matrix.rows) {
    return matrix_invalid(detail, "number of rows of a part", part.rows, matrix.rows);
  }
  if (part.to_step < 1) return matrix_invalid(detail, "step of a part", part.to_step, 1);
  if (part.to_row < 0) return matrix_invalid(detail, "first row of a part", part.to_row, 0);
  const int64_t last =
      part.to_row + (static_cast<int64_t>(part.rows) - 1) * static_cast<int64_t>(part.to_step);
  if (last >= matrix.rows) return matrix_invalid(detail, "last row of a part", last, matrix.rows);
  if (part.rope_dim != 0) {
    if (part.head_dim < 2 || part.rows % part.head_dim != 0) {
      return matrix_invalid(detail, "number of rows of a part with heads of the bound", part.rows,
                            part.head_dim);
    }
    if (part.rope_dim < 0 || part.rope_dim > part.head_dim || part.rope_dim % 2 != 0) {
      return matrix_invalid(detail, "rope_dim of a part (even)", part.rope_dim, part.head_dim);
    }
  }
  LEANEDGE_CUDA_TRY(matrix_pack_kernels(matrix, part, stream), detail);
  return Status::kOk;
}

Status matrix_rows_launch(const Matrix& matrix, const MatrixRows& call, cudaStream_t stream,
                          ErrorDetail* detail) {
  const Status status = matrix_check(matrix, detail);
  if (status != Status::kOk) return status;
  if (call.count < 0) return matrix_invalid(detail, "count of rows", call.count, 0);
  if (!call.ids && (call.first < 0 || call.first > matrix.rows - call.count)) {
    return matrix_invalid(detail, "first row", call.first, matrix.rows - call.count);
  }
  if (!call.out || !aligned(call.out, 16)) {
    return matrix_invalid(detail, "address of the output (a multiple of the bound)",
                          static_cast<int64_t>(reinterpret_cast<uintptr_t>(call.out)), 16);
  }
  if (call.count == 0) return Status::kOk;
  LEANEDGE_CUDA_TRY(matrix_rows_kernel(matrix, call, stream), detail);
  return Status::kOk;
}

}  // namespace leanedge::cuda
