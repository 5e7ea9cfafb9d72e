#include <math.h>

#include "leanedge/kernels.h"

namespace leanedge::kernels {

void rmsnorm(Context*, const float* x, const float* weight, float eps, int32_t rows, int32_t dim,
             float* y) {
  for (int32_t r = 0; r < rows; ++r, x += dim, y += dim) {
    double squares = 0;
    for (int32_t i = 0; i < dim; ++i)
      squares += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    const float mean = static_cast<float>(squares / dim);
    const float scale = 1.0f / sqrtf(mean + eps);
    for (int32_t i = 0; i < dim; ++i) y[i] = x[i] * scale * weight[i];
  }
}

}  // namespace leanedge::kernels
