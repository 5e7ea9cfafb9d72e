// Cache memory of a device (engine/src/memory_ops.h): every call takes its place on the engine's stream,
// behind a page flush that has been left for later.
#include "memory_ops.h"

#include "device.h"
#include "plans_device.h"

namespace leanedge {

using cuda::device;
using cuda::device_check;

namespace {

// A block slides over less than its own length piece by piece: pieces do not overlap their places.
constexpr uint64_t kSlideBytesMin = 64 * 1024;

}  // namespace

uint64_t memory_used(const Engine&) { return device.memory.used; }

uint64_t memory_room(const Engine&) { return cuda::device_room(device.memory); }

uint8_t* memory_take(Engine* engine, uint64_t bytes) {
  uint8_t* base = cuda::device_alloc_unwritten(&device.memory, bytes);
  if (base) cuda::plans_base(*engine, base);
  return base;
}

void memory_copy(void* to, const void* from, uint64_t bytes) {
  cuda::pages_flush();
  device_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, device.stream));
}

void memory_slide(void* to, const void* from, uint64_t bytes) {
  cuda::pages_flush();
  uint8_t* target = static_cast<uint8_t*>(to);
  const uint8_t* source = static_cast<const uint8_t*>(from);
  const uint64_t distance = static_cast<uint64_t>(source - target);
  if (distance >= bytes) {
    memory_copy(to, from, bytes);
    return;
  }
  if (distance >= kSlideBytesMin) {
    for (uint64_t at = 0; at < bytes; at += distance) {
      memory_copy(target + at, source + at, bytes - at < distance ? bytes - at : distance);
    }
    return;
  }
  // Short distances: through the upload ring's image, which is free of what later kernels read.
  for (uint64_t at = 0; at < bytes; at += cuda::kUploadPartBytesMin) {
    const uint64_t rest = bytes - at;
    const uint64_t piece = rest < cuda::kUploadPartBytesMin ? rest : cuda::kUploadPartBytesMin;
    uint8_t* bounce = nullptr;
    cuda::upload_room(&device.ring, piece, &bounce, device.stream);
    memory_copy(bounce, source + at, piece);
    memory_copy(target + at, bounce, piece);
  }
}

void memory_read(void* to, const void* from, uint64_t bytes) {
  cuda::pages_flush();
  device_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, device.stream));
  device_check(cudaStreamSynchronize(device.stream));
}

// From pageable memory: CUDA has copied it aside when the call is back.
void memory_write(void* to, const void* from, uint64_t bytes) {
  cuda::pages_flush();
  device_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, device.stream));
}

void memory_zero(void* to, uint64_t bytes) {
  cuda::pages_flush();
  device_check(cudaMemsetAsync(to, 0, bytes, device.stream));
}

}  // namespace leanedge
