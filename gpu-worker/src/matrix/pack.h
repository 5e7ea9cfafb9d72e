// Kernels that change a matrix's form. Arguments have been checked.
#pragma once

#include <cuda_runtime_api.h>

#include "leanedge_cuda/matrix.h"

namespace leanedge::cuda {

cudaError_t matrix_pack_kernels(const Matrix& matrix, const MatrixPart& part, cudaStream_t stream);
cudaError_t matrix_rows_kernel(const Matrix& matrix, const MatrixRows& call, cudaStream_t stream);
// Rows first .. first + count - 1 to out (count, cols) bf16.
cudaError_t matrix_widen_kernel(const Matrix& matrix, int32_t first, int32_t count, uint16_t* out,
                                cudaStream_t stream);

}  // namespace leanedge::cuda
