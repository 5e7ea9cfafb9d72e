// The model's weights: which tensors there must be, where they lie, how they stream in.
#pragma once

#include "arena.h"
#include "leanedge/engine.h"
#include "leanedge/kernels.h"

namespace leanedge {

// Weights of one layer. Vectors are f32, whatever the file has; null where the model has none.
struct LayerWeights {
  const float* attn_norm;      // (dim)
  const float* ffn_norm;       // (dim)
  const float* q_bias;         // (heads * head_dim), half-rotation order
  const float* k_bias;         // (kv_heads * head_dim), half-rotation order
  const float* v_bias;         // (kv_heads * head_dim)
  const float* q_norm;         // (head_dim), half-rotation order
  const float* k_norm;         // (head_dim), half-rotation order
  kernels::PackedMatrix q;     // (heads * head_dim, dim), rows in half-rotation order
  kernels::PackedMatrix k;     // (kv_heads * head_dim, dim), rows in half-rotation order
  kernels::PackedMatrix v;     // (kv_heads * head_dim, dim)
  kernels::PackedMatrix o;     // (dim, heads * head_dim)
  kernels::PackedMatrix gate;  // (ff_dim, dim)
  kernels::PackedMatrix up;    // (ff_dim, dim)
  kernels::PackedMatrix down;  // (dim, ff_dim)
};

// Forms of EngineOptions::weight_form that the backend knows.
extern const int32_t kWeightForms;

// Where one tensor of the file goes. One of `matrix` and `vector` is set.
struct TensorSlot {
  TensorDesc desc;
  kernels::PackedMatrix* matrix;
  float* vector;        // (desc.cols)
  uint64_t file_bytes;  // of the tensor in the file
};

struct Weights {
  LayerWeights* layers;             // (layers)
  kernels::PackedMatrix embedding;  // (vocab_size, dim)
  kernels::PackedMatrix output;     // (vocab_size, dim); the embedding where tied
  const float* output_norm;         // (dim)
  const float* rope_factors;        // (rope_dim / 2); null: none
  TensorSlot* slots;                // (slot_count), in the order in which data come
  int32_t slot_count;
  int32_t slot_next;   // tensor that data come for now; slot_count: all are here
  uint64_t written;    // bytes of it so far
  uint8_t* row;        // (longest row of the file) a row that chunks have split
  uint64_t bytes;      // all weights as laid out
  uint64_t bytes_row;  // weights that one decoded row reads
};

// Checks the table against the config: every tensor that the model needs exactly once, none else,
// right shapes and types. kInvalidModel otherwise.
Status weights_check(const ModelConfig& config, const TensorDesc* tensors, int32_t count,
                     ErrorDetail* detail);
// Where the vector of a tensor's role is kept; null for matrices.
const float** weights_vector(Weights* weights, const TensorDesc& tensor);
// Where row (or, of a vector, element) `row` of a file's tensor goes. Interleaved files have
// channels 2i and 2i + 1 of a head of Q and K where the engine has i and i + rope_dim / 2.
int32_t rotated_row(const ModelConfig& config, TensorRole role, int32_t row);
// Lays out a checked table; kOutOfMemory if it does not fit.
Status weights_reserve(Weights* weights, Arena* arena, const ModelConfig& config,
                       const TensorDesc* tensors, int32_t count, ErrorDetail* detail);
// Takes the next chunk (see le_weights_write).
Status weights_write(Weights* weights, const ModelConfig& config, int32_t index, uint64_t offset,
                     const uint8_t* data, int32_t bytes, ErrorDetail* detail);

// Takes rows [row, row + count) of the file's tensor, a matrix, whole. A CPU links weights.cpp for
// this and for weights_reserve.
void weights_take_rows(const TensorSlot& slot, const ModelConfig& config, int32_t row,
                       int32_t count, const uint8_t* data);

}  // namespace leanedge
