// Which matrices and calls are served: checked before anything is launched.
#pragma once

#include <stdio.h>

#include "../cuda_status.h"
#include "leanedge_cuda/matrix.h"

namespace leanedge::cuda {

// kInvalidArgument, with the thing, the value and the bound.
inline Status matrix_invalid(ErrorDetail* detail, const char* thing, int64_t value, int64_t bound) {
  error_begin(detail, Status::kInvalidArgument, value, bound);
  if (detail) {
    snprintf(detail->message, sizeof detail->message, "matrix: %s is %lld, bound %lld", thing,
             static_cast<long long>(value), static_cast<long long>(bound));
  }
  return Status::kInvalidArgument;
}

inline int32_t matrix_cols_unit(MatrixForm form) {
  return form == MatrixForm::kInt8 || form == MatrixForm::kInt4 ? 32 : 8;
}

// kOk, or kInvalidArgument for a shape, form or address that is not served.
Status matrix_check(const Matrix& matrix, ErrorDetail* detail);

}  // namespace leanedge::cuda
