#include "weights_stage.h"

#include <string.h>

#include "device.h"

namespace leanedge::cuda {
namespace {

struct Stage {
  uint8_t* host[2];   // (bytes) pinned
  uint8_t* image[2];  // (bytes) on the device
  cudaEvent_t packed[2];
  uint64_t bytes;
  int32_t half;
  int32_t first;  // row of the tensor that the half begins with
  int32_t rows;   // in the half
};

Stage stage;

void stage_flush(const Matrix& matrix, const MatrixPart& part, uint64_t row_bytes) {
  if (stage.rows == 0) return;
  const uint64_t bytes = static_cast<uint64_t>(stage.rows) * row_bytes;
  device_check(cudaMemcpyAsync(stage.image[stage.half], stage.host[stage.half], bytes,
                               cudaMemcpyHostToDevice, device.stream));
  MatrixPart piece = part;
  piece.raw = stage.image[stage.half];
  piece.rows = stage.rows;
  piece.to_row = part.to_row + stage.first * part.to_step;
  device_check(matrix_pack_launch(matrix, piece, device.stream, &device.error));
  device_check(cudaEventRecord(stage.packed[stage.half], device.stream));
  stage.half = 1 - stage.half;
  stage.first += stage.rows;
  stage.rows = 0;
  device_check(cudaEventSynchronize(stage.packed[stage.half]));
}

}  // namespace

bool stage_open(DeviceMemory* memory, uint64_t bytes) {
  stage_close();
  const uint64_t size = (bytes > kStageBytesMin ? bytes : kStageBytesMin) / kDeviceAlign *
                            kDeviceAlign + kDeviceAlign;
  if (device_room(*memory) < 2 * size) return false;
  stage.bytes = size;
  const uint64_t end = memory->bytes / kDeviceAlign * kDeviceAlign;
  for (uint64_t i = 0; i < 2; ++i) {
    void* host = nullptr;
    if (cudaMallocHost(&host, size) != cudaSuccess) return false;
    stage.host[i] = static_cast<uint8_t*>(host);
    stage.image[i] = memory->base + end - (i + 1) * size;
    if (cudaEventCreateWithFlags(&stage.packed[i], cudaEventDisableTiming) != cudaSuccess) {
      return false;
    }
  }
  return true;
}

void stage_close() {
  if (stage.host[0]) cudaStreamSynchronize(device.stream);
  for (int32_t i = 0; i < 2; ++i) {
    if (stage.host[i]) cudaFreeHost(stage.host[i]);
    if (stage.packed[i]) cudaEventDestroy(stage.packed[i]);
  }
  stage = Stage{};
}

void stage_rows(const Matrix& matrix, const MatrixPart& part, uint64_t row_bytes, int32_t row,
                int32_t count, int32_t rows, const uint8_t* data) {
  int32_t room = static_cast<int32_t>(stage.bytes / row_bytes);
  // Heads that are turned into another order go whole.
  if (part.rope_dim > 0) room -= room % part.head_dim;
  if (row == 0) stage.first = stage.rows = 0;
  while (count > 0) {
    const int32_t rest = room - stage.rows;
    const int32_t take = count < rest ? count : rest;
    const uint64_t bytes = static_cast<uint64_t>(take) * row_bytes;
    memcpy(stage.host[stage.half] + static_cast<uint64_t>(stage.rows) * row_bytes, data, bytes);
    stage.rows += take;
    data += bytes;
    count -= take;
    const bool complete = stage.first + stage.rows == rows;
    if (stage.rows == room || complete) stage_flush(matrix, part, row_bytes);
  }
}

}  // namespace leanedge::cuda
