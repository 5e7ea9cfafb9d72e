// Checks of a plan's block, and the identity plan.
#include "leanedge/plan.h"

#include <string.h>

#include "error.h"
#include "page_layout.h"

namespace leanedge {
namespace {

struct FieldRange {
  const char* message;
  int32_t value;
  int32_t min;
  int32_t max;
};

Status check_fields(const CachePlan& plan, ErrorDetail* detail) {
  const FieldRange ranges[] = {
      {"plan: layers is #, must be # .. #", plan.layers, 1, kLayersMax},
      {"plan: kv_heads is #, must be # .. #", plan.kv_heads, 1, kKvHeadsMax},
      {"plan: head_dim is #, must be # .. #", plan.head_dim, 2, kHeadDimMax},
      {"plan: sink is #, must be # .. #", plan.sink, 0, kSinkMax},
      {"plan: recent is #, must be # .. #", plan.recent, 1, kRecentMax},
      {"plan: k_storage is #, must be # .. #", static_cast<int32_t>(plan.k_storage), 0, 3},
      {"plan: v_storage is #, must be # .. #", static_cast<int32_t>(plan.v_storage), 0, 3},
      {"plan: pages_per_step is #, must be # .. #", plan.pages_per_step, 0, kPagesPerStepMax},
      {"plan: pages_floor is #, must be # .. #", plan.pages_floor, plan.pages_per_step,
       plan.pages_per_step ? kPagesPerStepMax : 0},
      {"plan: context_tokens_min is #, must be # .. #", plan.context_tokens_min, 0, kContextMax},
      {"plan: context_tokens_max is #, must be # .. #", plan.context_tokens_max,
       plan.context_tokens_min > 1 ? plan.context_tokens_min : 1, kContextMax},
      {"plan: evicting is #, must be # .. #", plan.evicting, 0, 1},
  };
  for (const FieldRange& range : ranges) {
    if (range.value < range.min || range.value > range.max) {
      const int64_t args[] = {range.value, range.min, range.max};
      return error_set(detail, Status::kInvalidPlan, range.value,
                       range.value < range.min ? range.min : range.max, range.message, args);
    }
  }
  const bool packed_v = storage_bits(plan.v_storage) < 8;
  const int32_t multiple = packed_v ? 8 : 2;
  if (plan.head_dim % multiple) {
    const int64_t args[] = {plan.head_dim, multiple, storage_bits(plan.v_storage)};
    return error_set(detail, Status::kInvalidPlan, plan.head_dim, multiple,
                     "plan: head_dim is #, must be a multiple of # with V in # bits", args);
  }
  return Status::kOk;
}

// Width and channels of one head. `first` is the sum of the widths before it.
Status check_head(const CachePlan& plan, int32_t layer, int32_t head, uint32_t first,
                  ErrorDetail* detail) {
  const uint32_t width = plan_head(plan, layer, head).width;
  const uint32_t dim = static_cast<uint32_t>(plan.head_dim);
  if (width > dim || (width != dim && width % kWidthStep != 0)) {
    const int64_t args[] = {layer, head, width, kWidthStep, dim};
    return error_set(detail, Status::kInvalidPlan, width, dim,
                     "plan: width of layer #, KV head # is #, must be a multiple of # or #", args);
  }
  if (width > plan.channel_count - first) {
    const int64_t args[] = {plan.channel_count, layer, head};
    return error_set(detail, Status::kInvalidPlan, plan.channel_count, first,
                     "plan: channel_count is #, and the widths up to layer #, KV head # need more",
                     args);
  }
  const uint16_t* channels = plan_channels(plan) + first;
  for (uint32_t i = 0; i < width; ++i) {
    if (channels[i] >= dim || (i && channels[i] <= channels[i - 1])) {
      const int64_t args[] = {i, layer, head, channels[i], dim};
      return error_set(detail, Status::kInvalidPlan, channels[i], dim,
                       "plan: kept channel # of layer #, KV head # is #, must be above the one "
                       "before it and below #",
                       args);
    }
  }
  return Status::kOk;
}

Status layout_differs(ErrorDetail* detail, int64_t value, int64_t bound, const char* what,
                      int32_t layer, int32_t head) {
  const int64_t args[] = {layer, head, value, bound};
  return error_set(detail, Status::kInvalidPlan, value, bound, what, args);
}

}  // namespace

Status plan_check(const CachePlan* plan, size_t bytes_max, ErrorDetail* detail) {
  if (bytes_max < sizeof(CachePlan)) {
    const int64_t args[] = {static_cast<int64_t>(bytes_max), sizeof(CachePlan)};
    return error_set(detail, Status::kInvalidPlan, static_cast<int64_t>(bytes_max),
                     sizeof(CachePlan), "plan: # bytes, a header has #", args);
  }
  if (plan->magic != kPlanMagic || plan->version != kPlanVersion) {
    const int64_t args[] = {plan->magic, plan->version, kPlanMagic, kPlanVersion};
    return error_set(detail, Status::kInvalidPlan, plan->version, kPlanVersion,
                     "plan: magic # and version #, must be # and #", args);
  }
  Status status = check_fields(*plan, detail);
  if (status != Status::kOk) return status;
  const size_t heads = static_cast<size_t>(plan->layers) * static_cast<size_t>(plan->kv_heads);
  const size_t channels_max = heads * static_cast<size_t>(plan->head_dim);
  if (plan->channel_count > channels_max) {
    const int64_t args[] = {plan->channel_count, static_cast<int64_t>(channels_max)};
    return error_set(detail, Status::kInvalidPlan, plan->channel_count,
                     static_cast<int64_t>(channels_max),
                     "plan: channel_count is #, the heads have # channels", args);
  }
  const size_t bytes = plan_bytes(plan->layers, plan->kv_heads, plan->channel_count);
  if (plan->bytes != bytes || bytes > bytes_max) {
    const int64_t args[] = {plan->bytes, static_cast<int64_t>(bytes),
                            static_cast<int64_t>(bytes_max)};
    return error_set(detail, Status::kInvalidPlan, plan->bytes, static_cast<int64_t>(bytes),
                     "plan: bytes is #, its tables take #, # are there", args);
  }

  uint32_t channels = 0;
  uint64_t page_bytes = 0;
  for (int32_t layer = 0; layer < plan->layers; ++layer) {
    uint64_t layer_bytes = 0;
    for (int32_t head = 0; head < plan->kv_heads; ++head) {
      status = check_head(*plan, layer, head, channels, detail);
      if (status != Status::kOk) return status;
      const PageHead& stored = plan_head(*plan, layer, head);
      const PageHead computed =
          page_head_layout(*plan, stored.width, static_cast<uint32_t>(layer_bytes), channels);
      if (memcmp(&stored, &computed, sizeof(PageHead)) != 0) {
        return layout_differs(detail, stored.bytes, computed.bytes,
                              "plan: section offsets of layer #, KV head # (# bytes) are not those "
                              "of the page format (# bytes)",
                              layer, head);
      }
      channels += stored.width;
      layer_bytes += stored.bytes;
    }
    const PageLayer& stored = plan_layer(*plan, layer);
    if (stored.offset != page_bytes || stored.bytes != layer_bytes) {
      return layout_differs(detail, stored.bytes, static_cast<int64_t>(layer_bytes),
                            "plan: offset or size of layer #'s block differs (# heads): size is #, "
                            "must be #",
                            layer, plan->kv_heads);
    }
    page_bytes += layer_bytes;
    // Offsets stay within 32 bits: one layer alone adds at most 256 heads x 35 KB.
    if (page_bytes > kPageBytesMax) {
      const int64_t args[] = {layer, static_cast<int64_t>(page_bytes), kPageBytesMax};
      return error_set(detail, Status::kInvalidPlan, static_cast<int64_t>(page_bytes),
                       kPageBytesMax, "plan: a page up to layer # has # bytes, at most #", args);
    }
  }
  CachePlan expected = *plan;
  page_header_layout(&expected);
  if (channels != plan->channel_count || plan->page_bytes != page_bytes ||
      plan->k_channel_bytes != expected.k_channel_bytes ||
      plan->v_row_bytes != expected.v_row_bytes || plan->v_groups != expected.v_groups) {
    const int64_t args[] = {plan->channel_count, channels, plan->page_bytes,
                            static_cast<int64_t>(page_bytes)};
    return error_set(detail, Status::kInvalidPlan, plan->page_bytes,
                     static_cast<int64_t>(page_bytes),
                     "plan: channel_count is # (widths add up to #), page_bytes is # (layout: #), "
                     "or the sizes of rows differ",
                     args);
  }
  return Status::kOk;
}

Status plan_fits(const CachePlan& plan, const ModelConfig& config, ErrorDetail* detail) {
  if (plan.layers == config.layers && plan.kv_heads == config.kv_heads &&
      plan.head_dim == config.head_dim) {
    return Status::kOk;
  }
  const int64_t args[] = {plan.layers,   plan.kv_heads,   plan.head_dim,
                          config.layers, config.kv_heads, config.head_dim};
  return error_set(detail, Status::kInvalidPlan, plan.layers, config.layers,
                   "plan: made for # layers, # KV heads of #; the model has # layers, # KV heads "
                   "of #",
                   args);
}

void plan_identity_write(void* memory, int32_t layers, int32_t kv_heads, int32_t head_dim,
                         int32_t sink, int32_t recent) {
  CachePlan* plan = static_cast<CachePlan*>(memory);
  const uint32_t heads = static_cast<uint32_t>(layers) * static_cast<uint32_t>(kv_heads);
  const uint32_t channel_count = heads * static_cast<uint32_t>(head_dim);
  memset(memory, 0, plan_bytes(layers, kv_heads, channel_count));
  plan->magic = kPlanMagic;
  plan->version = kPlanVersion;
  plan->layers = layers;
  plan->kv_heads = kv_heads;
  plan->head_dim = head_dim;
  plan->sink = sink;
  plan->recent = recent;
  plan->context_tokens_max = kContextMax;
  plan->channel_count = channel_count;
  for (int32_t layer = 0; layer < layers; ++layer) {
    for (int32_t head = 0; head < kv_heads; ++head) {
      plan_head_mutable(plan, layer, head)->width = static_cast<uint32_t>(head_dim);
    }
  }
  plan_layout_write(plan);
  uint16_t* channels = plan_channels_mutable(plan);
  for (uint32_t i = 0; i < channel_count; ++i) {
    channels[i] = static_cast<uint16_t>(i % static_cast<uint32_t>(head_dim));
  }
}

}  // namespace leanedge
