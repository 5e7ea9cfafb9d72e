#include "leanedge/kernels.h"

namespace leanedge::kernels {

void rope(Context*, float* x, const float* cos, const float* sin, int32_t rows, int32_t heads,
          int32_t head_dim, int32_t rope_dim) {
  const int32_t half = rope_dim / 2;
  for (int32_t r = 0; r < rows; ++r, cos += half, sin += half) {
    for (int32_t h = 0; h < heads; ++h, x += head_dim) {
      for (int32_t i = 0; i < half; ++i) {
        const float a = x[i];
        const float b = x[i + half];
        x[i] = a * cos[i] - b * sin[i];
        x[i + half] = a * sin[i] + b * cos[i];
      }
    }
  }
}

}  // namespace leanedge::kernels
