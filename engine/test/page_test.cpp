// Plans, pages and snapshot headers against the golden files that TypeScript made, and against
// broken input under the sanitizers.
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "leanedge/half.h"
#include "leanedge/page.h"
#include "leanedge/plan.h"
#include "leanedge/snapshot.h"

using namespace leanedge;

namespace {

// Name of the golden case that is being checked.
const char* context = "";

// A file of engine/testdata in memory of exactly its size, so that a sanitizer sees every byte
// beyond it.
struct File {
  uint8_t* data;
  size_t bytes;
};

File read_testdata(const char* name) {
  char path[1024];
  const char* slash = strrchr(__FILE__, '/');
  const int folder = slash ? static_cast<int>(slash - __FILE__) : 0;
  snprintf(path, sizeof(path), "%.*s%s../testdata/%s", folder, __FILE__, folder ? "/" : "", name);
  FILE* file = fopen(path, "rb");
  if (!file) {
    printf("cannot open %s\n", path);
    exit(1);
  }
  fseek(file, 0, SEEK_END);
  const size_t bytes = static_cast<size_t>(ftell(file));
  fseek(file, 0, SEEK_SET);
  uint8_t* data = static_cast<uint8_t*>(malloc(bytes));
  if (fread(data, 1, bytes, file) != bytes) exit(1);
  fclose(file);
  return {data, bytes};
}

// The generator of src/engine/page/testing/golden.ts.
struct Stream {
  uint32_t state;
  Stream(uint32_t seed, int32_t layer, int32_t head, uint32_t part)
      : state(seed ^ (static_cast<uint32_t>(layer + 1) * 0x9e3779b1u) ^
              (static_cast<uint32_t>(head + 1) * 0x85ebca77u) ^ ((part + 1) * 0xc2b2ae3du)) {}
  uint32_t next() {
    state += 0x9e3779b9u;
    uint32_t z = state;
    z = (z ^ (z >> 16)) * 0x21f0aaadu;
    z = (z ^ (z >> 15)) * 0x735a2d97u;
    return z ^ (z >> 15);
  }
};

uint16_t golden_value(int32_t kind, uint32_t random) {
  const uint32_t sign = (random >> 16) & 0x8000u;
  const uint32_t mantissa = random & 0x3ffu;
  switch (kind) {
    case 3: return static_cast<uint16_t>(0x4900u | (random & 0xffu));
    case 4: return static_cast<uint16_t>(sign | ((1 + (random >> 20) % 29) << 10) | mantissa);
    case 5: return static_cast<uint16_t>(sign | (random & 3u));
    case 6: return (random & 1u) ? 0xfbff : 0x7bff;
    case 7: return 0xbc00;
    default: return static_cast<uint16_t>(sign | ((12 + ((random >> 20) & 3u)) << 10) | mantissa);
  }
}

struct Rows {
  uint16_t k[kPageSlots * kHeadDimMax];
  uint16_t v[kPageSlots * kHeadDimMax];
  uint32_t positions[kPageSlots];
  int32_t count;
};

void golden_rows(const CachePlan& plan, uint32_t seed, int32_t layer, int32_t head, Rows* rows) {
  Stream k(seed, layer, head, 0);
  Stream v(seed, layer, head, 1);
  for (int32_t slot = 0; slot < kPageSlots; ++slot) {
    for (int32_t channel = 0; channel < plan.head_dim; ++channel) {
      const int32_t index = slot * plan.head_dim + channel;
      rows->k[index] = golden_value((channel >> 1) % 8, k.next());
      rows->v[index] = golden_value((slot + (channel >> 5)) % 8, v.next());
    }
  }
  rows->count = kPageSlots;
  if (!plan.evicting) return;
  Stream next(seed, layer, head, 2);
  if (head == 0) rows->count = 1 + static_cast<int32_t>(next.next() % kPageSlots);
  uint32_t position = static_cast<uint32_t>(plan.sink);
  for (int32_t slot = 0; slot < rows->count; ++slot) {
    position += 1 + next.next() % 3;
    rows->positions[slot] = position;
  }
}

uint32_t read_u32(const uint8_t* at) {
  uint32_t value;
  memcpy(&value, at, 4);
  return value;
}

uint64_t read_u64(const uint8_t* at) {
  uint64_t value;
  memcpy(&value, at, 8);
  return value;
}

// What page-format.md 2.2 promises of a value of a group with this scale.
bool within_bound(float x, float y, float scale) {
  return fabs(static_cast<double>(x) - static_cast<double>(y)) <=
         static_cast<double>(scale) * (0.5 + 0x1p-15) + 0x1p-24 * fabs(static_cast<double>(y));
}

float f16_at(const uint8_t* block, uint32_t section, uint32_t index) {
  uint16_t bits;
  memcpy(&bits, block + section + index * 2, 2);
  return f16_to_f32(bits);
}

// Unpacked values and bounds of one head against the rows that went in.
void check_values(const CachePlan& plan, int32_t layer, int32_t head, const uint8_t* block,
                  const Rows& rows) {
  static float k[kPageSlots * kHeadDimMax];
  static float v[kPageSlots * kHeadDimMax];
  static float lo[kHeadDimMax];
  static float hi[kHeadDimMax];
  const PageHead& at = plan_head(plan, layer, head);
  CHECK(page_unpack_ref(plan, layer, head, block, k, v) == (at.width ? rows.count : 0));
  if (at.width == 0) return;
  const bool bounded = at.k_min != kNoSection;
  if (bounded) page_bounds_ref(plan, layer, head, block, lo, hi);
  const uint16_t* channels = plan_channels(plan) + at.channels;
  const int32_t dim = plan.head_dim;
  for (int32_t slot = 0; slot < kPageSlots; ++slot) {
    const bool used = slot < rows.count;
    for (uint32_t c = 0; c < at.width; ++c) {
      const float y = k[static_cast<uint32_t>(slot) * at.width + c];
      const float x = used ? f16_to_f32(rows.k[slot * dim + channels[c]]) : 0;
      const float scale = at.k_scale == kNoSection ? 0 : f16_at(block, at.k_scale, c);
      CHECK(used ? within_bound(x, y, scale) : y == 0);
      CHECK(!used || !bounded || (lo[c] <= x && x <= hi[c]));
    }
    for (int32_t channel = 0; channel < dim; ++channel) {
      const float y = v[slot * dim + channel];
      const float x = used ? f16_to_f32(rows.v[slot * dim + channel]) : 0;
      const uint32_t shared = static_cast<uint32_t>(channel / kGroupChannels * kPageSlots + slot);
      const float scale = at.v_scale == kNoSection ? 0 : f16_at(block, at.v_scale, shared);
      CHECK(used ? within_bound(x, y, scale) : y == 0);
    }
  }
}

void check_golden_case(const CachePlan* plan, uint32_t seed, const uint8_t* page,
                       size_t page_bytes) {
  ErrorDetail detail = {};
  CHECK(plan_check(plan, plan->bytes, &detail) == Status::kOk);
  if (detail.status != Status::kOk) printf("  %s\n", detail.message);

  // The layout from widths alone is the one that TypeScript laid out.
  CachePlan* again = static_cast<CachePlan*>(malloc(plan->bytes));
  memcpy(again, plan, plan->bytes);
  for (int32_t layer = 0; layer < plan->layers; ++layer) {
    for (int32_t head = 0; head < plan->kv_heads; ++head) {
      PageHead* entry = const_cast<PageHead*>(&plan_head(*again, layer, head));
      const uint32_t width = entry->width;
      memset(entry, 0xaa, sizeof(*entry));
      entry->width = width;
    }
  }
  CHECK(plan_layout_write(again) == page_bytes);
  CHECK(memcmp(again, plan, plan->bytes) == 0);
  free(again);

  static Rows rows;
  uint8_t* packed = static_cast<uint8_t*>(malloc(page_bytes ? page_bytes : 1));
  memset(packed, 0xaa, page_bytes);
  for (int32_t layer = 0; layer < plan->layers; ++layer) {
    uint8_t* block = packed + plan_layer(*plan, layer).offset;
    for (int32_t head = 0; head < plan->kv_heads; ++head) {
      golden_rows(*plan, seed, layer, head, &rows);
      CHECK(page_pack_ref(*plan, layer, head, rows.k, rows.v, static_cast<size_t>(plan->head_dim),
                          rows.count, plan->evicting ? rows.positions : nullptr, block,
                          &detail) == Status::kOk);
      check_values(*plan, layer, head, block, rows);
    }
    if (plan->evicting) {
      CHECK(snapshot_positions_check(*plan, layer, block, &detail) == Status::kOk);
    }
  }
  CHECK(memcmp(packed, page, page_bytes) == 0);
  free(packed);
}

// Every plan block and page of pages-v1.bin; `each` sees the block in memory of exactly its size.
void for_each_golden(void (*each)(const CachePlan* plan, uint32_t seed, const uint8_t* page,
                                  size_t page_bytes, const uint8_t* costs)) {
  const File file = read_testdata("pages-v1.bin");
  CHECK(read_u32(file.data) == 0x474b454c && read_u32(file.data + 4) == 1);
  const uint32_t cases = read_u32(file.data + 8);
  size_t at = 16;
  for (uint32_t i = 0; i < cases; ++i) {
    context = reinterpret_cast<const char*>(file.data + at);
    const uint32_t seed = read_u32(file.data + at + 48);
    const uint32_t block_bytes = read_u32(file.data + at + 52);
    const uint32_t page_bytes = read_u32(file.data + at + 56);
    const uint8_t* costs = file.data + at + 64;
    at += 64 + 48;
    CachePlan* plan = static_cast<CachePlan*>(malloc(block_bytes));
    memcpy(plan, file.data + at, block_bytes);
    at += block_bytes;
    CHECK(plan->bytes == block_bytes && plan->page_bytes == page_bytes);
    const int before = test::registry().failures;
    each(plan, seed, file.data + at, page_bytes, costs);
    if (test::registry().failures > before) printf("    in case %s\n", context);
    at += page_bytes;
    free(plan);
  }
  CHECK(at == file.bytes);
  context = "";
  free(file.data);
}

// The golden snapshot's plan: 2 layers of 2 heads of 8, widths 8, 0, 8, 8, K int8, V int4. In memory
// of exactly its size; free it.
CachePlan* small_plan(int32_t evicting) {
  CachePlan* plan = static_cast<CachePlan*>(calloc(1, plan_bytes(2, 2, 24)));
  plan->magic = kPlanMagic;
  plan->version = kPlanVersion;
  plan->layers = plan->kv_heads = 2;
  plan->head_dim = 8;
  plan->sink = 4;
  plan->recent = 8;
  plan->k_storage = PageStorage::kInt8;
  plan->v_storage = PageStorage::kInt4;
  plan->context_tokens_max = kContextMax;
  plan->evicting = evicting;
  plan->channel_count = 24;
  for (int32_t i = 0; i < 4; ++i) {
    const_cast<PageHead&>(plan_head(*plan, i / 2, i % 2)).width = i == 1 ? 0 : 8;
  }
  plan_layout_write(plan);
  for (uint16_t i = 0; i < 24; ++i) const_cast<uint16_t*>(plan_channels(*plan))[i] = i % 8;
  return plan;
}

// One field of small_plan changed, and what plan_check says of it.
struct BrokenPlan {
  size_t offset;  // bytes from the block's start
  uint32_t bytes; // 2 or 4
  uint32_t value;
  const char* message;
};

}  // namespace

