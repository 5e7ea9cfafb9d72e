#include "cache_heap.h"

#include "leanedge/status.h"
#include "memory_ops.h"

namespace leanedge {
namespace {

int32_t take_record(CacheHeap* heap) {
  const int32_t record = heap->spare;
  ENGINE_ASSERT(record != kNoBlock);
  heap->spare = heap->blocks[record].next;
  return record;
}

// Takes a record out of the list.
void unlink(CacheHeap* heap, int32_t record) {
  HeapBlock& block = heap->blocks[record];
  if (block.prev == kNoBlock) {
    heap->first = block.next;
  } else {
    heap->blocks[block.prev].next = block.next;
  }
  if (block.next != kNoBlock) heap->blocks[block.next].prev = block.prev;
  block.next = heap->spare;
  heap->spare = record;
}

// Splits a gap so that it has exactly `bytes`; the rest becomes a gap behind it.
void split(CacheHeap* heap, int32_t record, uint64_t bytes) {
  if (heap->blocks[record].bytes == bytes) return;
  const int32_t rest = take_record(heap);
  HeapBlock& block = heap->blocks[record];
  heap->blocks[rest] = {block.offset + bytes, block.bytes - bytes, 0, record, block.next, 0};
  if (block.next != kNoBlock) heap->blocks[block.next].prev = rest;
  block.next = rest;
  block.bytes = bytes;
}

// Slides all blocks to the start; what is free becomes one gap at the end.
int32_t compact(CacheHeap* heap) {
  uint64_t offset = 0;
  int32_t last = kNoBlock;
  for (int32_t record = heap->first; record != kNoBlock;) {
    HeapBlock& block = heap->blocks[record];
    const int32_t next = block.next;
    if (block.refs == 0) {
      unlink(heap, record);
    } else {
      if (block.offset != offset) {
        memory_slide(heap->base + offset, heap->base + block.offset, block.bytes);
        block.offset = offset;
        ++heap->moves;
      }
      offset += block.bytes;
      last = record;
    }
    record = next;
  }
  const int32_t gap = take_record(heap);
  heap->blocks[gap] = {offset, heap->bytes - offset, 0, last, kNoBlock, 0};
  if (last == kNoBlock) {
    heap->first = gap;
  } else {
    heap->blocks[last].next = gap;
  }
  return gap;
}

}  // namespace

void heap_init(CacheHeap* heap, uint8_t* base, uint64_t bytes, HeapBlock* blocks, int32_t records) {
  ENGINE_ASSERT(records >= 1 && bytes % kHeapAlign == 0 && bytes > 0);
  *heap = {base, bytes, bytes, bytes, 0, blocks, 0, kNoBlock};
  for (int32_t i = records - 1; i >= 1; --i) {
    blocks[i] = {0, 0, 0, kNoBlock, heap->spare, 0};
    heap->spare = i;
  }
  blocks[0] = {0, bytes, 0, kNoBlock, kNoBlock, 0};
}

int32_t heap_alloc(CacheHeap* heap, uint64_t bytes) {
  const uint64_t size = align_up(bytes, kHeapAlign);
  ENGINE_ASSERT(size > 0);
  if (size > heap->bytes_free) return kNoBlock;
  int32_t record = heap->first;
  while (record != kNoBlock && (heap->blocks[record].refs || heap->blocks[record].bytes < size)) {
    record = heap->blocks[record].next;
  }
  if (record == kNoBlock) record = compact(heap);
  split(heap, record, size);
  heap->blocks[record].refs = 1;
  heap->bytes_free -= size;
  if (heap->bytes_free < heap->bytes_free_least) heap->bytes_free_least = heap->bytes_free;
  return record;
}

void heap_hold(CacheHeap* heap, int32_t block) {
  ENGINE_ASSERT(heap->blocks[block].refs > 0);
  ++heap->blocks[block].refs;
}

void heap_release(CacheHeap* heap, int32_t block) {
  HeapBlock& freed = heap->blocks[block];
  ENGINE_ASSERT(freed.refs > 0);
  if (--freed.refs) return;
  heap->bytes_free += freed.bytes;
  const int32_t next = freed.next;
  if (next != kNoBlock && heap->blocks[next].refs == 0) {
    freed.bytes += heap->blocks[next].bytes;
    unlink(heap, next);
  }
  const int32_t prev = freed.prev;
  if (prev != kNoBlock && heap->blocks[prev].refs == 0) {
    heap->blocks[prev].bytes += freed.bytes;
    unlink(heap, block);
  }
}

uint8_t* heap_address(const CacheHeap& heap, int32_t block) {
  ENGINE_ASSERT(heap.blocks[block].refs > 0);
  return heap.base + heap.blocks[block].offset;
}

}  // namespace leanedge
