#include "device_memory.h"

namespace leanedge::cuda {

uint64_t device_room(const DeviceMemory& memory) { return memory.bytes - memory.used; }

uint8_t* device_alloc_unwritten(DeviceMemory* memory, uint64_t bytes) {
  if (bytes > device_room(*memory)) return nullptr;
  const uint64_t size = (bytes + kDeviceAlign - 1) / kDeviceAlign * kDeviceAlign;
  if (size > device_room(*memory)) return nullptr;
  uint8_t* at = memory->base + memory->used;
  memory->used += size;
  return at;
}

uint8_t* device_alloc(DeviceMemory* memory, uint64_t bytes, cudaStream_t stream) {
  uint8_t* at = device_alloc_unwritten(memory, bytes);
  if (!at || bytes == 0) return at;
  return cudaMemsetAsync(at, 0, bytes, stream) == cudaSuccess ? at : nullptr;
}

}  // namespace leanedge::cuda
