// Host memory of an engine on a device: tables, logs, the heap's records. Address space is set aside
// once; what nobody touches costs nothing.
#include <sys/mman.h>

#include "api_state.h"
#include "device.h"
#include "leanedge/native.h"
#include "platform.h"

namespace leanedge {
namespace {

constexpr uint64_t kRangeBytesMax = uint64_t{1} << 38;

uint8_t* range;

}  // namespace

uint8_t* platform_reserve(uint64_t bytes) {
  if (bytes > kRangeBytesMax) return nullptr;
  if (!range) {
    void* mapped = mmap(nullptr, kRangeBytesMax, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) return nullptr;
    range = static_cast<uint8_t*>(mapped);
  }
  return range;
}

// EngineOptions.memory_bytes_max speaks of device memory: memory_device.cpp.
uint64_t platform_fixed_bytes() { return 0; }

int32_t platform_backend() { return 3; }

kernels::Context* platform_context() { return nullptr; }

}  // namespace leanedge

int32_t le_engine_close(void) {
  leanedge::cuda::device_close();
  leanedge::engine = leanedge::Engine{};
  if (leanedge::range) madvise(leanedge::range, leanedge::kRangeBytesMax, MADV_DONTNEED);
  return 0;
}
