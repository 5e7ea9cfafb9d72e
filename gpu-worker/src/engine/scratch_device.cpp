// Device memory of a running engine beside weights and cache (engine/src/scratch.h).
#include "scratch.h"

#include <string.h>

#include "device.h"
#include "error.h"
#include "leanedge_cuda/page_selection.h"
#include "leanedge_cuda/prefill_attention.h"
#include "pass_tables.h"
#include "plans_device.h"
#include "weights_stage.h"

namespace leanedge {

using cuda::device;

namespace {

int32_t max_i32(int32_t a, int32_t b) { return a > b ? a : b; }

template <class T>
bool place(T** out, uint64_t count) {
  *out = reinterpret_cast<T*>(
      cuda::device_alloc(&device.memory, count * sizeof(T), device.stream));
  return *out != nullptr;
}

// Pinned memory of the host, which device_close() frees.
template <class T>
bool pin(T** out, uint64_t count) {
  void* host = nullptr;
  if (cudaMallocHost(&host, count * sizeof(T)) != cudaSuccess) return false;
  *out = static_cast<T*>(host);
  return true;
}

// Copies `count` values of the host to the device; null in, null out.
template <class T>
bool upload(const T** out, const T* values, uint64_t count) {
  *out = nullptr;
  if (!values) return true;
  T* to = nullptr;
  if (!place(&to, count)) return false;
  *out = to;
  cuda::device_check(
      cudaMemcpyAsync(to, values, count * sizeof(T), cudaMemcpyHostToDevice, device.stream));
  return true;
}

// The biases of Q, K and V, one behind the other.
bool upload_bias(const LayerWeights& from, const ModelConfig& c, Arena* arena, const float** out) {
  *out = nullptr;
  if (!from.q_bias) return true;
  const uint64_t q_dim = static_cast<uint64_t>(c.heads) * static_cast<uint64_t>(c.head_dim);
  const uint64_t kv_dim = static_cast<uint64_t>(c.kv_heads) * static_cast<uint64_t>(c.head_dim);
  float* all = arena_array<float>(arena, q_dim + 2 * kv_dim);
  if (!all) return false;
  memcpy(all, from.q_bias, q_dim * sizeof(float));
  memcpy(all + q_dim, from.k_bias, kv_dim * sizeof(float));
  memcpy(all + q_dim + kv_dim, from.v_bias, kv_dim * sizeof(float));
  return upload(out, all, q_dim + 2 * kv_dim);
}

bool upload_vectors(Engine* e) {
  const ModelConfig& c = e->config;
  const uint64_t dim = static_cast<uint64_t>(c.dim);
  const uint64_t head_dim = static_cast<uint64_t>(c.head_dim);
  for (int32_t l = 0; l < c.layers; ++l) {
    const LayerWeights& from = e->weights.layers[l];
    cuda::DeviceLayer& to = device.weights.layers[l];
    if (!upload(&to.attn_norm, from.attn_norm, dim) || !upload(&to.ffn_norm, from.ffn_norm, dim) ||
        !upload(&to.q_norm, from.q_norm, head_dim) || !upload(&to.k_norm, from.k_norm, head_dim) ||
        !upload_bias(from, c, &e->arena, &to.qkv_bias)) {
      return false;
    }
  }
  return upload(&device.weights.output_norm, e->weights.output_norm, dim) &&
         upload(&device.weights.frequency, e->rope.frequency,
                static_cast<uint64_t>(e->rope.pairs));
}

// Entries of a row's list of chosen pages, and whether a plan selects at all.
int32_t chosen_pitch(const Engine& e) {
  int32_t most = 0;
  for (int32_t i = 0; i < e.pool.plan_count; ++i) {
    const CachePlan& plan = *e.pool.plans[i].plan;
    if (plan_selects(plan)) most = max_i32(most, cuda::selected_pages_max(plan));
  }
  return most;
}

bool place_selection(Engine* e, int32_t pages_max) {
  cuda::DeviceScratch& s = device.scratch;
  s.chosen_pitch = chosen_pitch(*e);
  if (s.chosen_pitch == 0) return true;
  const uint64_t kv_heads = static_cast<uint64_t>(e->config.kv_heads);
  return place(&s.selection, cuda::page_selection_scratch_bytes(cuda::kDecodeRowsMax,
                                                                e->config.kv_heads, pages_max)) &&
         place(&s.chosen,
               cuda::kDecodeRowsMax * kv_heads * static_cast<uint64_t>(s.chosen_pitch));
}

bool place_pass(Engine* e, int32_t pages_max) {
  const ModelConfig& c = e->config;
  cuda::DeviceScratch& s = device.scratch;
  s.rows = max_i32(e->options.batch_rows_max, cuda::kDecodeRowsMax);
  s.pages_max = pages_max;
  const uint64_t rows = static_cast<uint64_t>(s.rows);
  const uint64_t dim = static_cast<uint64_t>(c.dim);
  const uint64_t q_dim = static_cast<uint64_t>(c.heads) * static_cast<uint64_t>(c.head_dim);
  const uint64_t kv_dim = static_cast<uint64_t>(c.kv_heads) * static_cast<uint64_t>(c.head_dim);
  const uint64_t few = cuda::kDecodeRowsMax;
  const uint64_t qkv_values = (q_dim + 2 * kv_dim) * (rows > 2 * few ? rows : 2 * few);
  uint16_t* qkv = nullptr;
  const bool placed =
      place(&s.x, rows * dim) && place(&s.last, few * dim) && place(&s.normed, rows * dim) &&
      place(&qkv, qkv_values) && place(&s.q_f32, few * q_dim) && place(&s.q_f16, rows * q_dim) &&
      place(&s.attended_last, few * q_dim) && place(&s.attended, rows * q_dim) &&
      place(&s.hidden, rows * static_cast<uint64_t>(c.ff_dim)) &&
      place(&s.k_dense, rows * kv_dim) && place(&s.v_dense, rows * kv_dim) &&
      place(&s.angles, rows * static_cast<uint64_t>(e->rope.pairs)) && place(&s.bad_rows, rows) &&
      place(&s.decode,
            cuda::decode_scratch_bytes(cuda::kDecodeRowsMax, c.kv_heads, c.head_dim)) &&
      place(&s.prefill, cuda::prefill_scratch_bytes(c.head_dim)) && place_selection(e, pages_max);
  s.qkv = qkv;
  return placed;
}

bool place_sampling(Engine* e) {
  int32_t rows = cuda::kDecodeRowsMax;
  if (rows > e->options.sequences_max) rows = e->options.sequences_max;
  if (rows > e->options.batch_rows_max) rows = e->options.batch_rows_max;
  e->logits_rows = rows;
  e->logits_next = 0;
  const uint64_t vocab = static_cast<uint64_t>(e->config.vocab_size);
  const uint64_t sequences = static_cast<uint64_t>(e->options.sequences_max);
  const uint64_t logits_rows =
      static_cast<uint64_t>(cuda::kBuckets[cuda::bucket_of(rows)]);
  if (!place(&device.scratch.logits, logits_rows * vocab) ||
      !place(&device.scratch.kept_logits, static_cast<uint64_t>(rows) * vocab) ||
      !place(&device.scratch.drawn, cuda::kSampleRowsMax) ||
      !place(&device.bad_sequences, sequences) || !place(&device.bad_pages, 1) ||
      !pin(&device.drawn_host, cuda::kSampleRowsMax) || !pin(&device.logits_host, vocab) ||
      !pin(&device.bad_sequences_host, sequences)) {
    return false;
  }
  memset(device.bad_sequences_host, 0, sequences * sizeof(uint32_t));
  return true;
}

// Why something was not placed: a device that is gone gives no memory either.
Status not_placed(Engine* e) {
  const cudaError_t last = cudaGetLastError();
  if (last != cudaSuccess && last != cudaErrorMemoryAllocation) {
    return cuda::cuda_failed(&e->error, last, "placing scratch memory");
  }
  const int64_t limit = static_cast<int64_t>(device.memory.bytes);
  const int64_t used = static_cast<int64_t>(device.memory.used);
  return error_set(&e->error, Status::kOutOfMemory, used, limit,
                   "scratch memory does not fit: # bytes are in use on the device, of #",
                   {used, limit});
}

}  // namespace

Status scratch_place(Engine* e, int32_t pages_max) {
  if (e->config.rope_dim > e->config.head_dim || e->config.vocab_size > cuda::kSampleVocabMax) {
    return cuda::refuse(&e->error, "a vocabulary of # tokens, at most #", e->config.vocab_size,
                        cuda::kSampleVocabMax);
  }
  cuda::stage_close();
  if (device.lost != cudaSuccess) {
    if (device.error.status == Status::kOk) {
      return cuda::cuda_failed(&e->error, device.lost, "packing weights");
    }
    e->error = device.error;
    return device.error.status;
  }
  uint8_t* products = nullptr;
  if (!upload_vectors(e) || !place_pass(e, pages_max) || !place_sampling(e) ||
      !place(&products, cuda::matrix_context_bytes()) ||
      !cuda::upload_open(&device.ring, &device.memory, cuda::tables_bytes_max(*e, pages_max)) ||
      !cuda::graphs_open(&device.graphs, *e, &device.memory)) {
    return not_placed(e);
  }
  const Status matrix = cuda::matrix_context_create(
      products, device.claim != cuda::kNoClaim, device.stream, &device.matrix, &e->error);
  if (matrix != Status::kOk) return matrix;
  const Status plans = cuda::plans_place(e);
  if (plans != Status::kOk) return plans;
  LEANEDGE_CUDA_TRY(cudaStreamSynchronize(device.stream), &e->error);
  return Status::kOk;
}

}  // namespace leanedge