TEST(plan_check_names_thing_value_and_bound) {
  const size_t heads = sizeof(CachePlan) + 2 * sizeof(PageLayer);
  const size_t channels = heads + 4 * sizeof(PageHead);
  const BrokenPlan cases[] = {
      {0, 4, 7, "plan: magic 7 and version 1, must be 1347110220 and 1"},
      {4, 4, 2, "plan: magic 1347110220 and version 2, must be 1347110220 and 1"},
      {8, 4, 368, "plan: bytes is 368, its tables take 368, 367 are there"},
      {12, 4, 0, "plan: layers is 0, must be 1 .. 256"},
      {16, 4, 257, "plan: kv_heads is 257, must be 1 .. 256"},
      {20, 4, 258, "plan: head_dim is 258, must be 2 .. 256"},
      {20, 4, 12, "plan: head_dim is 12, must be a multiple of 8 with V in 4 bits"},
      {24, 4, 0xffffffff, "plan: sink is -1, must be 0 .. 32768"},
      {28, 4, 0, "plan: recent is 0, must be 1 .. 32768"},
      {32, 4, 4, "plan: k_storage is 4, must be 0 .. 3"},
      {44, 4, 1, "plan: pages_floor is 1, must be 0 .. 0"},
      {52, 4, 0, "plan: context_tokens_max is 0, must be 1 .. 1048576"},
      {56, 4, 2, "plan: evicting is 2, must be 0 .. 1"},
      {60, 4, 33, "plan: channel_count is 33, the heads have 32 channels"},
      {64, 4, 1, "plan: channel_count is 24 (widths add up to 24), page_bytes is 1 (layout: 1632), or "
                 "the sizes of rows differ"},
      {sizeof(CachePlan) + 8, 4, 0,
       "plan: offset or size of layer 1's block differs (2 heads): size is 1088, must be 1088"},
      {heads, 4, 7, "plan: width of layer 0, KV head 0 is 7, must be a multiple of 16 or 8"},
      {heads + sizeof(PageHead), 4, 24,
       "plan: width of layer 0, KV head 1 is 24, must be a multiple of 16 or 8"},
      {heads + 16, 4, 16,
       "plan: section offsets of layer 0, KV head 0 (544 bytes) are not those of the page format "
       "(544 bytes)"},
      {channels + 14, 2, 8,
       "plan: kept channel 7 of layer 0, KV head 0 is 8, must be above the one before it and below "
       "8"},
      {channels + 16 + 4, 2, 1,
       "plan: kept channel 2 of layer 1, KV head 0 is 1, must be above the one before it and below "
       "8"},
  };
  for (const BrokenPlan& broken : cases) {
    CachePlan* plan = small_plan(0);
    CHECK(plan_check(plan, plan->bytes, nullptr) == Status::kOk);
    const bool short_memory = broken.offset == 8;
    memcpy(reinterpret_cast<uint8_t*>(plan) + broken.offset, &broken.value, broken.bytes);
    ErrorDetail detail = {};
    const size_t bytes = plan_bytes(2, 2, 24) - (short_memory ? 1 : 0);
    CHECK(plan_check(plan, bytes, &detail) == Status::kInvalidPlan);
    if (strcmp(detail.message, broken.message) != 0) {
      test::fail(__FILE__, __LINE__, detail.message, 0, 0);
      printf("    instead of %s\n", broken.message);
    }
    free(plan);
  }
}

