// The device's side of the one engine of a process: what lies in its memory, and the stream that all of
// it is computed on. The host's side is engine/src/engine_state.h.
#pragma once

#include <cuda_runtime_api.h>

#include "../cuda_status.h"
#include "decode_graphs.h"
#include "device_claim.h"
#include "device_memory.h"
#include "engine_state.h"
#include "leanedge_cuda/decode_attention.h"
#include "leanedge_cuda/matrix.h"
#include "leanedge_cuda/rows.h"
#include "leanedge_cuda/sampling.h"
#include "upload_ring.h"

namespace leanedge::cuda {

// Rows that one pass decodes through a graph at most; also draws of one launch.
inline constexpr int32_t kDecodeRowsMax = kSampleRowsMax;

// Weights of one layer. Vectors are f32; null where the model has none.
struct DeviceLayer {
  Matrix qkv;            // ((heads + 2 kv_heads) head_dim, dim): q, k, v one below the other
  Matrix o;              // (dim, heads * head_dim)
  Matrix gate_up;        // (2 ff_dim, dim): rows of gate and up in turns
  Matrix down;           // (dim, ff_dim)
  const float* attn_norm;  // (dim)
  const float* ffn_norm;   // (dim)
  const float* qkv_bias;   // ((heads + 2 kv_heads) head_dim)
  const float* q_norm;     // (head_dim)
  const float* k_norm;     // (head_dim)
};

struct DeviceWeights {
  DeviceLayer* layers;   // (layers)
  Matrix embedding;      // (vocab_size, dim)
  Matrix output;         // (vocab_size, dim); the embedding where tied
  const float* output_norm;  // (dim)
  const double* frequency;   // (rope_dim / 2)
};

// A plan as kernels want it. Blocks of the heap are numbered by their distance from its base in units of
// kHeapAlign, so that pages need no arenas of their own.
struct DevicePlan {
  DecodeLayer* layers;         // (layers), on the host
  const uint16_t* channels;    // of all layers
  const CachePlan* block;      // the plan, whose PageLayer::bytes are kHeapAlign: page_flush's pitch
  const CachePlan** layer_blocks;  // (layers), on the host: plans of one layer each, likewise
  CachePlan head;              // the plan's header, of one layer: what a launch looks at
  uint8_t* const* arenas;      // (layers), in device memory: where block 0 has each layer
  size_t zone_layer;           // f16 values from one layer of a region to the next
};

// Buffers of one pass; B = batch_rows_max, but at least kDecodeRowsMax rows.
struct DeviceScratch {
  float* x;            // (B, dim) the residual stream
  float* last;         // (kDecodeRowsMax, dim) what the last layer gave for the rows that may be drawn from
  uint16_t* normed;    // (B, dim) bf16
  void* qkv;           // (B, (heads + 2 kv_heads) head_dim) bf16, or f32 of kDecodeRowsMax rows
  float* q_f32;        // (kDecodeRowsMax, heads * head_dim)
  uint16_t* q_f16;     // (B, heads * head_dim)
  uint16_t* attended;  // (B, heads * head_dim) bf16
  uint16_t* attended_last;  // (kDecodeRowsMax, heads * head_dim) bf16
  uint16_t* hidden;    // (B, ff_dim) bf16
  uint16_t* k_dense;   // (B, kv_heads, head_dim) f16, by run
  uint16_t* v_dense;   // (B, kv_heads, head_dim) f16, by run
  float2* angles;      // (B, rope_dim / 2)
  uint32_t* bad_rows;  // (B) set where K or V are not finite; zero between passes
  uint8_t* decode;     // decode_scratch_bytes
  uint8_t* prefill;    // prefill_scratch_bytes
  uint8_t* selection;  // page_selection_scratch_bytes; null where no plan selects
  uint32_t* chosen;    // (kDecodeRowsMax, kv_heads, chosen_pitch)
  float* logits;       // (logits_rows up to a bucket, vocab_size) of the drawing under way
  float* kept_logits;  // (logits_rows, vocab_size) for le_logits
  SampleOut* drawn;    // (kSampleRowsMax)
  int32_t rows;        // B
  int32_t chosen_pitch;
  int32_t pages_max;
};

struct Device {
  int32_t claim = kNoClaim;  // kernels whose blocks wait for each other (device_claim.h)
  cudaStream_t stream;
  DeviceMemory memory;
  DeviceWeights weights;
  DevicePlan plans[kPlansMax];
  DeviceScratch scratch;
  MatrixContext* matrix;
  UploadRing ring;
  DecodeGraphs graphs;
  uint32_t* bad_sequences;       // (sequences_max) in device memory: 1 where K or V were not finite
  uint32_t* bad_sequences_host;  // (sequences_max) pinned: what the last wait found
  uint32_t* bad_pages;           // counts head blocks that page_flush refused
  float* logits_host;            // (vocab_size) pinned
  SampleOut* drawn_host;         // (kSampleRowsMax) pinned
  const float* drawn_from;       // rows of the residual stream that the pass left: scratch.x or last
  cudaError_t lost;              // the first error of a launch or copy since the step began
  ErrorDetail error;             // what the first failing launch of a step said
  cudaEvent_t drawn;             // the drawing's results and the flags of its passes are on the host
  int32_t waiting;               // 1: kernels were launched that pass_wait has not waited for
};

extern Device device;

// Starts the device's side of a new engine: frees what an earlier one had, takes `bytes` bytes of device
// memory, or fewer where fewer are free. kDeviceLost where there is no device, kOutOfMemory.
Status device_open(uint64_t bytes, ErrorDetail* detail);

// Frees all that an engine has on the device, lost or not; no kernel of it runs afterwards.
void device_close();

// Keeps the first error of a step. Launches go on after one: nothing that they give is used.
inline void device_check(cudaError_t error) {
  if (device.lost == cudaSuccess) device.lost = error;
}
// The same for launches that return a Status.
inline void device_check(Status status) {
  if (status != Status::kOk && device.lost == cudaSuccess) device.lost = cudaErrorLaunchFailure;
}

// Launches the page flush that a pass has left for later (pass_device.cpp).
void pages_flush();
// Forgets it: the engine whose pages they are is gone.
void flush_forget();
// Copies bad_sequences to the host, on the stream.
void flags_read(const Engine& engine);

// Where a heap block begins, as page tables name it.
inline uint32_t block_number(const CacheHeap& heap, int32_t block) {
  return static_cast<uint32_t>(heap.blocks[block].offset / kHeapAlign);
}

}  // namespace leanedge::cuda
