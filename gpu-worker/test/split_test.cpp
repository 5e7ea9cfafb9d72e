// The division of work between thread blocks (split.h): every unit is read exactly once, shares are
// even, and no two parts of a pair lie in the same place.
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <initializer_list>

#include "../src/kernels/cluster_split.h"
#include "../src/kernels/split.h"

using namespace leanedge::cuda;

namespace {

constexpr int kPairsMax = 4096;
constexpr int kBlocksMax = 528;
constexpr int kUnitsMax = 1 << 20;

int failures = 0;

void check(bool ok, const char* what, long a, long b) {
  if (ok || ++failures > 10) return;
  printf("FAIL split: %s (%ld, %ld)\n", what, a, b);
}

struct Random {
  uint64_t state;
  int below(int bound) {
    uint64_t z = state += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return static_cast<int>((z ^ (z >> 31)) % static_cast<uint64_t>(bound));
  }
};

SplitPair pairs[kPairsMax];
uint8_t seen[kUnitsMax];

void check_case(int pair_count, int pages_max, int blocks, uint64_t seed) {
  Random random = {seed};
  int64_t total = 0;
  int64_t unit_max = 0;
  for (int i = 0; i < pair_count; ++i) {
    SplitPair& pair = pairs[i];
    pair.begin = total;
    pair.tiles = 1 + random.below(11);
    pair.page_cost = random.below(4) ? 64 + 16 * random.below(64) : 0;
    pair.pages = pair.page_cost && pages_max ? random.below(pages_max) : 0;
    pair.tile_cost = 256 + 64 * random.below(5);
    pair.start_cost = 512 * random.below(4);
    total += split_cost(pair);
    if (pair.tile_cost > unit_max) unit_max = pair.tile_cost;
    if (pair.page_cost > unit_max) unit_max = pair.page_cost;
  }
  const SplitShare split = split_share(total, blocks, 1 << random.below(13));
  int64_t units_seen = 0;
  int64_t units_all = 0;
  for (int i = 0; i < pair_count; ++i) {
    const SplitPair& pair = pairs[i];
    const int units = pair.tiles + pair.pages;
    units_all += units;
    const int first = split_owner(split, pair.begin);
    const int last = split_owner(split, pair.begin + split_cost(pair) - 1);
    check(last < blocks, "owner beyond the grid", last, blocks);
    memset(seen, 0, static_cast<size_t>(units));
    int end = 0;
    for (int block = first; block <= last; ++block) {
      const int64_t begin = block * split.share;
      const int from = split_units(pair, begin);
      const int to = split_units(pair, begin + split.share);
      check(from == end, "units between two owners", from, end);
      end = to;
      int64_t cost = 0;
      for (int u = from; u < to; ++u) {
        ++seen[u];
        ++units_seen;
        cost += u < pair.tiles ? pair.tile_cost : pair.page_cost;
      }
      check(cost <= split.share + unit_max, "a share is too large", static_cast<long>(cost),
            static_cast<long>(split.share));
      check(split_part(block, first) / 2 == block, "a part of another block", block, first);
      // The block that begins a pair may have gone on with another one before.
      check((split_part(block, first) & 1) == (block == first), "parts collide", block, first);
      const int size = 2 + random.below(15);
      const SplitGroup group = split_group(block, first, last - first + 1, size);
      check(group.first <= block && block < group.first + group.count, "a group of others", block,
            group.first);
      check((group.first - first) % size == 0 && group.count <= size, "a group's size", group.first,
            group.count);
      check(group.first + group.count == last + 1 || group.count == size, "a group ends early",
            group.first, group.count);
      check(group.groups == (last - first) / size + 1, "groups of a pair", group.groups, size);
    }
    check(end == units, "units at the end", end, units);
    for (int u = 0; u < units; ++u) check(seen[u] == 1, "a unit is read once", u, seen[u]);
  }
  check(units_seen == units_all, "units in all", static_cast<long>(units_seen),
        static_cast<long>(units_all));
}

// Units dealt to a cluster's warps: each is read once, no warp has two more than another, few spread over all blocks.
void check_cluster(int units, int blocks) {
  const int warps = blocks * kClusterWarps;
  memset(seen, 0, static_cast<size_t>(units));
  int blocks_at_work = 0;
  for (int block = 0; block < blocks; ++block) {
    int of_block = 0;
    for (int warp = 0; warp < kClusterWarps; ++warp) {
      const int at = cluster_warp(warp, block, blocks);
      const int count = cluster_units(units, at, warps);
      of_block += count;
      check(count == units / warps || count == units / warps + 1, "units of a warp", count, units);
      for (int i = 0; i < count; ++i) {
        check(at + i * warps < units, "a unit beyond the last", at, units);
        ++seen[at + i * warps];
      }
    }
    blocks_at_work += of_block > 0;
  }
  for (int u = 0; u < units; ++u) check(seen[u] == 1, "a cluster reads a unit once", u, seen[u]);
  check(blocks_at_work == (units < blocks ? units : blocks), "blocks at work", blocks_at_work, units);
}

void check_cluster_sizes() {
  for (int processors : {1, 2, 108, 132}) {
    for (int count = 1; count < 300; ++count) {
      const int blocks = cluster_size(count, processors);
      check(blocks >= 0 && blocks <= kClusterBlocksMax && (blocks & (blocks - 1)) == 0,
            "blocks of a cluster", blocks, count);
      check(count * blocks <= processors, "clusters that do not run at once", blocks, count);
      const int more = blocks ? 2 * blocks : 1;
      check(more > kClusterBlocksMax || 5 * count * more > 4 * processors, "a cluster could be larger",
            blocks, count);
    }
  }
}

}  // namespace

int main() {
  for (int blocks : {1, 2, 4, 8}) {
    for (int units : {0, 1, 7, 8, 60, 64, 65, 1000}) check_cluster(units, blocks);
  }
  check_cluster_sizes();
  uint64_t seed = 1;
  for (int blocks : {1, 2, 132, 264, kBlocksMax}) {
    for (int pairs_count : {1, 2, 7, 8, 64, 512}) {
      for (int pages : {0, 1, 2, 33, 300}) check_case(pairs_count, pages, blocks, ++seed);
    }
  }
  check_case(8, 30000, kBlocksMax, ++seed);
  check_case(kPairsMax, 40, kBlocksMax, ++seed);
  printf("%s   gpu-worker/test/split_test.cpp\n", failures ? "FAIL" : "ok");
  return failures > 0;
}
