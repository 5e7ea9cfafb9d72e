// Cache memory of a CPU: a part of the engine's own range.
#include <string.h>

#include "engine_state.h"
#include "memory_ops.h"
#include "platform.h"

namespace leanedge {

uint64_t memory_used(const Engine& engine) { return engine.arena.used + platform_fixed_bytes(); }

uint64_t memory_room(const Engine& engine) { return arena_room(engine.arena); }

uint8_t* memory_take(Engine* engine, uint64_t bytes) {
  return arena_alloc_unwritten(&engine->arena, bytes);
}

void memory_copy(void* to, const void* from, uint64_t bytes) {
  memcpy(to, from, static_cast<size_t>(bytes));
}

void memory_slide(void* to, const void* from, uint64_t bytes) {
  memmove(to, from, static_cast<size_t>(bytes));
}

void memory_read(void* to, const void* from, uint64_t bytes) {
  memcpy(to, from, static_cast<size_t>(bytes));
}

void memory_write(void* to, const void* from, uint64_t bytes) {
  memcpy(to, from, static_cast<size_t>(bytes));
}

void memory_zero(void* to, uint64_t bytes) { memset(to, 0, static_cast<size_t>(bytes)); }

}  // namespace leanedge
