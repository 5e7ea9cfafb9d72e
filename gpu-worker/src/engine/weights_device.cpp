// Weights go to the device as the file has them, a piece at a time through pinned memory, and are packed
// there (leanedge_cuda/matrix.h).
#include <string.h>

#include "api_state.h"
#include "device.h"
#include "dtype.h"
#include "error.h"
#include "tensor_role.h"
#include "weights.h"
#include "weights_stage.h"

namespace leanedge {

using cuda::device;
using cuda::DeviceLayer;
using cuda::Matrix;
using cuda::MatrixForm;
using cuda::MatrixPart;

namespace {

constexpr int32_t kFormFp8 = 1;  // EngineOptions::weight_form

// The matrix that a tensor is a part of.
Matrix* matrix_of(const TensorDesc& tensor) {
  cuda::DeviceWeights& weights = device.weights;
  switch (tensor.role) {
    case TensorRole::kTokenEmbedding: return &weights.embedding;
    case TensorRole::kOutput: return &weights.output;
    case TensorRole::kAttnQ:
    case TensorRole::kAttnK:
    case TensorRole::kAttnV: return &weights.layers[tensor.layer].qkv;
    case TensorRole::kAttnOutput: return &weights.layers[tensor.layer].o;
    case TensorRole::kFfnGate:
    case TensorRole::kFfnUp: return &weights.layers[tensor.layer].gate_up;
    case TensorRole::kFfnDown: return &weights.layers[tensor.layer].down;
    default: return nullptr;
  }
}

bool is_16_bit(MatrixForm form) { return form == MatrixForm::kBf16 || form == MatrixForm::kF16; }

// The form that keeps a tensor's values; the token embedding is looked up, never FP8.
MatrixForm form_of(const TensorDesc& tensor, int32_t weight_form) {
  const bool fp8 = weight_form == kFormFp8 && tensor.role != TensorRole::kTokenEmbedding;
  switch (tensor.dtype) {
    case Dtype::kF16: return fp8 ? MatrixForm::kFp8 : MatrixForm::kF16;
    case Dtype::kF32:
    case Dtype::kBF16: return fp8 ? MatrixForm::kFp8 : MatrixForm::kBf16;
    case Dtype::kQ4_0: return MatrixForm::kInt4;
    case Dtype::kQ4_1:
    case Dtype::kQ8_0: return MatrixForm::kInt8;
  }
  return MatrixForm::kBf16;
}

// The form of a matrix whose parts have both forms: one that keeps what either can hold.
MatrixForm form_of_both(MatrixForm a, MatrixForm b) {
  if (a == b) return a;
  if (is_16_bit(a) || is_16_bit(b)) return MatrixForm::kBf16;
  if (a == MatrixForm::kFp8 || b == MatrixForm::kFp8) return MatrixForm::kBf16;
  return MatrixForm::kInt8;
}

// Enters a tensor's form and shape into its matrix. `reserved` counts the parts.
void add_part(const TensorDesc& tensor, int32_t weight_form) {
  Matrix* matrix = matrix_of(tensor);
  if (!matrix) return;
  const MatrixForm form = form_of(tensor, weight_form);
  matrix->form = matrix->reserved ? form_of_both(matrix->form, form) : form;
  matrix->rows += tensor.rows;
  matrix->cols = tensor.cols;
  ++matrix->reserved;
}

Status no_device_memory(uint64_t bytes, ErrorDetail* detail) {
  const int64_t needed = static_cast<int64_t>(device.memory.used + bytes);
  const int64_t limit = static_cast<int64_t>(device.memory.bytes);
  return error_set(detail, Status::kOutOfMemory, needed, limit,
                   "weights need at least # bytes of device memory, the engine may have #",
                   {needed, limit});
}

// Takes memory for a matrix whose first part comes by; `reserved` becomes 0.
Status place_matrix(Matrix* matrix, ErrorDetail* detail) {
  if (matrix->reserved == 0) return Status::kOk;
  matrix->reserved = 0;
  const size_t bytes = cuda::matrix_bytes(matrix->form, matrix->rows, matrix->cols);
  if (bytes == 0) {
    return error_set(detail, Status::kUnimplemented, matrix->rows, matrix->cols,
                     "a matrix of # rows and # columns is not served on this device (form #)",
                     {matrix->rows, matrix->cols, static_cast<int32_t>(matrix->form)});
  }
  matrix->data = cuda::device_alloc_unwritten(&device.memory, bytes);
  if (!matrix->data) return no_device_memory(bytes, detail);
  return cuda::matrix_clear_launch(*matrix, device.stream, detail);
}

uint64_t bytes_of(const Matrix& matrix) {
  return cuda::matrix_bytes(matrix.form, matrix.rows, matrix.cols);
}

// Bytes of weights that one decoded row reads: every matrix once, one row of the embedding.
uint64_t bytes_of_row(const ModelConfig& config) {
  const cuda::DeviceWeights& w = device.weights;
  uint64_t bytes = bytes_of(w.output) + static_cast<uint64_t>(config.dim) * 2;
  for (int32_t i = 0; i < config.layers; ++i) {
    const DeviceLayer& layer = w.layers[i];
    bytes += bytes_of(layer.qkv) + bytes_of(layer.o) + bytes_of(layer.gate_up) +
             bytes_of(layer.down) + 2 * static_cast<uint64_t>(config.dim) * sizeof(float);
  }
  return bytes;
}

// Where the rows of a tensor go in its matrix.
MatrixPart part_of(const TensorSlot& slot, const ModelConfig& config) {
  MatrixPart part = {};
  part.dtype = slot.desc.dtype;
  part.to_step = 1;
  part.head_dim = config.head_dim;
  const TensorRole role = slot.desc.role;
  if (role == TensorRole::kAttnK) part.to_row = config.heads * config.head_dim;
  if (role == TensorRole::kAttnV) {
    part.to_row = (config.heads + config.kv_heads) * config.head_dim;
  }
  if (role == TensorRole::kFfnGate || role == TensorRole::kFfnUp) part.to_step = 2;
  if (role == TensorRole::kFfnUp) part.to_row = 1;
  const bool rotates = role == TensorRole::kAttnQ || role == TensorRole::kAttnK;
  if (rotates && config.rope_order == RopeOrder::kInterleaved) part.rope_dim = config.rope_dim;
  return part;
}

}  // namespace

const int32_t kWeightForms = 2;

Status weights_reserve(Weights* weights, Arena* arena, const ModelConfig& config,
                       const TensorDesc* tensors, int32_t count, ErrorDetail* detail) {
  const Status opened = cuda::device_open(engine.options.memory_bytes_max, detail);
  if (opened != Status::kOk) return opened;
  *weights = Weights{};
  weights->slot_count = count;
  weights->layers = arena_array<LayerWeights>(arena, static_cast<uint64_t>(config.layers));
  weights->slots = arena_array<TensorSlot>(arena, static_cast<uint64_t>(count));
  device.weights.layers = arena_array<DeviceLayer>(arena, static_cast<uint64_t>(config.layers));
  size_t row_bytes_max = 0;
  for (int32_t i = 0; i < count; ++i) {
    const size_t row_bytes = dtype_row_bytes(tensors[i].dtype, tensors[i].cols);
    if (row_bytes > row_bytes_max) row_bytes_max = row_bytes;
  }
  weights->row = arena_alloc(arena, row_bytes_max);
  if (!weights->layers || !weights->slots || !weights->row || !device.weights.layers) {
    return no_device_memory(row_bytes_max, detail);
  }
  for (int32_t i = 0; i < count; ++i) add_part(tensors[i], engine.options.weight_form);
  for (int32_t i = 0; i < count; ++i) {
    TensorSlot& slot = weights->slots[i];
    slot.desc = tensors[i];
    slot.file_bytes = static_cast<uint64_t>(tensors[i].rows) *
                      dtype_row_bytes(tensors[i].dtype, tensors[i].cols);
    if (Matrix* matrix = matrix_of(tensors[i])) {
      const Status placed = place_matrix(matrix, detail);
      if (placed != Status::kOk) return placed;
      continue;
    }
    slot.vector = arena_array<float>(arena, static_cast<uint64_t>(tensors[i].cols));
    if (!slot.vector) return no_device_memory(static_cast<uint64_t>(tensors[i].cols) * 4, detail);
    *weights_vector(weights, tensors[i]) = slot.vector;
  }
  if (config.tied_embeddings) device.weights.output = device.weights.embedding;
  weights->bytes = device.memory.used;
  weights->bytes_row = bytes_of_row(config);
  const uint64_t stage_rows = static_cast<uint64_t>(config.head_dim);
  if (!cuda::stage_open(&device.memory, stage_rows * row_bytes_max)) {
    return no_device_memory(2 * stage_rows * row_bytes_max, detail);
  }
  return Status::kOk;
}

void weights_take_rows(const TensorSlot& slot, const ModelConfig& config, int32_t row,
                       int32_t count, const uint8_t* data) {
  const uint64_t row_bytes = dtype_row_bytes(slot.desc.dtype, slot.desc.cols);
  const MatrixPart part = part_of(slot, config);
  cuda::stage_rows(*matrix_of(slot.desc), part, row_bytes, row, count, slot.desc.rows, data);
}

}  // namespace leanedge