TEST(snapshot_header_of_an_evicting_plan_may_have_less) {
  CachePlan* plan = small_plan(1);
  SnapshotHeader full;
  snapshot_header_write(*plan, 90, 85, 4, &full);
  CHECK(full.flags == kSnapshotEvicting && full.sink_rows == 4 && full.recent_rows == 17);
  const auto check = [&](SnapshotHeader header) {
    // Offsets that follow from the counts, as a writer would have them.
    const uint64_t rows = (static_cast<uint64_t>(header.sink_rows) + header.recent_rows) * 8 * 4 * 4;
    header.pages_offset = header.rows_offset + (rows + 15) / 16 * 16;
    header.checksum_offset = header.pages_offset + header.pages * plan->page_bytes;
    header.bytes = header.checksum_offset + kSnapshotChecksumBytes;
    return snapshot_header_check(header, *plan, header.checksum_offset, 200, nullptr);
  };
  SnapshotHeader less = full;
  less.sink_rows = 1;
  less.recent_rows = 2;
  less.pages = 1;
  less.next_position = 300;
  CHECK(check(full) == Status::kOk && check(less) == Status::kOk);
  // recent holds up to recent + 31 = 39 rows, whatever was evicted.
  less.recent_rows = 39;
  CHECK(check(less) == Status::kOk);
  less.recent_rows = 40;
  CHECK(check(less) == Status::kInvalidSnapshot);
  less.recent_rows = 2;
  less.pages = 3;
  CHECK(check(less) == Status::kInvalidSnapshot);
  less.pages = 1;
  less.sink_rows = 5;
  CHECK(check(less) == Status::kInvalidSnapshot);
  less.sink_rows = 1;
  less.next_position = kContextMax + 1;
  CHECK(check(less) == Status::kInvalidSnapshot);
  // A cache of few tokens cannot have more recent rows than tokens.
  SnapshotHeader young;
  snapshot_header_write(*plan, 90, 10, 4, &young);
  CHECK(young.recent_rows == 6);
  young.recent_rows = 11;
  CHECK(check(young) == Status::kInvalidSnapshot);
  free(plan);
}

