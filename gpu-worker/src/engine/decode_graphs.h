// Captured passes: the layers of a decode step for a plan, a form of attention and a bucket of rows, and the drawing of
// tokens for a bucket of rows. Whatever changes between replays lies in tables at fixed addresses.
#pragma once

#include <cuda_runtime_api.h>
#include <stdint.h>

#include "device_memory.h"
#include "leanedge/engine.h"
#include "leanedge_cuda/decode_attention.h"

namespace leanedge {
struct Engine;
}

namespace leanedge::cuda {

// Rows that graphs are captured for: a step takes the least that its rows fit.
inline constexpr int32_t kBuckets[] = {1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256};
inline constexpr int32_t kBucketCount = sizeof(kBuckets) / sizeof(kBuckets[0]);

// Index into kBuckets of the least bucket of at least `rows` rows, 1 .. 256.
constexpr int32_t bucket_of(int32_t rows) {
  int32_t i = 0;
  while (kBuckets[i] < rows) ++i;
  return i;
}

// One thing that can be captured. It runs once without a graph first, since libraries choose their
// kernels then.
struct CapturedPass {
  cudaGraphExec_t replay;
  int32_t runs;  // without a graph so far
};

struct DecodeGraphs {
  CapturedPass layers[kPlansMax][kDecodeForms][kBucketCount];
  CapturedPass draws[kBucketCount];
  uint8_t* pass_tables;  // (table_bytes) device memory: tables of a decode step
  uint8_t* draw_tables;  // (draw_bytes) device memory: tables of a drawing
  uint64_t table_bytes;
  uint64_t draw_bytes;
};

// Takes memory for the tables; false if it does not fit.
bool graphs_open(DecodeGraphs* graphs, const Engine& engine, DeviceMemory* memory);
void graphs_close(DecodeGraphs* graphs);

// Runs `launch(context)`, which launches on `stream` the same kernels with the same arguments each time:
// the first time as it is, the second time captured, later from the graph.
cudaError_t captured_run(CapturedPass* pass, void (*launch)(void*), void* context,
                         cudaStream_t stream);

}  // namespace leanedge::cuda
