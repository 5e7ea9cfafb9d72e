// Offsets of a page's sections, computed from widths: the one place in C++ that knows their order.
#pragma once

#include "leanedge/plan.h"

namespace leanedge {

// The sections of a head of `width` whose block begins at `offset` of its layer block and whose
// first channel is entry `channels` of the plan's list. Uses head_dim, storages, pages_per_step and
// evicting of the plan only.
PageHead page_head_layout(const CachePlan& plan, uint32_t width, uint32_t offset,
                          uint32_t channels);

// Fills in k_channel_bytes, v_row_bytes and v_groups.
void page_header_layout(CachePlan* plan);

inline PageHead* plan_head_mutable(CachePlan* plan, int32_t layer, int32_t head) {
  return const_cast<PageHead*>(&plan_head(*plan, layer, head));
}

inline uint16_t* plan_channels_mutable(CachePlan* plan) {
  return const_cast<uint16_t*>(plan_channels(*plan));
}

}  // namespace leanedge
