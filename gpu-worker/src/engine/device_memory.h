// Device memory of an engine: one allocation, handed out from its start while the engine is set up.
#pragma once

#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>

namespace leanedge::cuda {

inline constexpr uint64_t kDeviceAlign = 256;

struct DeviceMemory {
  uint8_t* base;
  uint64_t used;   // a multiple of kDeviceAlign
  uint64_t bytes;  // of the allocation
};

// `bytes` zero bytes, kDeviceAlign-aligned; null if they do not fit. The zeros are written on `stream`.
uint8_t* device_alloc(DeviceMemory* memory, uint64_t bytes, cudaStream_t stream);
// The same with undefined contents.
uint8_t* device_alloc_unwritten(DeviceMemory* memory, uint64_t bytes);
// Most bytes that one allocation can still have.
uint64_t device_room(const DeviceMemory& memory);

}  // namespace leanedge::cuda