TEST(snapshot_positions_must_increase) {
  CachePlan* plan = small_plan(1);
  static Rows rows;
  static uint8_t block[8192];
  CHECK(plan_layer(*plan, 1).bytes <= sizeof(block));
  const auto pack = [&] {
    for (int32_t head = 0; head < 2; ++head) {
      golden_rows(*plan, 5, 1, head, &rows);
      CHECK(page_pack_ref(*plan, 1, head, rows.k, rows.v, 8, rows.count, rows.positions, block,
                          nullptr) == Status::kOk);
    }
  };
  const PageHead& at = plan_head(*plan, 1, 1);
  ErrorDetail detail = {};
  pack();
  CHECK(snapshot_positions_check(*plan, 1, block, &detail) == Status::kOk);
  const uint32_t counts[] = {0, 33, 0xffffffff};
  for (const uint32_t count : counts) {
    memcpy(block + at.count, &count, 4);
    CHECK(snapshot_positions_check(*plan, 1, block, &detail) == Status::kInvalidSnapshot);
  }
  pack();
  memcpy(block + at.positions + 31 * 4, block + at.positions + 30 * 4, 4);
  CHECK(snapshot_positions_check(*plan, 1, block, &detail) == Status::kInvalidSnapshot);
  free(plan);
}

TEST(pages_equal_the_golden_file) {
  for_each_golden([](const CachePlan* plan, uint32_t seed, const uint8_t* page, size_t page_bytes,
                     const uint8_t* costs) {
    check_golden_case(plan, seed, page, page_bytes);
    for (int32_t i = 0; i < 3; ++i) {
      const int32_t tokens = static_cast<int32_t>(read_u64(costs + i * 16));
      CHECK(plan_cache_bytes(*plan, tokens) == read_u64(costs + i * 16 + 8));
    }
  });
}

