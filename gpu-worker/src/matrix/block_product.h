// The product of quantised weights with up to 128 rows of activations: what its kernel takes.
#pragma once

#include <cuda_runtime_api.h>
#include <stdint.h>

#include "leanedge_cuda/matrix.h"

namespace leanedge::cuda {

inline constexpr int32_t kBlockInputsMax = 128;
inline constexpr int32_t kBlockWarps = 8;
inline constexpr int32_t kBlockThreads = 32 * kBlockWarps;
inline constexpr int32_t kWarpTiles = 2;                              // of 16 rows, of a warp
inline constexpr int32_t kBlockRows = kBlockWarps * kWarpTiles * 16;  // of a thread block
// Row blocks of the largest matrix: each has two counters in the context's scratch.
inline constexpr int32_t kRowBlocksMax = (kVocabMax + kBlockRows - 1) / kBlockRows;
inline constexpr size_t kCounterBytes = size_t{2} * kRowBlocksMax * sizeof(uint32_t);

// The line of (row block, step) is cut into equal shares, one a thread block.
struct BlockArgs {
  const uint8_t* data;
  const float* row_scales;  // (rows), or null
  const uint16_t* x;        // (inputs, cols) bf16
  const float* bias;        // (rows), or null
  void* out;
  float4* parts;            // two a thread block: (fragments, kBlockThreads)
  uint32_t* arrived;        // (row blocks) zero between launches
  uint32_t* left;           // (row blocks) zero between launches
  int64_t tile_bytes;
  uint32_t code_base;       // kCodeBase
  int32_t rows;
  int32_t cols;
  int32_t inputs;
  int32_t steps;            // of a row block on the line
  int32_t steps_real;       // sliced: those that exist; the line has room for whole shares
  int32_t share;            // steps of a thread block
  int32_t total;            // steps of all row blocks
  // 1: each thread block has one part of one row block, all of them run at the same time, and each
  // finishes a slice of its row block. 0: the last to arrive at a row block finishes it.
  int32_t sliced;
  MatrixOutput output;
};

using BlockKernel = void (*)(BlockArgs);

struct BlockForm {
  BlockKernel kernel;
  int32_t shared_bytes;
  int32_t fragments;  // of a thread's sums: float4 each
};

// For at most `inputs` rows of activations: 16, 32, 64 or 128 columns of a kernel.
BlockForm block_form_fp8(int32_t inputs);
BlockForm block_form_int8(int32_t inputs);
BlockForm block_form_int4(int32_t inputs);

// Whether the kernels serve this matrix with so many rows of activations, on a device whose blocks may
// have shared_max bytes of shared memory.
bool block_serves(const Matrix& matrix, const MatrixProduct& call, int32_t shared_max);
// Lets the kernels that fit take the shared memory that they need.
cudaError_t block_prepare(int32_t shared_max);
// parts: block_parts_bytes(processors); counters: kCounterBytes, zero.
size_t block_parts_bytes(int32_t processors);
// alone: blocks may wait for each other.
cudaError_t block_launch(const Matrix& matrix, const MatrixProduct& call, int32_t processors, bool alone,
                         uint8_t* parts, uint8_t* counters, cudaStream_t stream);

}  // namespace leanedge::cuda
