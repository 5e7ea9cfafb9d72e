// What a drawing of tokens tells its kernels, and what they answer.
#pragma once

#include "device.h"

namespace leanedge::cuda {

// Tables of one drawing; pointers into device memory at fixed distances for a bucket of rows.
struct DrawTables {
  const SampleRow* rows;   // (rows)
  const int32_t* gather;   // (rows) rows of the residual stream
  const int32_t* recent;   // ids that penalties look back on
};

// Ids that penalties look back on in one drawing at most.
inline constexpr int32_t kDrawRecentMax = kSampleRowsMax * kSampleRecentMax;

constexpr uint64_t draw_tables_bytes_max() {
  return kSampleRowsMax * (sizeof(SampleRow) + sizeof(int32_t)) +
         static_cast<uint64_t>(kDrawRecentMax) * sizeof(int32_t);
}

}  // namespace leanedge::cuda
