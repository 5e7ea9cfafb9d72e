// Prepared activations of the reference: int8 with a scale and a sum, per 32 columns.
#pragma once

#include <stdint.h>

namespace leanedge::kernels {

struct QuantizedBlock {
  float scale;   // max|x| / 127; NaN where an input is not finite
  int32_t sum;   // of q
  int8_t q[32];  // round-half-away(x / scale)
};

}  // namespace leanedge::kernels
