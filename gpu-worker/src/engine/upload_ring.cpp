#include "upload_ring.h"

#include "leanedge/status.h"

namespace leanedge::cuda {

bool upload_open(UploadRing* ring, DeviceMemory* memory, uint64_t table_bytes) {
  *ring = UploadRing{};
  ring->part_bytes = table_bytes > kUploadPartBytesMin ? table_bytes : kUploadPartBytesMin;
  const uint64_t bytes = kUploadParts * ring->part_bytes;
  ring->image = device_alloc_unwritten(memory, bytes);
  if (!ring->image) return false;
  void* host = nullptr;
  if (cudaMallocHost(&host, bytes) != cudaSuccess) return false;
  ring->host = static_cast<uint8_t*>(host);
  for (cudaEvent_t& event : ring->done) {
    if (cudaEventCreateWithFlags(&event, cudaEventDisableTiming) != cudaSuccess) return false;
  }
  return true;
}

void upload_close(UploadRing* ring) {
  if (ring->host) cudaFreeHost(ring->host);
  for (cudaEvent_t event : ring->done) {
    if (event) cudaEventDestroy(event);
  }
  *ring = UploadRing{};
}

uint8_t* upload_room(UploadRing* ring, uint64_t bytes, uint8_t** image, cudaStream_t stream) {
  const uint64_t size = (bytes + 15) / 16 * 16;
  ENGINE_ASSERT(size <= ring->part_bytes);
  if (ring->used + size > ring->part_bytes) {
    cudaEventRecord(ring->done[ring->part], stream);
    ring->part = (ring->part + 1) % kUploadParts;
    ring->used = 0;
    // An event that was never recorded is done.
    cudaEventSynchronize(ring->done[ring->part]);
  }
  const uint64_t at = static_cast<uint64_t>(ring->part) * ring->part_bytes + ring->used;
  ring->used += size;
  *image = ring->image + at;
  return ring->host + at;
}

cudaError_t upload_send(UploadRing* ring, const uint8_t* filled, uint64_t bytes,
                        cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  return cudaMemcpyAsync(ring->image + (filled - ring->host), filled, bytes,
                         cudaMemcpyHostToDevice, stream);
}

}  // namespace leanedge::cuda
