// Cache memory as the host may treat it. In a build for a device it lies where the host's own loads
// and stores do not reach, and kernels that still run may use it: there each of these calls takes
// its place behind them. Builds for a CPU link memory_host.cpp.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace leanedge {

struct Engine;

// Bytes that the engine has taken of EngineOptions.memory_bytes_max.
uint64_t memory_used(const Engine& engine);
// Most bytes that memory_take can still give.
uint64_t memory_room(const Engine& engine);
// Takes `bytes` bytes for the cache, kHeapAlign-aligned, contents undefined; null where they do not
// fit. Once an engine.
uint8_t* memory_take(Engine* engine, uint64_t bytes);

// Within cache memory; the ranges do not overlap.
void memory_copy(void* to, const void* from, uint64_t bytes);
// Within cache memory, towards its start: `to` is below `from`, and the ranges may overlap.
void memory_slide(void* to, const void* from, uint64_t bytes);
// From cache memory to the host's.
void memory_read(void* to, const void* from, uint64_t bytes);
// From the host's to cache memory; `from` may change as soon as the call is back.
void memory_write(void* to, const void* from, uint64_t bytes);
// Zero bytes into cache memory.
void memory_zero(void* to, uint64_t bytes);

}  // namespace leanedge
