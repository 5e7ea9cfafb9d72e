// The host side of prefill attention and page selection: every packed row stands in one tile and
// the heaviest come first, packed rows are divided by the group exactly, few tiles are shared among
// blocks, and what is not served is refused before anything is launched. The runtime is replaced
// below.
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <initializer_list>

#include "../src/prefill/prefill_launch.cpp"
#include "../src/selection/selection_launch.cpp"

using namespace leanedge;
using namespace leanedge::cuda;

namespace {

constexpr int kTilesMax = 1 << 16;
constexpr int kLaunchesMax = 4;

int failures = 0;

void check(bool ok, const char* what, long a, long b) {
  if (ok || ++failures > 10) return;
  printf("FAIL attention launch: %s (%ld, %ld)\n", what, a, b);
}

// What was launched since it was last cleared.
struct Launched {
  int count;
  dim3 grid[kLaunchesMax];
  PrefillParams prefill;  // of the first launch
} launched;

PrefillTile tiles[kTilesMax];
uint8_t seen[kTilesMax];

void check_tiles(const PrefillRun* runs, int run_count, int group) {
  const int count = prefill_tile_count(runs, run_count, group);
  check(count > 0 && count <= kTilesMax, "count of tiles", count, kTilesMax);
  prefill_tiles(runs, run_count, group, tiles);
  int first[8] = {};
  for (int i = 1; i < run_count; ++i) {
    first[i] = first[i - 1] + prefill_tile_count(runs + i - 1, 1, group);
  }
  memset(seen, 0, static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) {
    const PrefillTile& tile = tiles[i];
    check(tile.run >= 0 && tile.run < run_count, "run of a tile", tile.run, run_count);
    check(tile.row % kPrefillTileRows == 0 && tile.row < runs[tile.run].rows * group,
          "row of a tile", tile.row, runs[tile.run].rows * group);
    check(i == 0 || tiles[i - 1].units >= tile.units, "a heavier tile comes later", i, tile.units);
    uint8_t& mark = seen[first[tile.run] + tile.row / kPrefillTileRows];
    check(!mark, "a tile stands twice", tile.run, tile.row);
    mark = 1;
  }
}

DecodeLayer layer_of(int kv_heads, int head_dim) {
  DecodeLayer layer = {};
  layer.kv_heads = kv_heads;
  layer.head_dim = head_dim;
  return layer;
}

PrefillAttention prefill_call(int heads, int tile_count) {
  static uint8_t memory[64] __attribute__((aligned(64)));
  PrefillAttention call = {};
  call.q = call.out = memory;
  call.q_pitch = call.out_pitch = static_cast<size_t>(heads) * 128;
  call.q_type = RowType::kF16;
  call.out_type = RowType::kBf16;
  call.tile_count = tile_count;
  call.heads = heads;
  call.scratch = memory;
  return call;
}

void check_division() {
  for (int group = 1; group <= kDecodeGroupMax; ++group) {
    launched = {};
    prefill_attention_launch(layer_of(2, 128), prefill_call(2 * group, 1), nullptr);
    const uint64_t magic = launched.prefill.group_magic;
    check(launched.prefill.group == group, "group of a launch", launched.prefill.group, group);
    for (uint32_t packed = 0; packed < static_cast<uint32_t>(kPrefillRowsMax) * 8; packed += 997) {
      for (uint32_t at : {packed, packed / 8 * 8 + 7, packed / 7 * 7}) {
        const uint32_t row = group == 1 ? at : static_cast<uint32_t>(at * magic >> 32);
        check(row == at / static_cast<uint32_t>(group), "packed row by group", at, group);
      }
    }
  }
}

void check_parts() {
  for (int kv_heads : {1, 2, 8}) {
    for (int count : {1, 3, 16, 17, 33, 131, 132, 500}) {
      for (int slots : {1, 1023, 1024, 40000, 1 << 20}) {
        PrefillAttention call = prefill_call(kv_heads, count);
        call.slots_max = slots;
        launched = {};
        check(prefill_attention_launch(layer_of(kv_heads, 128), call, nullptr) == cudaSuccess,
              "a legal launch is refused", count, slots);
        const int blocks = kv_heads * count;
        const int parts = launched.prefill.parts;
        check(static_cast<int>(launched.grid[0].x) == blocks * parts, "blocks", blocks, parts);
        check(parts == 1 || blocks * parts <= kPrefillSharedBlocks, "blocks that share", blocks,
              parts);
        check(parts == 1 || slots / parts >= kPrefillPartSlots, "slots of a part", slots, parts);
        check(launched.count == (parts > 1 ? 2 : 1), "launches", launched.count, parts);
        check(blocks >= kPrefillSharedBlocks / 2 || slots < 1024 || parts > 1,
              "few tiles of many slots are not shared", blocks, slots);
        call.scratch = nullptr;
        launched = {};
        prefill_attention_launch(layer_of(kv_heads, 128), call, nullptr);
        check(launched.prefill.parts == 1, "tiles are shared without scratch", count, slots);
      }
    }
  }
}

template <typename Change>
void refuses(const char* what, Change change) {
  DecodeLayer layer = layer_of(2, 128);
  PrefillAttention call = prefill_call(8, 4);
  change(layer, call);
  launched = {};
  const cudaError_t error = prefill_attention_launch(layer, call, nullptr);
  check(error == cudaErrorInvalidValue && launched.count == 0, what, error, launched.count);
}

void check_refusals() {
  refuses("group above 8", [](DecodeLayer&, PrefillAttention& call) { call.heads = 18; });
  refuses("heads no multiple", [](DecodeLayer&, PrefillAttention& call) { call.heads = 7; });
  refuses("head size", [](DecodeLayer& layer, PrefillAttention&) { layer.head_dim = 96; });
  refuses("row pitch", [](DecodeLayer&, PrefillAttention& call) { call.q_pitch = 1025; });
  refuses("alignment", [](DecodeLayer&, PrefillAttention& call) {
    call.out = static_cast<uint8_t*>(call.out) + 8;
  });
}

void check_selection() {
  DecodeLayer layer = layer_of(2, 128);
  layer.pages_per_step = 64;
  layer.pages_floor = 100;
  PageSelection call = {};
  uint32_t scratch = 0;
  call.scratch = reinterpret_cast<uint8_t*>(&scratch);
  call.chosen_pitch = 100;
  call.pages_max = 4092;
  call.row_count = 8;
  call.heads = 8;
  launched = {};
  check(page_selection_launch(layer, call, nullptr) == cudaSuccess && launched.count == 1,
        "a legal selection is refused", launched.count, 1);
  check(launched.grid[0].y == 16 && launched.grid[0].x <= 16, "blocks of a selection",
        static_cast<long>(launched.grid[0].x), static_cast<long>(launched.grid[0].y));
  PageSelection other = call;
  other.chosen_pitch = 99;
  check(page_selection_launch(layer, other, nullptr) != cudaSuccess, "short lists", 99, 100);
  other = call;
  other.row_count = kSequencesMax + 1;
  check(page_selection_launch(layer, other, nullptr) != cudaSuccess, "rows", other.row_count, 0);
  layer.pages_per_step = 0;
  check(page_selection_launch(layer, call, nullptr) != cudaSuccess, "no selection", 0, 0);
}

}  // namespace

