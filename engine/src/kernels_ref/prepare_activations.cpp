#include "../dtype.h"
#include "../numeric.h"
#include "leanedge/half.h"
#include "leanedge/kernels.h"
#include "leanedge/status.h"
#include "quantized_row.h"

namespace leanedge::kernels {
namespace {

QuantizedBlock quantize_block(const float* x) {
  QuantizedBlock block = {};
  float max = 0.0f;
  for (int32_t i = 0; i < kBlockCols; ++i) {
    if (!f32_finite(x[i])) {
      // The product becomes NaN, which sampling then reports.
      block.scale = f32_from_bits(0x7fc00000u);
      return block;
    }
    const float magnitude = x[i] < 0 ? -x[i] : x[i];
    if (magnitude > max) max = magnitude;
  }
  block.scale = max / 127.0f;
  if (block.scale == 0.0f) return block;
  for (int32_t i = 0; i < kBlockCols; ++i) {
    const float scaled = x[i] / block.scale;
    int32_t q = static_cast<int32_t>(scaled + (scaled < 0 ? -0.5f : 0.5f));
    // A subnormal scale is coarse enough for a quotient beyond 127.
    if (q > 127) q = 127;
    if (q < -127) q = -127;
    block.q[i] = static_cast<int8_t>(q);
    block.sum += q;
  }
  return block;
}

}  // namespace

size_t activations_bytes(int32_t rows, int32_t cols) {
  return static_cast<size_t>(rows) * static_cast<size_t>(cols / kBlockCols) *
         sizeof(QuantizedBlock);
}

void prepare_activations(Context*, Activations& activations) {
  ENGINE_ASSERT(activations.rows > 0 && activations.cols > 0);
  // Rows of other lengths meet no block dtype.
  if (activations.cols % kBlockCols) return;
  const size_t blocks =
      static_cast<size_t>(activations.rows) * static_cast<size_t>(activations.cols / kBlockCols);
  QuantizedBlock* out = reinterpret_cast<QuantizedBlock*>(activations.prepared);
  for (size_t b = 0; b < blocks; ++b) out[b] = quantize_block(activations.x + b * kBlockCols);
}

}  // namespace leanedge::kernels
