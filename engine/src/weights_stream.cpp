// The data of a model's tensors come in chunks of any size: whole rows go on to where they are
// packed.
#include <string.h>

#include "dtype.h"
#include "error.h"
#include "leanedge/half.h"
#include "weights.h"

namespace leanedge {
namespace {

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

// Takes whole rows of a tensor; a vector is one row.
void take_rows(const TensorSlot& slot, const ModelConfig& config, int32_t row, int32_t count,
               const uint8_t* data) {
  if (!slot.vector) {
    weights_take_rows(slot, config, row, count, data);
    return;
  }
  for (int32_t i = 0; i < slot.desc.cols; ++i) {
    slot.vector[rotated_row(config, slot.desc.role, i)] = vector_element(slot.desc.dtype, data, i);
  }
}

}  // namespace

const float** weights_vector(Weights* weights, const TensorDesc& tensor) {
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

int32_t rotated_row(const ModelConfig& config, TensorRole role, int32_t row) {
  const bool rotates = role == TensorRole::kAttnQ || role == TensorRole::kAttnK ||
                       role == TensorRole::kAttnQBias || role == TensorRole::kAttnKBias ||
                       role == TensorRole::kAttnQNorm || role == TensorRole::kAttnKNorm;
  if (!rotates || config.rope_order != RopeOrder::kInterleaved) return row;
  const int32_t channel = row % config.head_dim;
  if (channel >= config.rope_dim) return row;
  return row - channel + channel / 2 + (channel % 2 ? config.rope_dim / 2 : 0);
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
    size_t take = count < want ? count : want;
    if (take == row_bytes) {
      const int32_t rows = static_cast<int32_t>(count / row_bytes);
      take_rows(slot, config, row, rows, data);
      take = static_cast<size_t>(rows) * row_bytes;
    } else {
      memcpy(weights->row + have, data, take);
      if (take == want) take_rows(slot, config, row, 1, weights->row);
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
