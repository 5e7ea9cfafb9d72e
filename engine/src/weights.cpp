#include "weights.h"

#include <string.h>

#include "dtype.h"
#include "error.h"
#include "leanedge/half.h"
#include "tensor_role.h"

namespace leanedge {
namespace {

// Where the vector of a role is kept; null for matrices.
const float** vector_place(Weights* weights, const TensorDesc& tensor) {
  switch (tensor.role) {
    case TensorRole::kOutputNorm: return &weights->output_norm;
    case TensorRole::kRopeFactors: return &weights->rope_factors;
    case TensorRole::kAttnNorm: return &weights->layers[tensor.layer].attn_norm;
    case TensorRole::kAttnQBias: return &weights->layers[tensor.layer].q_bias;
    case TensorRole::kAttnKBias: return &weights->layers[tensor.layer].k_bias;
    case TensorRole::kAttnVBias: return &weights->layers[tensor.layer].v_bias;
    case TensorRole::kAttnQNorm: return &weights->layers[tensor.layer].q_norm;
    case TensorRole::kAttnKNorm: return &weights->layers[tensor.layer].k_norm;
    case TensorRole::kFfnNorm: return &weights->layers[tensor.layer].ffn_norm;
    default: return nullptr;
  }
}

kernels::PackedMatrix* matrix_place(Weights* weights, const TensorDesc& tensor) {
  switch (tensor.role) {
    case TensorRole::kTokenEmbedding: return &weights->embedding;
    case TensorRole::kOutput: return &weights->output;
    case TensorRole::kAttnQ: return &weights->layers[tensor.layer].q;
    case TensorRole::kAttnK: return &weights->layers[tensor.layer].k;
    case TensorRole::kAttnV: return &weights->layers[tensor.layer].v;
    case TensorRole::kAttnOutput: return &weights->layers[tensor.layer].o;
    case TensorRole::kFfnGate: return &weights->layers[tensor.layer].gate;
    case TensorRole::kFfnUp: return &weights->layers[tensor.layer].up;
    case TensorRole::kFfnDown: return &weights->layers[tensor.layer].down;
    default: return nullptr;
  }
}

// Where row (or element) `row` of a file's Q or K goes. Interleaved files have channels 2i and
// 2i + 1 of a head where the engine has i and i + rope_dim / 2.
int32_t rotated_row(const ModelConfig& config, TensorRole role, int32_t row) {
  const bool rotates = role == TensorRole::kAttnQ || role == TensorRole::kAttnK ||
                       role == TensorRole::kAttnQBias || role == TensorRole::kAttnKBias ||
                       role == TensorRole::kAttnQNorm || role == TensorRole::kAttnKNorm;
  if (!rotates || config.rope_order != RopeOrder::kInterleaved) return row;
  const int32_t channel = row % config.head_dim;
  if (channel >= config.rope_dim) return row;
  return row - channel + channel / 2 + (channel % 2 ? config.rope_dim / 2 : 0);
}

// Element `index` of a file's vector, as f32.
float vector_element(Dtype dtype, const uint8_t* data, int32_t index) {
  if (dtype == Dtype::kF32) {
    float x;
    memcpy(&x, data + 4 * static_cast<size_t>(index), 4);
    return x;
  }
  uint16_t bits;
  memcpy(&bits, data + 2 * static_cast<size_t>(index), 2);
  return dtype == Dtype::kF16 ? f16_to_f32(bits) : f32_from_bits(static_cast<uint32_t>(bits) << 16);
}

// Takes one whole row of a tensor.
void take_row(const TensorSlot& slot, const ModelConfig& config, int32_t row, const uint8_t* data) {
  const TensorRole role = slot.desc.role;
  if (slot.matrix) {
    kernels::pack_row(*slot.matrix, rotated_row(config, role, row), data);
    return;
  }
  for (int32_t i = 0; i < slot.desc.cols; ++i) {
    slot.vector[rotated_row(config, role, i)] = vector_element(slot.desc.dtype, data, i);
  }
}

// Bytes of weights that one decoded row reads: every matrix and norm once, one row of embedding.
uint64_t bytes_of_row(const Weights& weights, const ModelConfig& config) {
  uint64_t bytes = 0;
  for (int32_t i = 0; i < weights.slot_count; ++i) {
    const TensorSlot& slot = weights.slots[i];
    if (slot.desc.role == TensorRole::kTokenEmbedding && !config.tied_embeddings) continue;
    bytes += slot.matrix ? kernels::packed_bytes(slot.desc.dtype, slot.desc.rows, slot.desc.cols)
                         : static_cast<uint64_t>(slot.desc.cols) * sizeof(float);
  }
  const kernels::PackedMatrix& embedding = weights.embedding;
  return bytes + dtype_row_bytes(embedding.dtype, embedding.cols);
}

Status out_of_memory(const Arena& arena, uint64_t bytes, ErrorDetail* detail) {
  const int64_t needed = static_cast<int64_t>(arena.used + bytes);
  const int64_t limit = static_cast<int64_t>(arena.limit);
  return error_set(detail, Status::kOutOfMemory, needed, limit,
                   "weights need at least # bytes, the engine may have #", {needed, limit});
}

}  // namespace

Status weights_reserve(Weights* weights, Arena* arena, const ModelConfig& config,
                       const TensorDesc* tensors, int32_t count, ErrorDetail* detail) {
  *weights = Weights{};
  weights->slot_count = count;
  weights->layers = arena_array<LayerWeights>(arena, static_cast<uint64_t>(config.layers));
  weights->slots = arena_array<TensorSlot>(arena, static_cast<uint64_t>(count));
  size_t row_bytes_max = 0;
  for (int32_t i = 0; i < count; ++i) {
    const size_t row_bytes = dtype_row_bytes(tensors[i].dtype, tensors[i].cols);
    if (row_bytes > row_bytes_max) row_bytes_max = row_bytes;
  }
  weights->row = arena_alloc(arena, row_bytes_max);
  if (!weights->layers || !weights->slots || !weights->row) {
    return out_of_memory(*arena, row_bytes_max, detail);
  }
  const uint64_t used_before = arena->used;
  for (int32_t i = 0; i < count; ++i) {
    const TensorDesc& desc = tensors[i];
    TensorSlot& slot = weights->slots[i];
    slot.desc = desc;
    slot.file_bytes = static_cast<uint64_t>(desc.rows) * dtype_row_bytes(desc.dtype, desc.cols);
    // Also where a size_t has 32 bits: packing adds less than the file's size.
    if (slot.file_bytes > arena->limit || slot.file_bytes > SIZE_MAX / 2) {
      return out_of_memory(*arena, slot.file_bytes, detail);
    }
    const float** vector = vector_place(weights, desc);
    const uint64_t bytes = vector ? static_cast<uint64_t>(desc.cols) * sizeof(float)
                                  : kernels::packed_bytes(desc.dtype, desc.rows, desc.cols);
    uint8_t* memory = arena_alloc(arena, bytes);
    if (!memory) return out_of_memory(*arena, bytes, detail);
    if (vector) {
      slot.vector = reinterpret_cast<float*>(memory);
      *vector = slot.vector;
    } else {
      slot.matrix = matrix_place(weights, desc);
      *slot.matrix = {memory, desc.dtype, desc.rows, desc.cols, 0};
    }
  }
  if (config.tied_embeddings) weights->output = weights->embedding;
  weights->bytes = arena->used - used_before;
  weights->bytes_row = bytes_of_row(*weights, config);
  return Status::kOk;
}

Status weights_write(Weights* weights, const ModelConfig& config, int32_t index, uint64_t offset,
                     const uint8_t* data, int32_t bytes, ErrorDetail* detail) {
  if (index != weights->slot_next || index >= weights->slot_count || offset != weights->written) {
    const int64_t at = static_cast<int64_t>(offset);
    const int64_t next = static_cast<int64_t>(weights->written);
    return error_set(detail, Status::kWrongState, index, weights->slot_next,
                     "data came for tensor # at byte #, expected were tensor # and byte #",
                     {index, at, weights->slot_next, next});
  }
  const TensorSlot& slot = weights->slots[index];
  const uint64_t rest = slot.file_bytes - offset;
  if (bytes < 0 || static_cast<uint64_t>(bytes) > rest) {
    const int64_t left = static_cast<int64_t>(rest);
    return error_set(detail, Status::kInvalidArgument, bytes, left,
                     "# bytes came for tensor #, which has # left", {bytes, index, left});
  }
  const size_t row_bytes = dtype_row_bytes(slot.desc.dtype, slot.desc.cols);
  size_t count = static_cast<size_t>(bytes);
  while (count) {
    const int32_t row = static_cast<int32_t>(weights->written / row_bytes);
    const size_t have = static_cast<size_t>(weights->written % row_bytes);
    const size_t want = row_bytes - have;
    const size_t take = count < want ? count : want;
    if (take == row_bytes) {
      take_row(slot, config, row, data);
    } else {
      memcpy(weights->row + have, data, take);
      if (take == want) take_row(slot, config, row, weights->row);
    }
    weights->written += take;
    data += take;
    count -= take;
  }
  if (weights->written == slot.file_bytes) {
    ++weights->slot_next;
    weights->written = 0;
  }
  return Status::kOk;
}

}  // namespace leanedge
