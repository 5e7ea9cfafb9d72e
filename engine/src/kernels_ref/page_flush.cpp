#include <string.h>

#include "leanedge/kernels.h"
#include "leanedge/status.h"

namespace leanedge::kernels {

void page_flush(Context*, const CachePlan& plan, int32_t layer, int32_t kv_heads, int32_t head_dim,
                const uint16_t* k, const uint16_t* v, int32_t stride, int32_t row, uint8_t* page) {
  ENGINE_ASSERT(kv_heads == plan.kv_heads && head_dim == plan.head_dim);
  ENGINE_ASSERT(stride >= kPageSlots && row >= 0 && row < stride && !plan.evicting);
  const size_t dim = static_cast<size_t>(head_dim);
  uint16_t k_rows[kPageSlots * kHeadDimMax];
  uint16_t v_rows[kPageSlots * kHeadDimMax];
  for (int32_t h = 0; h < kv_heads; ++h) {
    for (int32_t i = 0; i < kPageSlots; ++i) {
      const size_t at = (static_cast<size_t>(h) * static_cast<size_t>(stride) +
                         static_cast<size_t>((row + i) % stride)) * dim;
      memcpy(k_rows + static_cast<size_t>(i) * dim, k + at, dim * 2);
      memcpy(v_rows + static_cast<size_t>(i) * dim, v + at, dim * 2);
    }
    // Rows were checked to be finite when they entered the cache.
    const Status status =
        page_pack_ref(plan, layer, h, k_rows, v_rows, dim, kPageSlots, nullptr, page, nullptr);
    ENGINE_ASSERT(status == Status::kOk);
  }
}

}  // namespace leanedge::kernels