TEST(identity_plan_is_the_golden_one) {
  for_each_golden([](const CachePlan* plan, uint32_t, const uint8_t*, size_t, const uint8_t*) {
    if (strcmp(context, "identity") != 0) return;
    void* memory = malloc(plan->bytes);
    plan_identity_write(memory, plan->layers, plan->kv_heads, plan->head_dim, plan->sink,
                        plan->recent);
    CHECK(memcmp(memory, plan, plan->bytes) == 0);
    ModelConfig config = {};
    config.layers = plan->layers;
    config.kv_heads = plan->kv_heads;
    config.head_dim = plan->head_dim;
    ErrorDetail detail = {};
    CHECK(plan_fits(*plan, config, &detail) == Status::kOk);
    ++config.kv_heads;
    CHECK(plan_fits(*plan, config, &detail) == Status::kInvalidPlan);
    CHECK(strcmp(detail.message, "plan: made for 2 layers, 2 KV heads of 16; the model has 2 "
                                 "layers, 3 KV heads of 16") == 0);
    free(memory);
  });
}

// Broken blocks: every truncation, and random bytes changed. plan_check must say no or the block
// must still be legal; the sanitizers watch what it reads.
TEST(plan_check_survives_broken_blocks) {
  for_each_golden([](const CachePlan* plan, uint32_t seed, const uint8_t*, size_t,
                     const uint8_t*) {
    const size_t bytes = plan->bytes;
    for (size_t cut = 0; cut < bytes; cut += cut < 400 ? 1 : 97) {
      CachePlan* copy = static_cast<CachePlan*>(malloc(cut ? cut : 1));
      memcpy(copy, plan, cut);
      CHECK(plan_check(copy, cut, nullptr) == Status::kInvalidPlan);
      free(copy);
    }
    uint8_t* copy = static_cast<uint8_t*>(malloc(bytes));
    Stream random(seed, 0, 0, 5);
    for (int32_t round = 0; round < 2000; ++round) {
      memcpy(copy, plan, bytes);
      const uint32_t changes = 1 + random.next() % 3;
      for (uint32_t i = 0; i < changes; ++i) {
        // Half of the changes hit the header, where sizes stand.
        const size_t range = random.next() % 2 ? sizeof(CachePlan) : bytes;
        copy[random.next() % range] = static_cast<uint8_t>(random.next());
      }
      ErrorDetail detail = {};
      const CachePlan* broken = reinterpret_cast<const CachePlan*>(copy);
      const Status status = plan_check(broken, bytes, &detail);
      CHECK(status == detail.status);
      CHECK(status == Status::kOk || detail.message[0] != '\0');
      CHECK(status != Status::kOk || broken->bytes == bytes);
    }
    free(copy);
  });
}

