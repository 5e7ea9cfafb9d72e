// Cache memory: blocks of any size (a sequence's sink and recent rows, archive pages) in one range.
// Blocks are named by ids, not addresses, because a block may move: when an allocation fits into
// the free bytes but into no single gap, all blocks slide together. So whether something fits
// depends on free bytes only, never on history, and admission can be computed beforehand. Equal
// sizes reuse each other's gaps, so pages alone never make anything slide.
#pragma once

#include "arena.h"

namespace leanedge {

inline constexpr int32_t kNoBlock = -1;
inline constexpr uint64_t kHeapAlign = 64;

// A block or a gap of the range, in a list ordered by offset; or a spare record.
struct HeapBlock {
  uint64_t offset;  // from the heap's base, a multiple of kHeapAlign
  uint64_t bytes;   // a multiple of kHeapAlign
  int32_t refs;     // holders; 0: a gap
  int32_t prev;     // by offset; kNoBlock: none
  int32_t next;     // by offset, or the next spare record
  int32_t reserved;
};

struct CacheHeap {
  uint8_t* base;
  uint64_t bytes;
  uint64_t bytes_free;
  uint64_t bytes_free_least;  // so far
  uint64_t moves;     // blocks moved so far
  HeapBlock* blocks;  // (2 * blocks_max + 1) records: between any two blocks there may be a gap
  int32_t first;      // record at offset 0
  int32_t spare;      // head of the spare records
};

// Records that a heap of at most `blocks_max` blocks needs.
constexpr uint64_t heap_records(uint64_t blocks_max) { return 2 * blocks_max + 1; }

// An empty heap over `bytes` bytes at `base`; `blocks` (records).
void heap_init(CacheHeap* heap, uint8_t* base, uint64_t bytes, HeapBlock* blocks, int32_t records);
// A block of `bytes` (rounded up to kHeapAlign) with one holder, its contents undefined; kNoBlock
// where fewer bytes are free. Moves other blocks if it must.
int32_t heap_alloc(CacheHeap* heap, uint64_t bytes);
// One more holder.
void heap_hold(CacheHeap* heap, int32_t block);
// One holder less; the last one's leaving frees the block.
void heap_release(CacheHeap* heap, int32_t block);
// Where a block lies until the next heap_alloc.
uint8_t* heap_address(const CacheHeap& heap, int32_t block);

}  // namespace leanedge
