#include "tiny_model.h"

#include <stdlib.h>
#include <string.h>

#include "../src/dtype.h"
#include "../src/tensor_role.h"
#include "leanedge/half.h"
#include "random.h"

namespace leanedge::test {
namespace {

void put_u16(uint8_t* at, uint16_t value) { memcpy(at, &value, 2); }

void put_unit(Dtype dtype, Random* random, float scale, float offset, uint8_t* at) {
  switch (dtype) {
    case Dtype::kF32: {
      const float x = offset + scale * random->uniform();
      memcpy(at, &x, 4);
      return;
    }
    case Dtype::kF16: put_u16(at, f32_to_f16(offset + scale * random->uniform())); return;
    case Dtype::kBF16:
      put_u16(at, static_cast<uint16_t>(f32_bits(offset + scale * random->uniform()) >> 16));
      return;
    default: break;
  }
  const size_t bytes = dtype_unit_bytes(dtype);
  for (size_t i = 0; i < bytes; ++i) at[i] = static_cast<uint8_t>(random->next());
  const float levels = dtype == Dtype::kQ8_0 ? 127.0f : 8.0f;
  put_u16(at, f32_to_f16(scale / levels * (1.5f + 0.5f * random->uniform())));
  if (dtype == Dtype::kQ4_1) put_u16(at + 2, f32_to_f16(-scale + 0.1f * scale * random->uniform()));
}

}  // namespace

ModelConfig tiny_config(Architecture architecture) {
  ModelConfig c = {};
  c.architecture = architecture;
  c.layers = 2;
  c.dim = 32;
  c.ff_dim = 64;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 8;
  c.vocab_size = 61;
  c.context_tokens_max = 256;
  c.rope_dim = 8;
  c.rope_order = architecture == Architecture::kLlama ? RopeOrder::kInterleaved : RopeOrder::kHalf;
  c.rms_eps = 1e-5f;
  c.rope_base = 10000.0f;
  c.rope_scale = 1.0f;
  c.yarn_original_context = 64.0f;
  c.yarn_beta_fast = 32.0f;
  c.yarn_beta_slow = 1.0f;
  c.yarn_attention_factor = 1.0f;
  c.tied_embeddings = architecture == Architecture::kQwen3 ? 1 : 0;
  c.qkv_bias = architecture == Architecture::kQwen2 ? 1 : 0;
  c.qk_norm = architecture == Architecture::kQwen3 ? 1 : 0;
  return c;
}

TinyModel tiny_model(const ModelConfig& config, Dtype dtype, uint64_t seed) {
  TinyModel model = {};
  model.config = config;
  model.seed = seed;
  for (const TensorRole role : kModelRoles) {
    const RoleInfo info = role_info(config, role);
    if (!info.needed) continue;
    model.tensors[model.tensor_count++] = {role,
                                           -1,
                                           info.vector ? Dtype::kF32 : dtype,
                                           static_cast<int32_t>(info.rows),
                                           static_cast<int32_t>(info.cols),
                                           0};
  }
  for (int32_t layer = 0; layer < config.layers; ++layer) {
    for (const TensorRole role : kLayerRoles) {
      const RoleInfo info = role_info(config, role);
      if (!info.needed) continue;
      model.tensors[model.tensor_count++] = {role,
                                             layer,
                                             info.vector ? Dtype::kF32 : dtype,
                                             static_cast<int32_t>(info.rows),
                                             static_cast<int32_t>(info.cols),
                                             0};
    }
  }
  return model;
}

uint8_t* tiny_tensor(const TinyModel& model, int32_t index, size_t* bytes) {
  const TensorDesc& desc = model.tensors[index];
  Random random = {model.seed * 1000003 + static_cast<uint64_t>(index)};
  const bool norm = desc.rows == 1 && desc.role != TensorRole::kAttnQBias &&
                    desc.role != TensorRole::kAttnKBias && desc.role != TensorRole::kAttnVBias;
  const float scale = desc.rows == 1                             ? 0.3f
                      : desc.role == TensorRole::kTokenEmbedding ? 1.0f
                                                                 : 0.4f;
  const size_t unit = dtype_unit_bytes(desc.dtype);
  *bytes = static_cast<size_t>(desc.rows) * dtype_row_bytes(desc.dtype, desc.cols);
  uint8_t* data = static_cast<uint8_t*>(malloc(*bytes));
  for (size_t at = 0; at < *bytes; at += unit) {
    put_unit(desc.dtype, &random, scale, norm ? 1.0f : 0.0f, data + at);
  }
  return data;
}

int32_t tiny_start(const TinyModel& model, const TinyOptions& options) {
  const EngineOptions engine_options = {options.memory_bytes_max, options.sequences_max,
                                        options.batch_rows_max, model.config.context_tokens_max, 0};
  int32_t status =
      le_engine_create(&engine_options, &model.config, model.tensors, model.tensor_count);
  for (int32_t i = 0; i < model.tensor_count && status == 0; ++i) {
    size_t bytes = 0;
    uint8_t* data = tiny_tensor(model, i, &bytes);
    for (size_t at = 0; at < bytes && status == 0;) {
      const size_t chunk = bytes - at < static_cast<size_t>(options.chunk_bytes)
                               ? bytes - at
                               : static_cast<size_t>(options.chunk_bytes);
      status = le_weights_write(i, at, data + at, static_cast<int32_t>(chunk));
      at += chunk;
    }
    free(data);
  }
  if (status == 0) status = le_plan_add(nullptr, options.sink, options.recent);
  if (status == 0 && options.plan) status = le_plan_add(options.plan, 0, 0);
  for (int32_t i = 0; i < options.plan_count && status >= 0; ++i) {
    status = le_plan_add(options.plans[i], 0, 0);
  }
  return status < 0 ? status : le_engine_start();
}

}  // namespace leanedge::test