TEST(non_finite_values_are_refused) {
  for_each_golden([](const CachePlan* plan, uint32_t seed, const uint8_t*, size_t,
                     const uint8_t*) {
    static Rows rows;
    const PageLayer& layer = plan_layer(*plan, 0);
    uint8_t* block = static_cast<uint8_t*>(malloc(layer.bytes ? layer.bytes : 1));
    for (int32_t head = 0; head < plan->kv_heads; ++head) {
      const PageHead& at = plan_head(*plan, 0, head);
      if (at.width == 0) continue;
      const uint16_t channel = plan_channels(*plan)[at.channels + at.width / 2];
      const uint32_t* positions = plan->evicting ? rows.positions : nullptr;
      const size_t dim = static_cast<size_t>(plan->head_dim);
      const auto pack = [&] {
        return page_pack_ref(*plan, 0, head, rows.k, rows.v, dim, rows.count, positions, block,
                             nullptr);
      };
      const uint16_t bad_values[] = {0x7c00, 0xfc00, 0x7e01};
      for (const uint16_t bad : bad_values) {
        golden_rows(*plan, seed, 0, head, &rows);
        rows.k[channel] = bad;
        CHECK(pack() == Status::kNotFinite);
        golden_rows(*plan, seed, 0, head, &rows);
        rows.v[dim - 1] = bad;
        CHECK(pack() == Status::kNotFinite);
      }
      golden_rows(*plan, seed, 0, head, &rows);
      rows.count = 0;
      CHECK(pack() == Status::kInvalidArgument);
      rows.count = 33;
      CHECK(pack() == Status::kInvalidArgument);
    }
    free(block);
  });
}

TEST(half_is_exact_both_ways) {
  for (uint32_t bits = 0; bits < 0x7c00; ++bits) {
    const float x = f16_to_f32(static_cast<uint16_t>(bits));
    const float up = bits == 0x7bff ? 65536.0f : f16_to_f32(static_cast<uint16_t>(bits + 1));
    CHECK(f32_to_f16(x) == bits);
    CHECK(f32_to_f16(-x) == (bits | 0x8000u));
    // Halfway goes to the even neighbour, anything beside it to the nearer one.
    const float half = x + (up - x) / 2;
    CHECK(f32_to_f16(half) == bits + (bits & 1));
    CHECK(f32_to_f16(nextafterf(half, 0)) == bits);
    CHECK(f32_to_f16(nextafterf(half, INFINITY)) == bits + 1);
    const double value = bits < 0x400 ? bits * 0x1p-24
                                      : ldexp(1024 + (bits & 0x3ff),
                                              static_cast<int>(bits >> 10) - 25);
    CHECK(static_cast<double>(x) == value);
  }
  CHECK(f16_to_f32(0x7c00) == INFINITY && f16_to_f32(0xfc00) == -INFINITY);
  CHECK(isnan(f16_to_f32(0x7c01)) && isnan(f16_to_f32(f32_to_f16(NAN))));
  CHECK(f32_to_f16(INFINITY) == 0x7c00 && f32_to_f16(1e30f) == 0x7c00);
  CHECK(f16_to_f32(0x8000) == 0 && signbit(f16_to_f32(0x8000)));
}

