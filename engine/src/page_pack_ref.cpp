// Scalar packing and unpacking of archive pages, straight from docs/page-format.md. It must be
// compiled without fast-math: bytes depend on exact rounding.
#include "leanedge/page.h"

#include <math.h>
#include <string.h>

#include "error.h"
#include "leanedge/half.h"

namespace leanedge {
namespace {

constexpr uint16_t kF16Zero = 0;

void store_u16(uint8_t* at, uint16_t value) {
  at[0] = static_cast<uint8_t>(value);
  at[1] = static_cast<uint8_t>(value >> 8);
}

uint16_t load_u16(const uint8_t* at) { return static_cast<uint16_t>(at[0] | (at[1] << 8)); }

void store_u32(uint8_t* at, uint32_t value) {
  store_u16(at, static_cast<uint16_t>(value));
  store_u16(at + 2, static_cast<uint16_t>(value >> 16));
}

uint32_t load_u32(const uint8_t* at) {
  return load_u16(at) | (static_cast<uint32_t>(load_u16(at + 2)) << 16);
}

// What a quantisation group shares.
struct Group {
  float min;
  float max;
  uint16_t scale;  // f16
  uint16_t min_f16;
};

// Finds min, max and scale of `count` f16 values; their order of -0 and +0 does not matter.
// False if one is NaN or infinite.
bool group_of(const uint16_t* values, int32_t count, int32_t levels, Group* group) {
  float min = 0;
  float max = 0;
  for (int32_t i = 0; i < count; ++i) {
    if (!f16_finite(values[i])) return false;
    const float x = f16_to_f32(values[i]);
    if (i == 0 || x < min) min = x;
    if (i == 0 || x > max) max = x;
  }
  group->min = min;
  group->max = max;
  // f32_to_f16 is exact here; a zero becomes +0.
  group->min_f16 = min == 0 ? kF16Zero : f32_to_f16(min);
  group->scale = levels ? page_scale_f16(min, max, levels) : kF16Zero;
  return true;
}

// Code of one value. The quotient lies in [0, levels] (page-format.md 2.2).
uint8_t code_of(uint16_t value, const Group& group) {
  const float scale = f16_to_f32(group.scale);
  if (scale == 0) return 0;
  return static_cast<uint8_t>(rintf((f16_to_f32(value) - group.min) / scale));
}

// Writes a run of `n` codes of `bits` bits, planar: byte j holds codes j, j + m, j + 2 m ... with
// m = n * bits / 8 bytes.
void store_run(uint8_t* out, const uint8_t* codes, int32_t n, int32_t bits) {
  const int32_t m = n * bits / 8;
  for (int32_t j = 0; j < m; ++j) {
    uint32_t byte = 0;
    for (int32_t i = 0; i < 8 / bits; ++i) {
      byte |= static_cast<uint32_t>(codes[i * m + j]) << (bits * i);
    }
    out[j] = static_cast<uint8_t>(byte);
  }
}

// Code `index` of a run of `n`.
uint32_t load_code(const uint8_t* run, int32_t index, int32_t n, int32_t bits) {
  const int32_t m = n * bits / 8;
  return (static_cast<uint32_t>(run[index % m]) >> (bits * (index / m))) & ((1u << bits) - 1);
}

// One dequantised value: the product is exact in f32.
float value_of(uint32_t code, float scale, float min) {
  return min + scale * static_cast<float>(code);
}

Status not_finite(ErrorDetail* detail, const char* format, int32_t layer, int32_t head,
                  int32_t index) {
  const int64_t args[] = {index, layer, head};
  return error_set(detail, Status::kNotFinite, index, 0, format, args);
}

Status pack_k(const CachePlan& plan, const PageHead& at, int32_t layer, int32_t head,
              const uint16_t* k, size_t row_stride, int32_t count, uint8_t* block,
              ErrorDetail* detail) {
  const uint16_t* channels = plan_channels(plan) + at.channels;
  const int32_t bits = storage_bits(plan.k_storage);
  const bool quantised = plan.k_storage != PageStorage::kF16;
  for (uint32_t c = 0; c < at.width; ++c) {
    uint16_t values[kPageSlots] = {};
    for (int32_t slot = 0; slot < count; ++slot) {
      values[slot] = k[static_cast<size_t>(slot) * row_stride + channels[c]];
    }
    Group group;
    if (!group_of(values, count, quantised ? storage_levels(plan.k_storage) : 0, &group)) {
      return not_finite(detail, "page: K of channel #, layer #, KV head # is not finite", layer,
                        head, channels[c]);
    }
    uint8_t* run = block + at.k_values + static_cast<size_t>(c) * plan.k_channel_bytes;
    if (quantised) {
      uint8_t codes[kPageSlots] = {};
      for (int32_t slot = 0; slot < count; ++slot) codes[slot] = code_of(values[slot], group);
      store_run(run, codes, kPageSlots, bits);
      store_u16(block + at.k_scale + c * 2, group.scale);
    } else {
      for (int32_t slot = 0; slot < kPageSlots; ++slot) store_u16(run + slot * 2, values[slot]);
    }
    if (at.k_min != kNoSection) store_u16(block + at.k_min + c * 2, group.min_f16);
    if (at.k_max != kNoSection) {
      store_u16(block + at.k_max + c * 2, group.max == 0 ? kF16Zero : f32_to_f16(group.max));
    }
  }
  return Status::kOk;
}

Status pack_v(const CachePlan& plan, const PageHead& at, int32_t layer, int32_t head,
              const uint16_t* v, size_t row_stride, int32_t count, uint8_t* block,
              ErrorDetail* detail) {
  const int32_t bits = storage_bits(plan.v_storage);
  const bool quantised = plan.v_storage != PageStorage::kF16;
  for (int32_t slot = 0; slot < count; ++slot) {
    const uint16_t* row = v + static_cast<size_t>(slot) * row_stride;
    uint8_t* out = block + at.v_values + static_cast<size_t>(slot) * plan.v_row_bytes;
    for (int32_t g = 0; g < plan.v_groups; ++g) {
      const int32_t n = v_group_channels(plan.head_dim, g);
      const uint16_t* values = row + g * kGroupChannels;
      Group group;
      if (!group_of(values, n, quantised ? storage_levels(plan.v_storage) : 0, &group)) {
        return not_finite(detail, "page: V of slot #, layer #, KV head # is not finite", layer,
                          head, slot);
      }
      uint8_t* run = out + g * kGroupChannels * bits / 8;
      if (quantised) {
        uint8_t codes[kGroupChannels];
        for (int32_t i = 0; i < n; ++i) codes[i] = code_of(values[i], group);
        store_run(run, codes, n, bits);
        store_u16(block + at.v_scale + (g * kPageSlots + slot) * 2, group.scale);
        store_u16(block + at.v_min + (g * kPageSlots + slot) * 2, group.min_f16);
      } else {
        for (int32_t i = 0; i < n; ++i) store_u16(run + i * 2, values[i]);
      }
    }
  }
  return Status::kOk;
}

}  // namespace

uint16_t page_scale_f16(float min, float max, int32_t levels) {
  const float d = max - min;
  if (d == 0) return kF16Zero;
  // e = (max - min) - d exactly (Knuth's two-sum).
  const float min_part = max - d;
  const float max_part = d + min_part;
  const float e = (max - max_part) + (min_part - min);
  const float quotient = d / static_cast<float>(levels);
  uint16_t scale = f32_to_f16(quotient);
  if (f16_to_f32(scale) < quotient) ++scale;
  const float reach = f16_to_f32(scale) * static_cast<float>(levels);  // exact
  if (reach < d || (reach == d && e > 0)) ++scale;
  return scale;
}

Status page_pack_ref(const CachePlan& plan, int32_t layer, int32_t head, const uint16_t* k,
                     const uint16_t* v, size_t row_stride, int32_t count, const uint32_t* positions,
                     uint8_t* block, ErrorDetail* detail) {
  const PageHead& at = plan_head(plan, layer, head);
  if (at.width == 0) return Status::kOk;
  if (count < 1 || count > kPageSlots || (!plan.evicting && count != kPageSlots)) {
    const int64_t args[] = {count, plan.evicting ? 1 : kPageSlots, kPageSlots};
    return error_set(detail, Status::kInvalidArgument, count, kPageSlots,
                     "page: count is #, must be # .. #", args);
  }
  if ((positions != nullptr) != (plan.evicting != 0)) {
    const int64_t args[] = {plan.evicting};
    return error_set(detail, Status::kInvalidArgument, positions != nullptr, plan.evicting,
                     "page: positions are given if and only if the plan is evicting (#)", args);
  }
  memset(block + at.offset, 0, at.bytes);
  Status status = pack_k(plan, at, layer, head, k, row_stride, count, block, detail);
  if (status != Status::kOk) return status;
  status = pack_v(plan, at, layer, head, v, row_stride, count, block, detail);
  if (status != Status::kOk || !plan.evicting) return status;
  store_u32(block + at.count, static_cast<uint32_t>(count));
  for (int32_t slot = 0; slot < count; ++slot) {
    if (slot && positions[slot] <= positions[slot - 1]) {
      const int64_t args[] = {slot, positions[slot], positions[slot - 1]};
      return error_set(detail, Status::kInvalidArgument, positions[slot], positions[slot - 1],
                       "page: position of slot # is #, must be above #", args);
    }
    store_u32(block + at.positions + slot * 4, positions[slot]);
  }
  return Status::kOk;
}

int32_t page_unpack_ref(const CachePlan& plan, int32_t layer, int32_t head, const uint8_t* block,
                        float* k, float* v) {
  const PageHead& at = plan_head(plan, layer, head);
  if (at.width == 0) return 0;
  const int32_t count =
      at.count == kNoSection ? kPageSlots : static_cast<int32_t>(load_u32(block + at.count));
  ENGINE_ASSERT(count >= 0 && count <= kPageSlots);
  const int32_t k_bits = storage_bits(plan.k_storage);
  const int32_t v_bits = storage_bits(plan.v_storage);
  for (int32_t slot = 0; slot < kPageSlots; ++slot) {
    for (uint32_t c = 0; c < at.width; ++c) {
      const uint8_t* run = block + at.k_values + static_cast<size_t>(c) * plan.k_channel_bytes;
      float x = 0;
      if (slot < count && plan.k_storage == PageStorage::kF16) {
        x = f16_to_f32(load_u16(run + slot * 2));
      } else if (slot < count) {
        x = value_of(load_code(run, slot, kPageSlots, k_bits),
                     f16_to_f32(load_u16(block + at.k_scale + c * 2)),
                     f16_to_f32(load_u16(block + at.k_min + c * 2)));
      }
      k[static_cast<size_t>(slot) * at.width + c] = x;
    }
    for (int32_t channel = 0; channel < plan.head_dim; ++channel) {
      const int32_t g = channel / kGroupChannels;
      const uint8_t* run = block + at.v_values + static_cast<size_t>(slot) * plan.v_row_bytes +
                           g * kGroupChannels * v_bits / 8;
      const int32_t i = channel % kGroupChannels;
      float x = 0;
      if (slot < count && plan.v_storage == PageStorage::kF16) {
        x = f16_to_f32(load_u16(run + i * 2));
      } else if (slot < count) {
        const uint32_t shared = static_cast<uint32_t>(g * kPageSlots + slot) * 2;
        x = value_of(load_code(run, i, v_group_channels(plan.head_dim, g), v_bits),
                     f16_to_f32(load_u16(block + at.v_scale + shared)),
                     f16_to_f32(load_u16(block + at.v_min + shared)));
      }
      v[slot * plan.head_dim + channel] = x;
    }
  }
  return count;
}

void page_bounds_ref(const CachePlan& plan, int32_t layer, int32_t head, const uint8_t* block,
                     float* lo, float* hi) {
  const PageHead& at = plan_head(plan, layer, head);
  if (at.width == 0) return;
  ENGINE_ASSERT(at.k_min != kNoSection);
  for (uint32_t c = 0; c < at.width; ++c) {
    lo[c] = f16_to_f32(load_u16(block + at.k_min + c * 2));
    hi[c] = at.k_max != kNoSection
                ? f16_to_f32(load_u16(block + at.k_max + c * 2))
                : value_of(static_cast<uint32_t>(storage_levels(plan.k_storage)),
                           f16_to_f32(load_u16(block + at.k_scale + c * 2)), lo[c]);
  }
}

}  // namespace leanedge
