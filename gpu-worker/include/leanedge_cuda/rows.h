// What a pass does to rows between its matrix products: norm, rotation and the write of K and V,
// SwiGLU, the residual sum. Each launch is one kernel. The embedding is matrix_rows_launch (matrix.h).
//
// Rules of every launch here:
// - No allocation, no synchronisation; it can be captured in a CUDA graph. Whatever changes from
//   step to step lies in device memory; `rows` may be a bucket larger than the real rows: a row of
//   padding has position -1, is computed like the others where that is harmless, and writes neither
//   K nor V.
// - It waits for the end of the kernel before it in the stream before it reads or writes anything but
//   weights (programmatic dependent launch where the device has it), so it may follow any kernel.
// - Pointers are 16-byte aligned, rows contiguous unless a stride says otherwise.
// - The same arguments give the same bits; a row's bits do not depend on other rows.
// - cudaErrorInvalidValue for shapes outside the ranges below, before anything is launched.
//
// Channels are in half-rotation order everywhere (model.h).
#pragma once

#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>

#include "leanedge/model.h"

namespace leanedge::cuda {

inline constexpr int32_t kRowsMax = 4096;  // rows of one launch

// ---- norm, and the sum into the residual stream ------------------------------------------------

// x += add, then y = x / sqrt(mean(x^2) + eps) * weight.
struct RmsNorm {
  float* x;               // (rows, dim) f32: the residual stream; written only where `add` is given
  const void* add;        // (rows, dim) of add_type, summed into x first; null for none
  const float* weight;    // (dim)
  const int32_t* gather;  // (rows) in device memory: y's row r comes from row gather[r] of x (and of
                          // add, which is then not written back to x); null: from row r
  void* y;                // (rows, dim) of y_type
  Dtype add_type;         // kF32 or kBF16
  Dtype y_type;           // kF32, kF16 or kBF16
  float eps;
  int32_t rows;           // 1 .. kRowsMax
  int32_t dim;            // a multiple of 4, 4 .. kDimMax
};
cudaError_t rmsnorm_launch(const RmsNorm& call, cudaStream_t stream);

// x += y.
struct ResidualAdd {
  float* x;        // (rows, dim)
  const void* y;   // (rows, dim) of y_type
  Dtype y_type;    // kF32 or kBF16
  int32_t rows;    // 1 .. kRowsMax
  int32_t dim;     // a multiple of 4, 4 .. kDimMax
};
cudaError_t residual_add_launch(const ResidualAdd& call, cudaStream_t stream);

// out[r] = x[index[r]].
struct GatherRows {
  const float* x;        // (any, dim)
  const int32_t* index;  // (rows) in device memory
  float* out;            // (rows, dim), not x
  int32_t rows;          // 1 .. kRowsMax
  int32_t dim;           // a multiple of 4, 4 .. kDimMax
};
cudaError_t gather_rows_launch(const GatherRows& call, cudaStream_t stream);

// ---- rotation and the write of K and V ----------------------------------------------------------

// Cosines and sines of all rows of a pass, once a pass for all layers. Angles are computed in double,
// as rope_table_row (engine/src/rope_table.h) does.
struct RopeAngles {
  const double* frequency;   // (pairs) of RopeTable, in device memory
  const int32_t* positions;  // (rows) in device memory; -1: padding, angle 0
  float2* angles;            // (rows, pairs) cosine, sine: times magnitude
  double magnitude;          // of RopeTable
  int32_t rows;              // 1 .. kRowsMax
  int32_t pairs;             // rope_dim / 2, 1 .. kHeadDimMax / 2
};
cudaError_t rope_angles_launch(const RopeAngles& call, cudaStream_t stream);

// Where a row's K and V go: head h at k + h * stride * head_dim, of layer 0. The dense rows of a
// segment, or the ring of a sequence's region.
struct KvTarget {
  uint16_t* k;       // f16, the row's place in head 0 of layer 0; null: K and V are not written
  uint16_t* v;       // f16, the same
  int32_t stride;    // rows between heads
  int32_t reserved;  // 0
};
static_assert(sizeof(KvTarget) == 24, "written by the host, read by kernels");

// From the product of wq, wk and wv (their rows concatenated in this order): bias, norm per head,
// rotation; Q goes out as attention takes it, K and V as f16 to their places.
struct RotateWrite {
  const void* qkv;           // (rows, (heads + 2 kv_heads) head_dim) of qkv_type
  const float* bias;         // ((heads + 2 kv_heads) head_dim) or null
  const float* q_norm;       // (head_dim) or null: RMS norm of each head of Q before it turns
  const float* k_norm;       // (head_dim) or null
  const float2* angles;      // (rows, rope_dim / 2): rope_angles_launch
  const KvTarget* targets;   // (rows) in device memory; written before the kernel before this one began
  float* q_f32;              // (rows, heads, head_dim) or null
  void* q_bf16;              // (rows, heads, head_dim) bf16 or null
  void* q_f16;               // (rows, heads, head_dim) f16 or null
  uint32_t* not_finite;      // (rows): set to 1 where K or V as f16 are NaN or infinite, else left
                             // alone: clear it before the first layer of a pass
  size_t zone_layer;         // f16 elements from one layer of a target to the next; 0: one layer
  int32_t layer;             // K of layer l goes to targets[r].k + l * zone_layer
  Dtype qkv_type;            // kF32 or kBF16
  float eps;                 // of the norms
  int32_t rows;              // 1 .. kRowsMax
  int32_t heads;
  int32_t kv_heads;
  int32_t head_dim;          // even, 2 .. kHeadDimMax
  int32_t rope_dim;          // even, 2 .. head_dim; the rest passes through
};
cudaError_t rotate_write_launch(const RotateWrite& call, cudaStream_t stream);

// ---- feed forward ---------------------------------------------------------------------------------

// y = silu(gate) * up, where a product of both stands in one row: `run` columns of gate, then `run` of
// up, and so on. run = ff_dim: all of gate, then all of up. run = 1: column by column.
struct SwiGlu {
  const void* gate_up;  // (rows, 2 ff_dim) of type
  void* y;              // (rows, ff_dim) of y_type
  Dtype type;           // kF32 or kBF16
  Dtype y_type;         // kF32 or kBF16
  int32_t rows;         // 1 .. kRowsMax
  int32_t ff_dim;       // a multiple of 4 and of run, 4 .. kDimMax
  int32_t run;          // 1, or a multiple of 4
};
cudaError_t swiglu_launch(const SwiGlu& call, cudaStream_t stream);

}  // namespace leanedge::cuda
