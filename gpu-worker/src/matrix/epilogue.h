// Kernels before and after cuBLASLt. Arguments have been checked.
#pragma once

#include <cuda_runtime_api.h>
#include <stdint.h>

#include "leanedge_cuda/matrix.h"

namespace leanedge::cuda {

// From sums of some rows of a matrix to a product's output. Exactly one of sums, sums_bf16 is given.
struct EpilogueArgs {
  const float* sums;          // (inputs, rows)
  const uint16_t* sums_bf16;  // (inputs, rows)
  const float* bias;          // (rows) or null
  void* out;                  // of these rows; input n's begin n * out_pitch sums further on
  int32_t rows;
  int32_t inputs;
  int32_t out_pitch;          // rows of the whole matrix
  MatrixOutput output;
};
cudaError_t matrix_epilogue_kernel(const EpilogueArgs& args, cudaStream_t stream);

// `count` is a multiple of 8. Values beyond f16's range saturate.
cudaError_t bf16_to_f16_kernel(const uint16_t* x, int64_t count, uint16_t* out,
                               cudaStream_t stream);

}  // namespace leanedge::cuda
