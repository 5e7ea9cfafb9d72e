// The engine's memory range in WebAssembly: everything behind the module's own statics and stack,
// up to the maximum of the memory that the host passes in. Not a word here about how big that is:
// the host decides (EngineOptions.memory_bytes_max and the memory's maximum).
#include <stddef.h>

#include "platform.h"
#ifdef LEANEDGE_THREADS
#include "threads/threads.h"
#endif

// First byte behind statics and stack; the linker defines it.
extern "C" uint8_t __heap_base;

namespace leanedge {
namespace {

constexpr uint64_t kWasmPageBytes = 65536;
constexpr uint64_t kAlign = 64;

#ifdef LEANEDGE_THREADS
uint64_t stack_bytes() { return kernels::parallel_stack_bytes(); }
kernels::Context* shared_context() { return kernels::parallel_context(); }
#else
// One thread: its stack lies before the statics, and kernels share nothing.
uint64_t stack_bytes() { return 0; }
kernels::Context* shared_context() { return nullptr; }
#endif

uint64_t range_begin() {
  const uint64_t statics = static_cast<uint64_t>(reinterpret_cast<uintptr_t>(&__heap_base));
  return (statics + kAlign - 1) / kAlign * kAlign + stack_bytes();
}

}  // namespace

uint8_t* platform_reserve(uint64_t bytes) {
  const uint64_t begin = range_begin();
  if (bytes > UINT32_MAX - begin) return nullptr;
  const uint64_t pages = (begin + bytes + kWasmPageBytes - 1) / kWasmPageBytes;
  const uint64_t have = __builtin_wasm_memory_size(0);
  if (pages > have &&
      __builtin_wasm_memory_grow(0, static_cast<size_t>(pages - have)) == SIZE_MAX) {
    return nullptr;
  }
  return reinterpret_cast<uint8_t*>(static_cast<uintptr_t>(begin));
}

uint64_t platform_fixed_bytes() { return range_begin(); }

int32_t platform_backend() { return LEANEDGE_BACKEND; }

kernels::Context* platform_context() { return shared_context(); }

}  // namespace leanedge

// What compilers call on their own where no instruction does it. memory.copy and memory.fill serve
// the rest.
extern "C" {

__attribute__((no_builtin)) int memcmp(const void* a, const void* b, size_t bytes) {
  const uint8_t* x = static_cast<const uint8_t*>(a);
  const uint8_t* y = static_cast<const uint8_t*>(b);
  for (size_t i = 0; i < bytes; ++i) {
    if (x[i] != y[i]) return x[i] < y[i] ? -1 : 1;
  }
  return 0;
}

__attribute__((no_builtin)) size_t strlen(const char* text) {
  size_t length = 0;
  while (text[length]) ++length;
  return length;
}

}  // extern "C"
