#include "device.h"

#include "../kernels/variants.h"
#include "weights_stage.h"

namespace leanedge::cuda {

Device device;

namespace {

// What the driver and cuBLASLt take beside the engine's own memory.
constexpr uint64_t kDeviceReserveBytes = 512 * 1024 * 1024;

}  // namespace

void device_close() {
  flush_forget();
  if (!device.stream) return;
  cudaStreamSynchronize(device.stream);
  graphs_close(&device.graphs);
  stage_close();
  upload_close(&device.ring);
  if (device.matrix) matrix_context_destroy(device.matrix);
  if (device.memory.base) cudaFree(device.memory.base);
  if (device.bad_sequences_host) cudaFreeHost(device.bad_sequences_host);
  if (device.logits_host) cudaFreeHost(device.logits_host);
  if (device.drawn_host) cudaFreeHost(device.drawn_host);
  if (device.drawn) cudaEventDestroy(device.drawn);
  cudaStreamDestroy(device.stream);
  device_claim_end(device.claim);
  device = Device{};
}

Status device_open(uint64_t bytes, ErrorDetail* detail) {
  device_close();
  variants_read();
  cudaGetLastError();  // an error of an engine that is gone
  LEANEDGE_CUDA_TRY(cudaStreamCreateWithFlags(&device.stream, cudaStreamNonBlocking), detail);
  LEANEDGE_CUDA_TRY(cudaEventCreateWithFlags(&device.drawn, cudaEventDisableTiming), detail);
  int number = 0;
  char name[32];
  LEANEDGE_CUDA_TRY(cudaGetDevice(&number), detail);
  LEANEDGE_CUDA_TRY(cudaDeviceGetPCIBusId(name, sizeof name, number), detail);
  device.claim = device_claim(name);
  size_t free = 0;
  size_t all = 0;
  LEANEDGE_CUDA_TRY(cudaMemGetInfo(&free, &all), detail);
  const uint64_t room = free > kDeviceReserveBytes ? free - kDeviceReserveBytes : 0;
  const uint64_t size = (bytes < room ? bytes : room) / kDeviceAlign * kDeviceAlign;
  void* base = nullptr;
  LEANEDGE_CUDA_TRY(cudaMalloc(&base, size), detail);
  device.memory = {static_cast<uint8_t*>(base), 0, size};
  return Status::kOk;
}

void flags_read(const Engine& engine) {
  device_check(cudaMemcpyAsync(device.bad_sequences_host, device.bad_sequences,
                               static_cast<size_t>(engine.options.sequences_max) * sizeof(uint32_t),
                               cudaMemcpyDeviceToHost, device.stream));
}

}  // namespace leanedge::cuda
