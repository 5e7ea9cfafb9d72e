// The cache heap: whether something fits depends on the free bytes only, and blocks keep their
// contents when they move.
#include <stdlib.h>
#include <string.h>

#include "../src/cache_heap.h"
#include "check.h"
#include "random.h"

using namespace leanedge;

namespace {

constexpr uint64_t kBytes = 64 * 200;
constexpr int32_t kBlocksMax = 200;
constexpr int32_t kRecords = static_cast<int32_t>(heap_records(kBlocksMax));

struct Fixture {
  CacheHeap heap;
  HeapBlock records[kRecords];
  uint8_t* memory;

  Fixture() {
    memory = static_cast<uint8_t*>(aligned_alloc(64, kBytes));
    heap_init(&heap, memory, kBytes, records, kRecords);
  }
  ~Fixture() { free(memory); }
};

}  // namespace

TEST(heap_slides_blocks_together) {
  Fixture f;
  int32_t blocks[kBlocksMax];
  for (int32_t i = 0; i < kBlocksMax; ++i) {
    blocks[i] = heap_alloc(&f.heap, 64);
    CHECK(blocks[i] != kNoBlock);
    memset(heap_address(f.heap, blocks[i]), i, 64);
  }
  CHECK_EQ(heap_alloc(&f.heap, 1), kNoBlock);
  for (int32_t i = 0; i < kBlocksMax; i += 2) heap_release(&f.heap, blocks[i]);
  CHECK_EQ(f.heap.bytes_free, kBytes / 2);
  const int32_t large = heap_alloc(&f.heap, kBytes / 2);
  CHECK(large != kNoBlock);
  CHECK_EQ(f.heap.bytes_free, uint64_t{0});
  memset(heap_address(f.heap, large), 255, kBytes / 2);
  for (int32_t i = 1; i < kBlocksMax; i += 2) {
    CHECK_EQ(heap_address(f.heap, blocks[i])[0], i);
    CHECK_EQ(heap_address(f.heap, blocks[i])[63], i);
  }
}

TEST(heap_keeps_contents_over_random_use) {
  Fixture f;
  test::Random random = {4};
  struct Live {
    int32_t block;
    uint64_t bytes;
    uint8_t mark;
    int32_t holders;
  };
  Live live[32] = {};
  uint64_t used = 0;
  for (int32_t step = 0; step < 20000; ++step) {
    Live& l = live[random.below(32)];
    if (l.holders) {
      const uint8_t* at = heap_address(f.heap, l.block);
      CHECK_EQ(at[0], l.mark);
      CHECK_EQ(at[l.bytes - 1], l.mark);
      if (random.below(3) == 0) {
        heap_hold(&f.heap, l.block);
        ++l.holders;
        continue;
      }
      heap_release(&f.heap, l.block);
      if (--l.holders == 0) used -= align_up(l.bytes, kHeapAlign);
    } else {
      const uint64_t bytes = static_cast<uint64_t>(1 + random.below(1500));
      const bool fits = align_up(bytes, kHeapAlign) <= kBytes - used;
      l = {heap_alloc(&f.heap, bytes), bytes, static_cast<uint8_t>(random.next()), 1};
      CHECK_EQ(l.block != kNoBlock, fits);
      if (l.block == kNoBlock) {
        l.holders = 0;
        continue;
      }
      used += align_up(bytes, kHeapAlign);
      memset(heap_address(f.heap, l.block), l.mark, bytes);
    }
    CHECK_EQ(f.heap.bytes_free, kBytes - used);
  }
  CHECK(f.heap.moves > 100);
}
