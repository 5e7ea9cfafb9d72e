// Small kernels that tie a pass together.
#pragma once

#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>

#include "leanedge_cuda/rows.h"

namespace leanedge::cuda {

// Whose rows had K or V that are not finite: sequences[owners[r]] = 1 where bad[r], which becomes 0.
//   bad     (rows)
//   owners  (rows) handles; -1: nobody's
cudaError_t flag_owners_launch(uint32_t* bad, const int32_t* owners, uint32_t* sequences,
                               int32_t rows, cudaStream_t stream);

// Sums of squared channels of some rows of one layer, as engine/src/observe.h keeps them: K as it was
// written to its place, Q as attention takes it.
struct SquareSums {
  const KvTarget* targets;  // (rows) in device memory
  const float* q_f32;       // (rows, heads, head_dim), or null
  const uint16_t* q_f16;    // the same in f16, where q_f32 is null
  double* sums;             // (kv_heads, head_dim) of K, then (heads, head_dim) of Q: added to
  size_t zone_offset;       // f16 values from layer 0 of a target to this layer
  int32_t rows;
  int32_t q_from;           // first row whose Q counts
  int32_t heads;
  int32_t kv_heads;
  int32_t head_dim;
  int32_t reserved;         // 0
};
cudaError_t square_sums_launch(const SquareSums& call, cudaStream_t stream);

// Rows of K and of V on their way from dense rows to a ring or a sink, for all heads of one layer.
struct RowCopy {
  const uint16_t* k;  // (kv_heads, from_stride, head_dim) f16, at the first row of head 0
  const uint16_t* v;
  uint16_t* to_k;     // (kv_heads, to_stride, head_dim) f16, at the first row of head 0
  uint16_t* to_v;
  int32_t from_stride;  // rows between heads
  int32_t to_stride;
  int32_t rows;
  int32_t reserved;     // 0
};

// Copies `copy_count` runs of rows, at most `rows_max` long each. `copies` in device memory; head_dim is a
// multiple of 8.
cudaError_t row_copy_launch(const RowCopy* copies, int32_t copy_count, int32_t rows_max,
                            int32_t kv_heads, int32_t head_dim, cudaStream_t stream);

}  // namespace leanedge::cuda
