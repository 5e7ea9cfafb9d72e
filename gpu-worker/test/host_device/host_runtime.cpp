// The functions of CUDA's runtime that the engine calls.
#include <stdlib.h>
#include <string.h>

#include <map>
#include <vector>

#include "host_device.h"

namespace {

using Graph = std::vector<std::function<void()>>;

Graph* capturing = nullptr;
std::map<void*, size_t> taken;            // memory of the device, and pinned, by address
cudaError_t lost = cudaSuccess;           // what every call gives while it is an error
size_t left_bytes = size_t{8} << 30;      // what is free on the device at first

cudaError_t take(void** out, size_t bytes) {
  if (lost != cudaSuccess) return lost;
  *out = bytes <= left_bytes ? aligned_alloc(256, (bytes + 255) / 256 * 256) : nullptr;
  if (!*out) return cudaErrorMemoryAllocation;
  if (bytes < (size_t{1} << 28)) memset(*out, 0xa5, bytes);  // poison
  taken[*out] = bytes;
  return cudaSuccess;
}

}  // namespace

namespace leanedge::cuda {

cudaError_t host_launch(std::function<void()> kernel) {
  if (capturing) {
    capturing->push_back(kernel);
  } else {
    kernel();
  }
  return cudaSuccess;
}

}  // namespace leanedge::cuda

extern "C" {

// What the tests do to the device, and see of it.
size_t host_device_bytes(void) {
  size_t bytes = 0;
  for (const auto& [at, size] : taken) bytes += size;
  return bytes;
}
void host_device_lose(int error) { lost = static_cast<cudaError_t>(error); }
void host_device_shrink(size_t bytes) { left_bytes = bytes; }

cudaError_t cudaMalloc(void** out, size_t bytes) { return take(out, bytes); }
cudaError_t cudaFree(void* at) {
  taken.erase(at);
  free(at);
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** out, size_t bytes) { return take(out, bytes); }
cudaError_t cudaFreeHost(void* at) { return cudaFree(at); }
cudaError_t cudaMemGetInfo(size_t* left, size_t* all) {
  *left = *all = size_t{8} << 30;
  return lost;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t) {
  if (lost != cudaSuccess) return lost;
  return leanedge::cuda::host_launch([=] { memcpy(to, from, bytes); });
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  return leanedge::cuda::host_launch([=] { memset(to, value, bytes); });
}
cudaError_t cudaGetDevice(int* number) {
  *number = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char* name, int, int) {
  name[0] = 0;
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* out, unsigned) {
  *out = reinterpret_cast<cudaStream_t>(1);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return lost; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* out, unsigned) {
  *out = reinterpret_cast<cudaEvent_t>(1);
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return lost; }
cudaError_t cudaGetLastError(void) { return lost; }
const char* cudaGetErrorString(cudaError_t) { return "an error"; }

cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  capturing = new Graph;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* out) {
  *out = reinterpret_cast<cudaGraph_t>(capturing);
  capturing = nullptr;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* out, cudaGraph_t graph, unsigned long long) {
  *out = reinterpret_cast<cudaGraphExec_t>(new Graph(*reinterpret_cast<Graph*>(graph)));
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t) {
  for (const auto& kernel : *reinterpret_cast<Graph*>(graph)) kernel();
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete reinterpret_cast<Graph*>(graph);
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  delete reinterpret_cast<Graph*>(graph);
  return cudaSuccess;
}

}  // extern "C"
