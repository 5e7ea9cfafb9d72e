// What a model's config says about each role that a tensor can have.
#pragma once

#include "leanedge/model.h"

namespace leanedge {

struct RoleInfo {
  bool needed;     // the model has such a tensor
  bool per_layer;  // one a layer
  bool vector;     // kept as f32
  int64_t rows;    // 1 for vectors
  int64_t cols;
};

inline constexpr TensorRole kModelRoles[] = {TensorRole::kTokenEmbedding, TensorRole::kOutput,
                                             TensorRole::kOutputNorm, TensorRole::kRopeFactors};
inline constexpr TensorRole kLayerRoles[] = {
    TensorRole::kAttnNorm,   TensorRole::kAttnQ,     TensorRole::kAttnK,     TensorRole::kAttnV,
    TensorRole::kAttnOutput, TensorRole::kAttnQBias, TensorRole::kAttnKBias, TensorRole::kAttnVBias,
    TensorRole::kAttnQNorm,  TensorRole::kAttnKNorm, TensorRole::kFfnNorm,   TensorRole::kFfnGate,
    TensorRole::kFfnUp,      TensorRole::kFfnDown};

// A role that does not exist is not needed.
RoleInfo role_info(const ModelConfig& config, TensorRole role);

}  // namespace leanedge
