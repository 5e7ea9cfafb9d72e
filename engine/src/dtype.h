// Sizes of the weight types of GGUF files.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "leanedge/model.h"

namespace leanedge {

inline constexpr int32_t kBlockCols = 32;  // columns that share a scale in block dtypes

// Whether weights come in blocks of kBlockCols with a scale.
constexpr bool dtype_blocked(Dtype dtype) {
  return dtype == Dtype::kQ4_0 || dtype == Dtype::kQ4_1 || dtype == Dtype::kQ8_0;
}

// Bytes of kBlockCols weights of a block dtype, or of one weight of the others; 0 if unknown.
constexpr size_t dtype_unit_bytes(Dtype dtype) {
  switch (dtype) {
    case Dtype::kF32: return 4;
    case Dtype::kF16: return 2;
    case Dtype::kBF16: return 2;
    case Dtype::kQ4_0: return 18;
    case Dtype::kQ4_1: return 20;
    case Dtype::kQ8_0: return 34;
  }
  return 0;
}

// Bytes of a row of `cols` weights as the file has it.
constexpr size_t dtype_row_bytes(Dtype dtype, int32_t cols) {
  const size_t units = static_cast<size_t>(dtype_blocked(dtype) ? cols / kBlockCols : cols);
  return units * dtype_unit_bytes(dtype);
}

}  // namespace leanedge
