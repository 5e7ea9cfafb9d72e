// Packs pages. Pages that keep f16 are a transposition of K and a copy of V; quantised ones go
// through the scalar packer, whose bytes are the contract.
#include <string.h>
#include <wasm_simd128.h>

#include "leanedge/kernels.h"
#include "leanedge/status.h"

namespace leanedge::kernels {
namespace {

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

// Slots 8 * group .. 8 * group + 7 of channels c .. c + 7, transposed. out: (8 channels, 32).
void transpose_8x8(const PageRows& rows, int32_t group, int32_t c, uint16_t* out) {
  v128_t r[8];
  for (int32_t i = 0; i < 8; ++i) r[i] = wasm_v128_load(rows.at(group * 8 + i) + c);
  v128_t a[8];
  for (int32_t i = 0; i < 4; ++i) {
    a[i] = wasm_i16x8_shuffle(r[i], r[i + 4], 0, 8, 1, 9, 2, 10, 3, 11);
    a[i + 4] = wasm_i16x8_shuffle(r[i], r[i + 4], 4, 12, 5, 13, 6, 14, 7, 15);
  }
  v128_t b[8];
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
    uint16_t* to = out + group * 8;
    wasm_v128_store(to + (2 * i) * kPageSlots, wasm_i16x8_shuffle(x, y, 0, 8, 1, 9, 2, 10, 3, 11));
    wasm_v128_store(to + (2 * i + 1) * kPageSlots,
                    wasm_i16x8_shuffle(x, y, 4, 12, 5, 13, 6, 14, 7, 15));
  }
}

// Whether a head's block is K by channels and V by slots in f16, all channels kept, nothing more.
bool is_plain(const CachePlan& plan, const PageHead& layout, int32_t head_dim) {
  return plan.k_storage == PageStorage::kF16 && plan.v_storage == PageStorage::kF16 &&
         !plan_selects(plan) && !plan.evicting && layout.width == static_cast<uint32_t>(head_dim) &&
         head_dim % 8 == 0;
}

void flush_plain(const PageHead& layout, const PageRows& k, const PageRows& v, uint8_t* page) {
  uint16_t* k_out = reinterpret_cast<uint16_t*>(page + layout.k_values);
  uint8_t* v_out = page + layout.v_values;
  const int32_t dim = static_cast<int32_t>(k.dim);
  for (int32_t c = 0; c < dim; c += 8) {
    for (int32_t group = 0; group < kPageSlots / 8; ++group) {
      transpose_8x8(k, group, c, k_out + c * kPageSlots);
    }
  }
  for (int32_t slot = 0; slot < kPageSlots; ++slot) {
    memcpy(v_out + static_cast<size_t>(slot) * v.dim * 2, v.at(slot), v.dim * 2);
  }
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
    if (is_plain(plan, layout, head_dim)) {
      flush_plain(layout, k_rows, v_rows, page);
      continue;
    }
    uint16_t k_copy[kPageSlots * kHeadDimMax];
    uint16_t v_copy[kPageSlots * kHeadDimMax];
    for (int32_t slot = 0; slot < kPageSlots; ++slot) {
      memcpy(k_copy + static_cast<size_t>(slot) * dim, k_rows.at(slot), dim * 2);
      memcpy(v_copy + static_cast<size_t>(slot) * dim, v_rows.at(slot), dim * 2);
    }
    // Rows were checked to be finite when they entered the cache.
    const Status status =
        page_pack_ref(plan, layer, head, k_copy, v_copy, dim, kPageSlots, nullptr, page, nullptr);
    ENGINE_ASSERT(status == Status::kOk);
  }
}

}  // namespace leanedge::kernels
