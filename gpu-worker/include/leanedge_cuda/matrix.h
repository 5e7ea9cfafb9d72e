// Weights on a device, and their products with activations. y[i][r] = sum over c of W[r][c] x[i][c],
// followed by an epilogue: bias, residual, SwiGLU.
//
// Several tensors of a file may share a matrix (q, k, v one below the other; gate and up in turns):
// parts are packed where they belong. Every launch is asynchronous on its stream, allocates nothing,
// does not synchronise and may be captured in a CUDA graph. The same call gives the same bits.
#pragma once

#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>

#include "leanedge/model.h"
#include "leanedge/status.h"

namespace leanedge::cuda {

// How a matrix lies on the device. Values of the files' types: F32, F16, BF16, Q4_0, Q4_1, Q8_0.
enum class MatrixForm : int32_t {
  kBf16 = 0,  // row-major
  kF16 = 1,   // row-major; activations are rounded to f16 (beyond 65,504 they saturate)
  kFp8 = 2,   // e4m3 and an f32 scale a row: largest magnitude / 448
  kInt8 = 3,  // 32 columns share an f16 scale: exactly the values of Q8_0; others are rounded to it
  kInt4 = 4,  // 32 columns share an f16 scale: exactly the values of Q4_0; others are rounded to it
};

inline constexpr int32_t kMatrixInputsMax = 4096;    // rows of activations of one product
inline constexpr int32_t kMatrixColsMax = 65536;     // kDimMax
inline constexpr int32_t kMatrixVectorRowsMax = 4;   // up to here a kernel of its own serves all forms
// Folding RMSNorm into the product is served up to this many rows of activations.
inline constexpr int32_t kMatrixNormRowsMax = kMatrixVectorRowsMax;

struct Matrix {
  uint8_t* data;  // matrix_bytes(form, rows, cols) of device memory, 256-byte aligned
  MatrixForm form;
  int32_t rows;  // outputs: 1 .. kVocabMax
  int32_t cols;  // inputs: a multiple of 8 (kInt8, kInt4: of 32), at most kMatrixColsMax
  int32_t reserved;
};

// Bytes of a matrix, padding and scales included; 0 for a shape or form that is not served.
size_t matrix_bytes(MatrixForm form, int32_t rows, int32_t cols);

// Some rows of a tensor of the file, and where they go. Row i of the part becomes row
// to_row + i * to_step of the matrix.
struct MatrixPart {
  const uint8_t* raw;     // device memory: the rows as the file has them, without gaps; 4-byte aligned
  Dtype dtype;
  int32_t rows;
  int32_t to_row;
  int32_t to_step;        // 1; 2 for gate (to_row 0) and up (to_row 1) of a SwiGLU matrix
  int32_t head_dim;       // with rope_dim > 0: channels of a head
  // Above 0: the rows are heads in interleaved rotation order (RopeOrder::kInterleaved), whose first
  // rope_dim channels are put into half-rotation order. raw then holds whole heads.
  int32_t rope_dim;
};

// Packs a part. Rows that no part names must be packed before use; padding is written by
// matrix_clear_launch, once, before the first part.
// kInvalidArgument: a shape or pointer is out of bounds (named in `detail`).
Status matrix_clear_launch(const Matrix& matrix, cudaStream_t stream, ErrorDetail* detail);
Status matrix_pack_launch(const Matrix& matrix, const MatrixPart& part, cudaStream_t stream,
                          ErrorDetail* detail);

// Rows of the matrix as f32: row ids[i] (or first + i where ids is null) to out + i * cols. For the
// embedding and for checks. Ids lie in device memory; a negative one gives zeros.
struct MatrixRows {
  const int32_t* ids;  // (count) or null
  float* out;          // (count, cols) f32
  int32_t first;
  int32_t count;
};
Status matrix_rows_launch(const Matrix& matrix, const MatrixRows& call, cudaStream_t stream,
                          ErrorDetail* detail);

enum class MatrixOutput : int32_t {
  kBf16 = 0,      // out (inputs, rows) bf16
  kF32 = 1,       // out (inputs, rows) f32: logits
  kResidual = 2,  // out (inputs, rows) f32 += y
  kSwiglu = 3,    // rows 2i are gates, 2i + 1 ups: out (inputs, rows / 2) bf16 = silu(gate) * up
};

struct MatrixProduct {
  // Activations: bf16, or the f32 residual stream that the kernel normalises itself (RMSNorm: the
  // bf16 activation is x / sqrt(mean(x^2) + norm_eps) * norm_weight; at most kMatrixNormRowsMax rows).
  const uint16_t* x;         // (inputs, cols) bf16, 16-byte aligned; null where norm_x is given
  const float* norm_x;       // (inputs, cols) f32, 16-byte aligned, or null
  const float* norm_weight;  // (cols) f32, 16-byte aligned
  float norm_eps;
  int32_t inputs;            // 1 .. kMatrixInputsMax
  const float* bias;         // (rows) f32, or null; not with kSwiglu
  void* out;                 // 16-byte aligned; must not overlap the activations (kResidual: may be
                             // norm_x of another call, never of this one)
  MatrixOutput output;
  // 1: the kernel may load weights while the kernel before it in the stream still runs (sm_90,
  // programmatic dependent launch): weights must have been complete before that kernel began, all
  // else only when it ends. 0: it starts when that kernel has finished.
  int32_t overlap;
  // Weights in device memory that a kernel behind this one reads: so many bytes of them are asked for into the
  // second-level cache while the last weights of this product come. Only with up to kMatrixVectorRowsMax rows.
  const uint8_t* next;  // 16-byte aligned, or null
  uint32_t next_bytes;  // a multiple of 16; 0: none
};

// cuBLASLt's handle, its chosen algorithms, scratch. One a stream that computes at a time.
struct MatrixContext;

// Device memory that a context takes: cuBLASLt's workspace, a tile of dequantised weights, parts of
// sums, outputs before their epilogue.
size_t matrix_context_bytes();
// `scratch`: matrix_context_bytes() of device memory, 256-byte aligned, owned by the caller; zeros are written on `stream`,
// which is waited for. `alone`: no other context of the device is, so kernels may be launched whose blocks wait for each
// other. kOutOfMemory, kDeviceLost where cuBLASLt cannot start.
Status matrix_context_create(uint8_t* scratch, bool alone, cudaStream_t stream, MatrixContext** out,
                             ErrorDetail* detail);
void matrix_context_destroy(MatrixContext* context);

// Launches. Up to kMatrixVectorRowsMax rows: one kernel. More: one or a few kernels. The first call
// of a new shape above that bound chooses an algorithm on the host (milliseconds, no device work):
// warm up before capturing. kInvalidArgument, kUnimplemented: nothing was launched.
Status matrix_product_launch(MatrixContext* context, const Matrix& matrix, const MatrixProduct& call,
                             cudaStream_t stream, ErrorDetail* detail);

}  // namespace leanedge::cuda
