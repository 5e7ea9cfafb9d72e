// What tensors a model must have, and whether a table has them.
#include "dtype.h"
#include "error.h"
#include "tensor_role.h"
#include "weights.h"

namespace leanedge {

RoleInfo role_info(const ModelConfig& c, TensorRole role) {
  const int64_t q_dim = static_cast<int64_t>(c.heads) * c.head_dim;
  const int64_t kv_dim = static_cast<int64_t>(c.kv_heads) * c.head_dim;
  const bool bias = c.qkv_bias != 0;
  const bool norm = c.qk_norm != 0;
  switch (role) {
    case TensorRole::kTokenEmbedding: return {true, false, false, c.vocab_size, c.dim};
    case TensorRole::kOutput: return {!c.tied_embeddings, false, false, c.vocab_size, c.dim};
    case TensorRole::kOutputNorm: return {true, false, true, 1, c.dim};
    case TensorRole::kRopeFactors: return {c.rope_factors != 0, false, true, 1, c.rope_dim / 2};
    case TensorRole::kAttnNorm: return {true, true, true, 1, c.dim};
    case TensorRole::kAttnQ: return {true, true, false, q_dim, c.dim};
    case TensorRole::kAttnK: return {true, true, false, kv_dim, c.dim};
    case TensorRole::kAttnV: return {true, true, false, kv_dim, c.dim};
    case TensorRole::kAttnOutput: return {true, true, false, c.dim, q_dim};
    case TensorRole::kAttnQBias: return {bias, true, true, 1, q_dim};
    case TensorRole::kAttnKBias: return {bias, true, true, 1, kv_dim};
    case TensorRole::kAttnVBias: return {bias, true, true, 1, kv_dim};
    case TensorRole::kAttnQNorm: return {norm, true, true, 1, c.head_dim};
    case TensorRole::kAttnKNorm: return {norm, true, true, 1, c.head_dim};
    case TensorRole::kFfnNorm: return {true, true, true, 1, c.dim};
    case TensorRole::kFfnGate: return {true, true, false, c.ff_dim, c.dim};
    case TensorRole::kFfnUp: return {true, true, false, c.ff_dim, c.dim};
    case TensorRole::kFfnDown: return {true, true, false, c.dim, c.ff_dim};
  }
  return {};
}

namespace {

// Tensors of a table that a config asks for.
int32_t tensors_needed(const ModelConfig& config) {
  int32_t needed = 0;
  for (const TensorRole role : kModelRoles) needed += role_info(config, role).needed ? 1 : 0;
  for (const TensorRole role : kLayerRoles) {
    needed += role_info(config, role).needed ? config.layers : 0;
  }
  return needed;
}

Status check_tensor(const ModelConfig& config, const TensorDesc& tensor, int32_t index,
                    ErrorDetail* detail) {
  const int32_t role = static_cast<int32_t>(tensor.role);
  const RoleInfo info = role_info(config, tensor.role);
  if (!info.needed) {
    return error_set(detail, Status::kInvalidModel, role, 0,
                     "tensor # has role #, which the model's config has no place for",
                     {index, role});
  }
  const int32_t layer_least = info.per_layer ? 0 : -1;
  const int32_t layer_most = info.per_layer ? config.layers - 1 : -1;
  if (tensor.layer < layer_least || tensor.layer > layer_most) {
    return error_set(detail, Status::kInvalidModel, tensor.layer, layer_most,
                     "tensor # (role #) is of layer #, not in # .. #",
                     {index, role, tensor.layer, layer_least, layer_most});
  }
  if (tensor.rows != info.rows || tensor.cols != info.cols) {
    const bool rows = tensor.rows != info.rows;
    return error_set(detail, Status::kInvalidModel, rows ? tensor.rows : tensor.cols,
                     rows ? info.rows : info.cols,
                     "tensor # (role #, layer #) has shape (#, #), not (#, #)",
                     {index, role, tensor.layer, tensor.rows, tensor.cols, info.rows, info.cols});
  }
  const int32_t dtype = static_cast<int32_t>(tensor.dtype);
  const bool blocked = dtype_blocked(tensor.dtype);
  if (dtype_unit_bytes(tensor.dtype) == 0 || (info.vector && blocked)) {
    return error_set(detail, Status::kInvalidModel, dtype, 0,
                     "tensor # (role #, layer #) has type #, which is not read there",
                     {index, role, tensor.layer, dtype});
  }
  if (blocked && tensor.cols % kBlockCols) {
    return error_set(detail, Status::kInvalidModel, tensor.cols, kBlockCols,
                     "tensor # (role #, layer #) has # columns: type # needs a multiple of #",
                     {index, role, tensor.layer, tensor.cols, dtype, kBlockCols});
  }
  return Status::kOk;
}

}  // namespace

Status weights_check(const ModelConfig& config, const TensorDesc* tensors, int32_t count,
                     ErrorDetail* detail) {
  const int32_t needed = tensors_needed(config);
  if (count != needed) {
    return error_set(detail, Status::kInvalidModel, count, needed,
                     "the tensor table has # entries, the model's config needs #", {count, needed});
  }
  for (int32_t i = 0; i < count; ++i) {
    const Status status = check_tensor(config, tensors[i], i, detail);
    if (status != Status::kOk) return status;
    for (int32_t j = 0; j < i; ++j) {
      if (tensors[j].role != tensors[i].role || tensors[j].layer != tensors[i].layer) continue;
      return error_set(detail, Status::kInvalidModel, i, j,
                       "tensors # and # both have role # of layer #",
                       {j, i, static_cast<int32_t>(tensors[i].role), tensors[i].layer});
    }
  }
  return Status::kOk;
}

}  // namespace leanedge
