// Native memory: address space is set aside once, pages become usable as the range grows, so the
// range never moves.
#include <sys/mman.h>

#include "api_state.h"
#include "leanedge/native.h"
#include "platform.h"

namespace leanedge {
namespace {

// Address space, not memory: an engine's range can grow to this.
constexpr uint64_t kRangeBytesMax = uint64_t{1} << 38;
constexpr uint64_t kGrowBytes = 2 * 1024 * 1024;

uint8_t* range;
uint64_t range_bytes;

}  // namespace

uint8_t* platform_reserve(uint64_t bytes) {
  if (bytes > kRangeBytesMax) return nullptr;
  if (!range) {
    void* mapped = mmap(nullptr, kRangeBytesMax, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) return nullptr;
    range = static_cast<uint8_t*>(mapped);
  }
  if (bytes > range_bytes) {
    const uint64_t grown = (bytes + kGrowBytes - 1) / kGrowBytes * kGrowBytes;
    if (mprotect(range, grown, PROT_READ | PROT_WRITE) != 0) return nullptr;
    range_bytes = grown;
  }
  return range;
}

// Code and statics of a native process are not the engine's to count.
uint64_t platform_fixed_bytes() { return 0; }

int32_t platform_backend() { return 1; }

kernels::Context* platform_context() { return nullptr; }

}  // namespace leanedge

int32_t le_engine_close(void) {
  leanedge::engine = leanedge::Engine{};
  // Pages that are touched again come back empty.
  if (leanedge::range) madvise(leanedge::range, leanedge::range_bytes, MADV_DONTNEED);
  return 0;
}
