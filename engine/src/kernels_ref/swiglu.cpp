#include "../numeric.h"
#include "leanedge/kernels.h"

namespace leanedge::kernels {

void swiglu(Context*, float* gate, const float* up, int32_t rows, int32_t dim) {
  const size_t count = static_cast<size_t>(rows) * static_cast<size_t>(dim);
  for (size_t i = 0; i < count; ++i) gate[i] = gate[i] / (1.0f + exp_f32(-gate[i])) * up[i];
}

}  // namespace leanedge::kernels
