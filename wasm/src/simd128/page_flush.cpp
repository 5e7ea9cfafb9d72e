// Packs pages: prunes, transposes, quantises and summarises in one pass over the rows. K goes eight
// channels at a time, V eight slots at a time, so that minima, maxima and scales fill vectors.
// Heads whose size is no multiple of 8 go through the scalar packer, whose bytes are the contract.
#include <string.h>

#include "leanedge/half.h"
#include "leanedge/kernels.h"
#include "leanedge/status.h"
#include "page_quantise.h"

namespace leanedge::kernels {
namespace {

constexpr int32_t kTile = 8;

// The 32 rows of a page, in a ring of `stride` rows.
struct PageRows {
  const uint16_t* base;  // (stride, head_dim) of one KV head
  int32_t stride;
  int32_t row;
  size_t dim;

  const uint16_t* at(int32_t slot) const {
    const int32_t index = row + slot < stride ? row + slot : row + slot - stride;
    return base + static_cast<size_t>(index) * dim;
  }
};

// Transposes eight vectors of eight 16-bit lanes.
void transpose(v128_t (&r)[kTile]) {
  v128_t a[kTile];
  for (int32_t i = 0; i < 4; ++i) {
    a[i] = wasm_i16x8_shuffle(r[i], r[i + 4], 0, 8, 1, 9, 2, 10, 3, 11);
    a[i + 4] = wasm_i16x8_shuffle(r[i], r[i + 4], 4, 12, 5, 13, 6, 14, 7, 15);
  }
  v128_t b[kTile];
  for (int32_t half = 0; half < 2; ++half) {
    for (int32_t i = 0; i < 2; ++i) {
      const v128_t x = a[half * 4 + i];
      const v128_t y = a[half * 4 + i + 2];
      b[half * 4 + i] = wasm_i16x8_shuffle(x, y, 0, 8, 1, 9, 2, 10, 3, 11);
      b[half * 4 + i + 2] = wasm_i16x8_shuffle(x, y, 4, 12, 5, 13, 6, 14, 7, 15);
    }
  }
  for (int32_t i = 0; i < 4; ++i) {
    const v128_t x = b[i * 2];
    const v128_t y = b[i * 2 + 1];
    r[2 * i] = wasm_i16x8_shuffle(x, y, 0, 8, 1, 9, 2, 10, 3, 11);
    r[2 * i + 1] = wasm_i16x8_shuffle(x, y, 4, 12, 5, 13, 6, 14, 7, 15);
  }
}

// Least and greatest value, and scale, of eight groups.
struct alignas(16) Summary {
  uint16_t min[kTile];
  uint16_t max[kTile];
  uint16_t scale[kTile];  // quantised storages only
};

// `min` and `max` are in the order of f16_order.
void summarise(PageStorage storage, v128_t min, v128_t max, Summary* out) {
  const v128_t least = f16_plus_zero(f16_order(min));
  const v128_t greatest = f16_plus_zero(f16_order(max));
  wasm_v128_store(out->min, least);
  wasm_v128_store(out->max, greatest);
  if (storage == PageStorage::kF16) return;
  const float levels = static_cast<float>(storage_levels(storage));
  wasm_v128_store(out->scale, scales_f16(least, greatest, levels));
}

// ---- K --------------------------------------------------------------------------------------

// Channels c .. c + 7: transposed to (8, 32), and summarised.
void read_channels(PageStorage storage, const PageRows& k, int32_t c, v128_t (&out)[kTile][4],
                   Summary* summary) {
  v128_t min = wasm_i16x8_splat(0x7fff);
  v128_t max = wasm_i16x8_splat(-0x8000);
  for (int32_t group = 0; group < kPageSlots / kTile; ++group) {
    v128_t rows[kTile];
    for (int32_t i = 0; i < kTile; ++i) {
      rows[i] = wasm_v128_load(k.at(group * kTile + i) + c);
      const v128_t order = f16_order(rows[i]);
      min = wasm_i16x8_min(min, order);
      max = wasm_i16x8_max(max, order);
    }
    transpose(rows);
    for (int32_t i = 0; i < kTile; ++i) out[i][group] = rows[i];
  }
  summarise(storage, min, max, summary);
}

void store_f16(uint8_t* section, int32_t index, uint16_t value) {
  memcpy(section + static_cast<size_t>(index) * 2, &value, 2);
}

void flush_k(const CachePlan& plan, const PageHead& layout, const PageRows& k, uint8_t* page) {
  const uint16_t* channels = plan_channels(plan) + layout.channels;
  const PageStorage storage = plan.k_storage;
  const int32_t width = static_cast<int32_t>(layout.width);
  for (int32_t next = 0; next < width;) {
    // The tile of the next kept channel, and all kept channels in it.
    const int32_t first = channels[next] / kTile * kTile;
    v128_t tile[kTile][4];
    Summary summary;
    read_channels(storage, k, first, tile, &summary);
    for (; next < width && channels[next] < first + kTile; ++next) {
      const int32_t lane = channels[next] - first;
      uint8_t* run = page + layout.k_values + static_cast<size_t>(next) * plan.k_channel_bytes;
      if (storage == PageStorage::kF16) {
        for (int32_t i = 0; i < 4; ++i) wasm_v128_store(run + 16 * i, tile[lane][i]);
      } else {
        write_run(storage, tile[lane], kPageSlots, f16_to_f32(summary.min[lane]),
                  f16_to_f32(summary.scale[lane]), run);
        store_f16(page + layout.k_scale, next, summary.scale[lane]);
      }
      if (layout.k_min != kNoSection) store_f16(page + layout.k_min, next, summary.min[lane]);
      if (layout.k_max != kNoSection) store_f16(page + layout.k_max, next, summary.max[lane]);
    }
  }
}

// ---- V --------------------------------------------------------------------------------------

// The f16 of a run of `count` channels; what is missing to 32 is its first eight again.
void read_run(const uint16_t* from, int32_t count, v128_t (&out)[4]) {
  for (int32_t i = 0; i < 4; ++i) {
    out[i] = wasm_v128_load(i * kTile < count ? from + i * kTile : from);
  }
}

// Group `group` of slots `slot` .. slot + 7.
void flush_v_tile(const CachePlan& plan, const PageHead& layout, const PageRows& v, int32_t group,
                  int32_t slot, uint8_t* page) {
  const int32_t count = v_group_channels(plan.head_dim, group);
  v128_t min[kTile];
  v128_t max[kTile];
  for (int32_t i = 0; i < kTile; ++i) {
    v128_t run[4];
    read_run(v.at(slot + i) + group * kGroupChannels, count, run);
    for (v128_t& values : run) values = f16_order(values);
    min[i] = wasm_i16x8_min(wasm_i16x8_min(run[0], run[1]), wasm_i16x8_min(run[2], run[3]));
    max[i] = wasm_i16x8_max(wasm_i16x8_max(run[0], run[1]), wasm_i16x8_max(run[2], run[3]));
  }
  transpose(min);
  transpose(max);
  for (int32_t i = 1; i < kTile; ++i) {
    min[0] = wasm_i16x8_min(min[0], min[i]);
    max[0] = wasm_i16x8_max(max[0], max[i]);
  }
  Summary summary;
  summarise(plan.v_storage, min[0], max[0], &summary);
  const size_t shared = static_cast<size_t>(group * kPageSlots + slot) * 2;
  memcpy(page + layout.v_scale + shared, summary.scale, sizeof(summary.scale));
  memcpy(page + layout.v_min + shared, summary.min, sizeof(summary.min));
  const size_t run_offset =
      static_cast<size_t>(group * kGroupChannels * storage_bits(plan.v_storage) / 8);
  for (int32_t i = 0; i < kTile; ++i) {
    v128_t run[4];
    read_run(v.at(slot + i) + group * kGroupChannels, count, run);
    uint8_t* row =
        page + layout.v_values + static_cast<size_t>(slot + i) * plan.v_row_bytes + run_offset;
    write_run(plan.v_storage, run, count, f16_to_f32(summary.min[i]),
              f16_to_f32(summary.scale[i]), row);
  }
}

void flush_v(const CachePlan& plan, const PageHead& layout, const PageRows& v, uint8_t* page) {
  if (plan.v_storage == PageStorage::kF16) {
    for (int32_t slot = 0; slot < kPageSlots; ++slot) {
      memcpy(page + layout.v_values + static_cast<size_t>(slot) * v.dim * 2, v.at(slot), v.dim * 2);
    }
    return;
  }
  for (int32_t slot = 0; slot < kPageSlots; slot += kTile) {
    for (int32_t group = 0; group < plan.v_groups; ++group) {
      flush_v_tile(plan, layout, v, group, slot, page);
    }
  }
}

// Any head, by the scalar packer.
void flush_scalar(const CachePlan& plan, int32_t layer, int32_t head, const PageRows& k,
                  const PageRows& v, uint8_t* page) {
  uint16_t k_copy[kPageSlots * kHeadDimMax];
  uint16_t v_copy[kPageSlots * kHeadDimMax];
  for (int32_t slot = 0; slot < kPageSlots; ++slot) {
    memcpy(k_copy + static_cast<size_t>(slot) * k.dim, k.at(slot), k.dim * 2);
    memcpy(v_copy + static_cast<size_t>(slot) * k.dim, v.at(slot), k.dim * 2);
  }
  // Rows were checked to be finite when they entered the cache.
  const Status status =
      page_pack_ref(plan, layer, head, k_copy, v_copy, k.dim, kPageSlots, nullptr, page, nullptr);
  ENGINE_ASSERT(status == Status::kOk);
}

}  // namespace

void page_flush(Context*, const CachePlan& plan, int32_t layer, int32_t kv_heads, int32_t head_dim,
                const uint16_t* k, const uint16_t* v, int32_t stride, int32_t row, uint8_t* page) {
  ENGINE_ASSERT(kv_heads == plan.kv_heads && head_dim == plan.head_dim);
  ENGINE_ASSERT(stride >= kPageSlots && row >= 0 && row < stride && !plan.evicting);
  const size_t dim = static_cast<size_t>(head_dim);
  for (int32_t head = 0; head < kv_heads; ++head) {
    const PageHead& layout = plan_head(plan, layer, head);
    if (layout.width == 0) continue;
    const size_t base = static_cast<size_t>(head) * static_cast<size_t>(stride) * dim;
    const PageRows k_rows = {k + base, stride, row, dim};
    const PageRows v_rows = {v + base, stride, row, dim};
    if (head_dim % kTile != 0) {
      flush_scalar(plan, layer, head, k_rows, v_rows, page);
      continue;
    }
    // No padding to clear: with heads of a multiple of 8, sections end where the next begin.
    flush_k(plan, layout, k_rows, page);
    flush_v(plan, layout, v_rows, page);
  }
}

}  // namespace leanedge::kernels
