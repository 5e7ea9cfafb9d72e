// Random models for the tests, fed to the engine through its boundary as a file would be.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "leanedge/engine.h"

namespace leanedge::test {

inline constexpr int32_t kTensorsMax = 128;

struct TinyModel {
  ModelConfig config;
  TensorDesc tensors[kTensorsMax];
  int32_t tensor_count;
  uint64_t seed;
};

// Shape of the default model: 2 layers, dim 32, 4 heads of 8, 2 KV heads, ff_dim 64, 61 ids.
ModelConfig tiny_config(Architecture architecture);
// The tensor table of a config with all matrices of one type.
TinyModel tiny_model(const ModelConfig& config, Dtype dtype, uint64_t seed);
// Bytes of tensor `index` as its file has them; free() them.
uint8_t* tiny_tensor(const TinyModel& model, int32_t index, size_t* bytes);

struct TinyOptions {
  uint64_t memory_bytes_max = 16 * 1024 * 1024;
  int32_t sequences_max = 8;
  int32_t batch_rows_max = 16;
  int32_t sink = 4;
  int32_t recent = 8;
  int32_t chunk_bytes = 1000;       // of le_weights_write
  const CachePlan* plan = nullptr;  // added behind the identity plan, as plan 1
  const CachePlan* const* plans = nullptr;  // (plan_count) added behind that
  int32_t plan_count = 0;
};

// Creates, feeds and starts the engine; returns the first error, or 0.
int32_t tiny_start(const TinyModel& model, const TinyOptions& options);

}  // namespace leanedge::test
