#include "arena.h"

#include <string.h>

#include "platform.h"

namespace leanedge {

bool arena_init(Arena* arena, uint64_t limit) {
  *arena = Arena{};
  arena->base = platform_reserve(0);
  arena->limit = limit / kArenaAlign * kArenaAlign;
  return arena->base != nullptr;
}

uint8_t* arena_alloc_unwritten(Arena* arena, uint64_t bytes) {
  if (arena->closed) ++arena->allocations;
  if (bytes > arena->limit) return nullptr;
  const uint64_t size = align_up(bytes, kArenaAlign);
  if (size > arena->limit - arena->used) return nullptr;
  if (!platform_reserve(arena->used + size)) return nullptr;
  uint8_t* memory = arena->base + arena->used;
  arena->used += size;
  return memory;
}

uint8_t* arena_alloc(Arena* arena, uint64_t bytes) {
  uint8_t* memory = arena_alloc_unwritten(arena, bytes);
  // Fresh memory is zero, but an engine may be created where another one was.
  if (memory) memset(memory, 0, static_cast<size_t>(bytes));
  return memory;
}

}  // namespace leanedge
