// A model as the engine sees it: hyper-parameters and a table of tensors. TypeScript reads the
// file's header, checks it, and writes both structs into the engine's memory; the engine checks
// shapes again before it trusts them.
#pragma once

#include <stdint.h>

namespace leanedge {

inline constexpr int32_t kLayersMax = 256;
inline constexpr int32_t kHeadDimMax = 256;
inline constexpr int32_t kDimMax = 65536;
inline constexpr int32_t kVocabMax = 1 << 20;
inline constexpr int32_t kContextMax = 1 << 20;

enum class Architecture : int32_t { kLlama = 0, kQwen2 = 1, kQwen3 = 2 };

// Numbers are ggml's type ids, so that a file's types need no table.
enum class Dtype : int32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,   // 32 weights: f16 scale, 16 bytes of nibbles; w = d * (q - 8)
  kQ4_1 = 3,   // 32 weights: f16 scale, f16 min, 16 bytes; w = d * q + m
  kQ8_0 = 8,   // 32 weights: f16 scale, 32 int8; w = d * q
  kBF16 = 30,
};

enum class RopeScaling : int32_t { kNone = 0, kLinear = 1, kYarn = 2 };

// How Q and K rows of a file are ordered. Inside the engine channels are ALWAYS in half-rotation
// order (channel i turns with i + rope_dim / 2): rows of interleaved files are reordered while
// they are loaded, which is exact and costs nothing later. Plans, caches, pages and snapshots
// hence know one order only.
enum class RopeOrder : int32_t { kHalf = 0, kInterleaved = 1 };

struct ModelConfig {
  Architecture architecture;
  int32_t layers;             // 1 .. kLayersMax
  int32_t dim;                // hidden size, multiple of 4
  int32_t ff_dim;             // feed-forward size, multiple of 4
  int32_t heads;              // query heads, a multiple of kv_heads
  int32_t kv_heads;
  int32_t head_dim;           // even, 2 .. kHeadDimMax
  int32_t vocab_size;         // 1 .. kVocabMax
  int32_t context_tokens_max; // window, 1 .. kContextMax
  int32_t rope_dim;           // channels that rotate, even, <= head_dim; the rest pass through
  RopeOrder rope_order;       // order in the file
  RopeScaling rope_scaling;
  float rms_eps;
  float rope_base;
  float rope_scale;           // linear and YaRN: positions are divided by this (>= 1); else 1
  float yarn_original_context; // YaRN: window before stretching, tokens
  float yarn_beta_fast;       // YaRN: 32 by default
  float yarn_beta_slow;       // YaRN: 1 by default
  float yarn_attention_factor; // multiplies cos and sin; computed by TypeScript as llama.cpp does
  int32_t tied_embeddings;    // 1: the output matrix is the token embedding
  int32_t qkv_bias;           // 1: attn_q, attn_k, attn_v have biases (Qwen2)
  int32_t qk_norm;            // 1: RMS norm per head on Q and K before RoPE (Qwen3)
  int32_t rope_factors;       // 1: a rope_freqs tensor divides the frequencies (Llama 3)
  int32_t reserved;           // 0
};
static_assert(sizeof(ModelConfig) == 96, "ModelConfig is written by TypeScript at fixed offsets");

enum class TensorRole : int32_t {
  kTokenEmbedding = 0,  // (vocab_size, dim)
  kOutput = 1,          // (vocab_size, dim); absent when tied
  kOutputNorm = 2,      // (dim), F32
  kRopeFactors = 3,     // (rope_dim / 2), F32
  kAttnNorm = 16,       // (dim), F32; from here on one a layer
  kAttnQ = 17,          // (heads * head_dim, dim)
  kAttnK = 18,          // (kv_heads * head_dim, dim)
  kAttnV = 19,          // (kv_heads * head_dim, dim)
  kAttnOutput = 20,     // (dim, heads * head_dim)
  kAttnQBias = 21,      // (heads * head_dim), F32
  kAttnKBias = 22,      // (kv_heads * head_dim), F32
  kAttnVBias = 23,      // (kv_heads * head_dim), F32
  kAttnQNorm = 24,      // (head_dim), F32
  kAttnKNorm = 25,      // (head_dim), F32
  kFfnNorm = 26,        // (dim), F32
  kFfnGate = 27,        // (ff_dim, dim)
  kFfnUp = 28,          // (ff_dim, dim)
  kFfnDown = 29,        // (dim, ff_dim)
};

// One tensor of the file. Shapes are in rows of contiguous columns: a GGUF shape [cols, rows].
struct TensorDesc {
  TensorRole role;
  int32_t layer;   // -1 for tensors outside layers
  Dtype dtype;     // vectors (norms, biases, factors) may be F32, F16 or BF16
  int32_t rows;    // 1 for vectors
  int32_t cols;    // multiple of 32 for block dtypes
  int32_t reserved;
};
static_assert(sizeof(TensorDesc) == 24, "TensorDesc is written by TypeScript at fixed offsets");

}  // namespace leanedge