namespace leanedge::cuda {

PrefillKernel prefill_kernel_64(bool) { return nullptr; }
PrefillKernel prefill_kernel_128(bool) { return nullptr; }
PrefillKernel prefill_merge_kernel_64() { return nullptr; }
PrefillKernel prefill_merge_kernel_128() { return nullptr; }
SelectionKernel selection_kernel(int32_t) { return nullptr; }

}  // namespace leanedge::cuda

extern "C" cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) {
  return cudaSuccess;
}

extern "C" cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void*,
                                           void** arguments) {
  if (launched.count < kLaunchesMax) launched.grid[launched.count] = config->gridDim;
  // Selection's parameters are smaller: only prefill attention takes shared memory of its own.
  if (launched.count++ == 0 && config->dynamicSmemBytes > 0) {
    memcpy(&launched.prefill, arguments[0], sizeof launched.prefill);
  }
  return cudaSuccess;
}

int main() {
  for (int group : {1, 2, 4, 7, 8}) {
    PrefillRun runs[4] = {};
    const int rows[4] = {1, 4096, 130, 777};
    for (int i = 0; i < 4; ++i) {
      runs[i].rows = rows[i];
      runs[i].first = 100 * i;
      runs[i].page_count = i == 2 ? 1000 : 0;
      runs[i].span_count = i == 3;
      runs[i].before[0].rows = 128;
    }
    check_tiles(runs, 4, group);
    for (int i = 0; i < 4; ++i) check_tiles(runs + i, 1, group);
  }
  check_division();
  check_parts();
  check_refusals();
  check_selection();
  printf("%s   gpu-worker/test/attention_launch_test.cpp\n", failures ? "FAIL" : "ok");
  return failures > 0;
}
