#include "leanedge/kernels.h"

namespace leanedge::kernels {

void add(Context*, float* x, const float* y, int32_t rows, int32_t dim) {
  const size_t count = static_cast<size_t>(rows) * static_cast<size_t>(dim);
  for (size_t i = 0; i < count; ++i) x[i] += y[i];
}

void add_bias(Context*, float* x, const float* bias, int32_t rows, int32_t dim) {
  for (int32_t r = 0; r < rows; ++r, x += dim) {
    for (int32_t i = 0; i < dim; ++i) x[i] += bias[i];
  }
}

}  // namespace leanedge::kernels
