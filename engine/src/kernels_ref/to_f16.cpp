#include "leanedge/half.h"
#include "leanedge/kernels.h"

namespace leanedge::kernels {

void to_f16(Context*, const float* x, size_t count, uint16_t* out) {
  for (size_t i = 0; i < count; ++i) out[i] = f32_to_f16(x[i]);
}

}  // namespace leanedge::kernels
