#include "page_layout.h"

#include "leanedge/sequence.h"

namespace leanedge {
namespace {

constexpr uint32_t kSlots = static_cast<uint32_t>(kPageSlots);

uint32_t align_section(uint32_t bytes) {
  return (bytes + kSectionAlign - 1) / kSectionAlign * kSectionAlign;
}

// Gives the next section its offset and moves on.
uint32_t take(uint32_t* at, uint32_t bytes) {
  const uint32_t offset = *at;
  *at += align_section(bytes);
  return offset;
}

}  // namespace

PageHead page_head_layout(const CachePlan& plan, uint32_t width, uint32_t offset,
                          uint32_t channels) {
  PageHead head;
  head.width = width;
  head.channels = channels;
  head.offset = offset;
  head.bytes = 0;
  head.k_values = head.k_scale = head.k_min = head.k_max = kNoSection;
  head.v_values = head.v_scale = head.v_min = kNoSection;
  head.count = head.positions = kNoSection;
  head.reserved = 0;
  if (width == 0) return head;

  const bool k_quantised = plan.k_storage != PageStorage::kF16;
  const bool v_quantised = plan.v_storage != PageStorage::kF16;
  const uint32_t k_bits = static_cast<uint32_t>(storage_bits(plan.k_storage));
  const uint32_t v_bits = static_cast<uint32_t>(storage_bits(plan.v_storage));
  const uint32_t dim = static_cast<uint32_t>(plan.head_dim);
  const uint32_t groups = (dim + kGroupChannels - 1) / kGroupChannels;

  uint32_t at = offset;
  head.k_values = take(&at, width * kSlots * k_bits / 8);
  if (k_quantised) head.k_scale = take(&at, width * 2);
  if (k_quantised || plan_selects(plan)) head.k_min = take(&at, width * 2);
  if (!k_quantised && plan_selects(plan)) head.k_max = take(&at, width * 2);
  head.v_values = take(&at, kSlots * (dim * v_bits / 8));
  if (v_quantised) head.v_scale = take(&at, groups * kSlots * 2);
  if (v_quantised) head.v_min = take(&at, groups * kSlots * 2);
  if (plan.evicting) head.count = take(&at, 4);
  if (plan.evicting) head.positions = take(&at, kSlots * 4);
  head.bytes = at - offset;
  return head;
}

void page_header_layout(CachePlan* plan) {
  const uint32_t dim = static_cast<uint32_t>(plan->head_dim);
  plan->k_channel_bytes = kSlots * static_cast<uint32_t>(storage_bits(plan->k_storage)) / 8;
  plan->v_row_bytes = dim * static_cast<uint32_t>(storage_bits(plan->v_storage)) / 8;
  plan->v_groups = static_cast<int32_t>((dim + kGroupChannels - 1) / kGroupChannels);
}

uint64_t plan_layout_write(CachePlan* plan) {
  plan->bytes =
      static_cast<uint32_t>(plan_bytes(plan->layers, plan->kv_heads, plan->channel_count));
  page_header_layout(plan);
  uint32_t channels = 0;
  uint64_t page_bytes = 0;
  for (int32_t layer = 0; layer < plan->layers; ++layer) {
    uint32_t at = 0;
    for (int32_t head = 0; head < plan->kv_heads; ++head) {
      PageHead* entry = plan_head_mutable(plan, layer, head);
      *entry = page_head_layout(*plan, entry->width, at, channels);
      at += entry->bytes;
      channels += entry->width;
    }
    PageLayer* block = const_cast<PageLayer*>(&plan_layer(*plan, layer));
    block->offset = static_cast<uint32_t>(page_bytes);
    block->bytes = at;
    page_bytes += at;
  }
  plan->page_bytes = static_cast<uint32_t>(page_bytes);
  return page_bytes;
}

}  // namespace leanedge
