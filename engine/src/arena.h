// The engine's memory: one range, handed out from its start while the engine is set up. Nothing is
// ever given back; what comes and goes at run time lives in the cache heap (cache_heap.h).
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace leanedge {

inline constexpr uint64_t kArenaAlign = 64;

struct Arena {
  uint8_t* base;         // start of the range, kArenaAlign-aligned
  uint64_t used;         // bytes handed out, a multiple of kArenaAlign
  uint64_t limit;        // most bytes, a multiple of kArenaAlign
  uint64_t allocations;  // calls since `closed` was set: stays 0
  bool closed;           // set by le_engine_start
};

// Starts an empty arena of at most `limit` bytes. False if the host gives no memory at all.
bool arena_init(Arena* arena, uint64_t limit);
// `bytes` zero bytes, kArenaAlign-aligned; null if they do not fit.
uint8_t* arena_alloc(Arena* arena, uint64_t bytes);
// The same without writing to them: memory that nobody touches costs a host nothing.
uint8_t* arena_alloc_unwritten(Arena* arena, uint64_t bytes);

// Most bytes that one allocation can still have.
uint64_t arena_room(const Arena& arena);

// `count` zeroed Ts; null if they do not fit.
template <class T>
T* arena_array(Arena* arena, uint64_t count) {
  static_assert(alignof(T) <= kArenaAlign, "arena memory is 64-byte aligned");
  return reinterpret_cast<T*>(arena_alloc(arena, count * sizeof(T)));
}

constexpr uint64_t align_up(uint64_t bytes, uint64_t align) {
  return (bytes + align - 1) / align * align;
}

}  // namespace leanedge
