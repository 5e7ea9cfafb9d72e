#include "arena.h"

#include <string.h>

#include "platform.h"

// Sanitized builds leave a gap behind every allocation and report who touches it.
#if defined(__SANITIZE_ADDRESS__)
#define LEANEDGE_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define LEANEDGE_ASAN 1
#endif
#endif
#ifdef LEANEDGE_ASAN
extern "C" void __asan_poison_memory_region(const volatile void* at, size_t bytes);
extern "C" void __asan_unpoison_memory_region(const volatile void* at, size_t bytes);
#endif

namespace leanedge {
namespace {

#ifdef LEANEDGE_ASAN
constexpr uint64_t kGapBytes = kArenaAlign;
void mark(uint8_t* memory, uint64_t bytes, uint64_t size) {
  __asan_unpoison_memory_region(memory, bytes);
  __asan_poison_memory_region(memory + bytes, size - bytes);
}
#else
constexpr uint64_t kGapBytes = 0;
void mark(uint8_t*, uint64_t, uint64_t) {}
#endif

}  // namespace

bool arena_init(Arena* arena, uint64_t limit) {
  *arena = Arena{};
  arena->base = platform_reserve(0);
  arena->limit = limit / kArenaAlign * kArenaAlign;
  return arena->base != nullptr;
}

uint8_t* arena_alloc_unwritten(Arena* arena, uint64_t bytes) {
  if (arena->closed) ++arena->allocations;
  if (bytes > arena->limit) return nullptr;
  const uint64_t size = align_up(bytes, kArenaAlign) + kGapBytes;
  if (size > arena->limit - arena->used) return nullptr;
  if (!platform_reserve(arena->used + size)) return nullptr;
  uint8_t* memory = arena->base + arena->used;
  arena->used += size;
  mark(memory, bytes, size);
  return memory;
}

uint64_t arena_room(const Arena& arena) {
  const uint64_t rest = arena.limit - arena.used;
  return rest > kGapBytes ? (rest - kGapBytes) / kArenaAlign * kArenaAlign : 0;
}

uint8_t* arena_alloc(Arena* arena, uint64_t bytes) {
  uint8_t* memory = arena_alloc_unwritten(arena, bytes);
  // Fresh memory is zero, but an engine may be created where another one was.
  if (memory) memset(memory, 0, static_cast<size_t>(bytes));
  return memory;
}

}  // namespace leanedge