// The definition in doubles, where all of it is exact.
TEST(page_scale_is_the_smallest_that_covers) {
  Stream random(1, 2, 3, 4);
  for (int32_t i = 0; i < 400000; ++i) {
    const float a = f16_to_f32(golden_value(static_cast<int32_t>(random.next() % 7), random.next()));
    const float b = f16_to_f32(golden_value(static_cast<int32_t>(random.next() % 7), random.next()));
    const float min = a < b ? a : b;
    const float max = a < b ? b : a;
    const int32_t level_counts[] = {255, 15, 3};
    for (const int32_t levels : level_counts) {
      const double range = static_cast<double>(max) - static_cast<double>(min);
      const uint16_t scale = page_scale_f16(min, max, levels);
      const uint16_t below = static_cast<uint16_t>(scale - 1);
      CHECK(static_cast<double>(f16_to_f32(scale)) * levels >= range);
      CHECK(scale == 0 || static_cast<double>(f16_to_f32(below)) * levels < range);
    }
  }
}

TEST(snapshot_header_equals_the_golden_file) {
  const File file = read_testdata("snapshot-v1.bin");
  const uint64_t bytes = file.bytes - kSnapshotChecksumBytes;
  SnapshotHeader header;
  memcpy(&header, file.data, sizeof(header));

  CachePlan* plan = small_plan(0);
  ErrorDetail detail = {};
  CHECK(snapshot_header_check(header, *plan, bytes, 90, &detail) == Status::kOk);
  CHECK(snapshot_header_check(header, *plan, bytes, 89, &detail) == Status::kInvalidSnapshot);
  CHECK(strcmp(detail.message, "snapshot: log_tokens is 90, at most 89") == 0);
  CHECK(snapshot_header_check(header, *plan, bytes - 1, 90, &detail) == Status::kInvalidSnapshot);
  CHECK(snapshot_rows_offset(header, 1, 1) ==
        header.rows_offset + 3ull * (4 + 17) * 8 * 4);

  SnapshotHeader written;
  snapshot_header_write(*plan, 90, 85, 4, &written);
  memcpy(written.model, header.model, 96);
  CHECK(memcmp(&written, &header, sizeof(header)) == 0);

  // Golden rows and pages stand where the header says.
  uint16_t first_row[8];
  memcpy(first_row, file.data + snapshot_rows_offset(header, 1, 0), sizeof(first_row));
  Stream row_values(8, 1, 0, 0);
  for (uint16_t value : first_row) CHECK(value == golden_value(0, row_values.next()));
  static Rows rows;
  static uint8_t block[4096];
  golden_rows(*plan, 32, 1, 1, &rows);
  const PageHead& at = plan_head(*plan, 1, 1);
  CHECK(page_pack_ref(*plan, 1, 1, rows.k, rows.v, 8, 32, nullptr, block, &detail) == Status::kOk);
  const uint8_t* page = file.data + header.pages_offset + header.page_bytes;
  CHECK(memcmp(block + at.offset, page + plan_layer(*plan, 1).offset + at.offset, at.bytes) == 0);

  // No single changed bit of the header passes, but in fingerprints, which are the host's to check,
  // and in counts of the log whose difference its padding hides: reading the log finds it.
  for (size_t bit = 0; bit < sizeof(header) * 8; ++bit) {
    SnapshotHeader broken = header;
    reinterpret_cast<uint8_t*>(&broken)[bit / 8] ^= static_cast<uint8_t>(1u << (bit % 8));
    const bool fingerprint = bit / 8 >= 32 && bit / 8 < 128;
    const uint64_t log = 8ull * broken.segments + 4ull * broken.log_tokens;
    const bool hidden = bit / 8 >= 128 && broken.log_tokens <= 200 &&
                        broken.segments <= broken.log_tokens &&
                        broken.cache_tokens == header.cache_tokens &&
                        sizeof(header) + (log + 15) / 16 * 16 == header.rows_offset &&
                        log != 8ull * header.segments + 4ull * header.log_tokens;
    const bool passes = snapshot_header_check(broken, *plan, bytes, 200, nullptr) == Status::kOk;
    CHECK(passes == (fingerprint || hidden));
  }
  free(plan);
  free(file.data);
}
