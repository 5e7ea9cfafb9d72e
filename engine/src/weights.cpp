#include "weights.h"

#include "dtype.h"
#include "error.h"
#include "tensor_role.h"

namespace leanedge {
namespace {

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

const int32_t kWeightForms = 1;

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
    const float** vector = weights_vector(weights, desc);
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

void weights_take_rows(const TensorSlot& slot, const ModelConfig& config, int32_t row,
                       int32_t count, const uint8_t* data) {
  const size_t row_bytes = dtype_row_bytes(slot.desc.dtype, slot.desc.cols);
  for (int32_t i = 0; i < count; ++i, data += row_bytes) {
    kernels::pack_row(*slot.matrix, rotated_row(config, slot.desc.role, row + i), data);
  }
}

}  // namespace leanedge
