// Rows of a tensor on their way to the device: pinned memory fills up, is copied, and is packed there
// while the other half fills.
#pragma once

#include "device_memory.h"
#include "leanedge_cuda/matrix.h"

namespace leanedge::cuda {

inline constexpr uint64_t kStageBytesMin = 16 * 1024 * 1024;  // long enough copies for the full rate

// Opens both halves, of at least `bytes` bytes each; their image on the device is the end of `memory`,
// which nothing may take before stage_close. False where memory is short.
bool stage_open(DeviceMemory* memory, uint64_t bytes);
// Waits for the last copy and gives the memory back.
void stage_close();

// The next `count` rows of a tensor of `rows` rows, from its row `row` on. `part` says where the
// tensor's first row goes. Errors go to device_check.
void stage_rows(const Matrix& matrix, const MatrixPart& part, uint64_t row_bytes, int32_t row,
                int32_t count, int32_t rows, const uint8_t* data);

}  // namespace leanedge::cuda
