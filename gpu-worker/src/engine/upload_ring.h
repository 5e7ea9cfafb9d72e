// Tables that change from pass to pass on their way to the device: a ring of pinned memory and its image
// on the device. A part of the ring is written again only when the device is done with it.
#pragma once

#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>

#include "device_memory.h"

namespace leanedge::cuda {

inline constexpr int32_t kUploadParts = 4;
inline constexpr uint64_t kUploadPartBytesMin = 8 * 1024 * 1024;

struct UploadRing {
  uint8_t* host;        // (kUploadParts, part_bytes) pinned
  uint8_t* image;       // the same on the device
  cudaEvent_t done[kUploadParts];  // recorded when the ring moves on from a part
  int32_t part;
  uint64_t part_bytes;
  uint64_t used;        // bytes of the part
};

// Opens a ring for tables of up to `table_bytes` bytes. False where memory or events are short.
bool upload_open(UploadRing* ring, DeviceMemory* memory, uint64_t table_bytes);
void upload_close(UploadRing* ring);

// Room for a table of `bytes` bytes, at most part_bytes, 16-byte aligned: fill in what the return
// value points at, then call upload_send. *image is where the device will have it, valid for what is
// launched before upload_room has been called for kUploadParts - 1 further parts' worth of bytes.
uint8_t* upload_room(UploadRing* ring, uint64_t bytes, uint8_t** image, cudaStream_t stream);
// Copies a filled table to the device.
cudaError_t upload_send(UploadRing* ring, const uint8_t* filled, uint64_t bytes,
                        cudaStream_t stream);

}  // namespace leanedge::cuda
