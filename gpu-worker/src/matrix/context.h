// What a context holds, and cuBLASLt's part of the products.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <stdint.h>

#include "leanedge_cuda/matrix.h"

namespace leanedge::cuda {

inline constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // cuBLASLt's own: what NVIDIA advises
inline constexpr size_t kWideBytes = size_t{96} << 20;       // weights of a tile as bf16
inline constexpr size_t kNarrowBytes = size_t{32} << 20;     // activations as f16
inline constexpr size_t kSumsBytes = size_t{128} << 20;      // sums before their epilogue
inline constexpr int32_t kAlgorithmsMax = 256;               // shapes whose algorithm is kept

// A product as cuBLASLt sees it: d (inputs, out_pitch) = x (inputs, cols) times w (rows, cols).
struct LtShape {
  int32_t rows;
  int32_t inputs;
  int32_t cols;
  int32_t out_pitch;
  int32_t f16;         // 1: weights and activations are f16; 0: bf16
  int32_t out_f32;     // 1: d is f32; 0: bf16
  int32_t accumulate;  // 1: d is added to
};

struct LtAlgorithm {
  LtShape shape;
  cublasLtMatmulAlgo_t algorithm;
};

struct MatrixContext {
  cublasLtHandle_t handle;
  uint8_t* workspace;  // kWorkspaceBytes
  uint8_t* wide;       // kWideBytes
  uint8_t* narrow;     // kNarrowBytes
  uint8_t* sums;       // kSumsBytes
  uint8_t* counters;   // kCounterBytes, zero between launches
  bool alone;          // blocks of a kernel may wait for each other
  int32_t processors;  // multiprocessors of the device
  int32_t shared_max;  // bytes of shared memory that a block may have
  int32_t algorithm_count;
  int32_t algorithm_next;  // the place that the next shape takes once all are in use
  LtAlgorithm algorithms[kAlgorithmsMax];
};

// Launches one product of cuBLASLt. Its algorithm is chosen once for a shape.
Status lt_product(MatrixContext* context, const LtShape& shape, const void* weights, const void* x,
                  void* out, cudaStream_t stream, ErrorDetail* detail);

}  // namespace leanedge::cuda
