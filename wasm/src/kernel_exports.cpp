// Single operations of the kernel contract for the conformance suite (src/engine/conformance): the
// suite drives both modules through these. They share the engine's memory range, so an instance
// serves either the suite or an engine.
#include "leanedge/kernels.h"
#include "leanedge/page.h"
#include "platform.h"

using leanedge::Dtype;
using namespace leanedge::kernels;

namespace {

constexpr uint32_t kTestAlign = 64;

uint64_t used;

PackedMatrix matrix_of(int32_t dtype, int32_t rows, int32_t cols, uint8_t* data) {
  return {data, static_cast<Dtype>(dtype), rows, cols, 0};
}

}  // namespace

extern "C" {

// Takes `bytes` bytes from the range, 64-byte aligned; null if the host refuses.
uint8_t* lek_alloc(uint32_t bytes) {
  const uint64_t begin = (used + kTestAlign - 1) / kTestAlign * kTestAlign;
  uint8_t* base = leanedge::platform_reserve(begin + bytes);
  if (!base) return nullptr;
  used = begin + bytes;
  return base + begin;
}

// Gives all of it back.
void lek_reset(void) { used = 0; }

uint32_t lek_packed_bytes(int32_t dtype, int32_t rows, int32_t cols) {
  return static_cast<uint32_t>(packed_bytes(static_cast<Dtype>(dtype), rows, cols));
}

void lek_pack_row(int32_t dtype, int32_t rows, int32_t cols, uint8_t* data, int32_t row,
                  const uint8_t* src) {
  pack_row(matrix_of(dtype, rows, cols, data), row, src);
}

void lek_unpack_row(int32_t dtype, int32_t rows, int32_t cols, uint8_t* data, int32_t row,
                    float* out) {
  unpack_row(matrix_of(dtype, rows, cols, data), row, out);
}

uint32_t lek_activations_bytes(int32_t rows, int32_t cols) {
  return static_cast<uint32_t>(activations_bytes(rows, cols));
}

void lek_prepare_activations(const float* x, uint8_t* prepared, int32_t rows, int32_t cols) {
  Activations activations = {x, prepared, rows, cols};
  prepare_activations(leanedge::platform_context(), activations);
}

// y (x_rows, rows) from prepared x (x_rows, cols).
void lek_matmul(int32_t dtype, int32_t rows, int32_t cols, uint8_t* data, const float* x,
                uint8_t* prepared, int32_t x_rows, float* y) {
  const Activations activations = {x, prepared, x_rows, cols};
  matmul(leanedge::platform_context(), matrix_of(dtype, rows, cols, data), activations, y);
}

void lek_rmsnorm(const float* x, const float* weight, float eps, int32_t rows, int32_t dim,
                 float* y) {
  rmsnorm(leanedge::platform_context(), x, weight, eps, rows, dim, y);
}

void lek_add(float* x, const float* y, int32_t rows, int32_t dim) { add(leanedge::platform_context(), x, y, rows, dim); }

void lek_add_bias(float* x, const float* bias, int32_t rows, int32_t dim) {
  add_bias(leanedge::platform_context(), x, bias, rows, dim);
}

void lek_swiglu(float* gate, const float* up, int32_t rows, int32_t dim) {
  swiglu(leanedge::platform_context(), gate, up, rows, dim);
}

void lek_rope(float* x, const float* cos, const float* sin, int32_t rows, int32_t heads,
              int32_t head_dim, int32_t rope_dim) {
  rope(leanedge::platform_context(), x, cos, sin, rows, heads, head_dim, rope_dim);
}

void lek_to_f16(const float* x, uint32_t count, uint16_t* out) { to_f16(leanedge::platform_context(), x, count, out); }

uint32_t lek_plan_bytes(int32_t layers, int32_t kv_heads, uint32_t channels) {
  return static_cast<uint32_t>(leanedge::plan_bytes(layers, kv_heads, channels));
}

void lek_plan_identity(uint8_t* memory, int32_t layers, int32_t kv_heads, int32_t head_dim,
                       int32_t sink, int32_t recent) {
  leanedge::plan_identity_write(memory, layers, kv_heads, head_dim, sink, recent);
}

// Bytes of one layer's block of a page.
uint32_t lek_page_layer_bytes(const leanedge::CachePlan* plan, int32_t layer) {
  return leanedge::plan_layer(*plan, layer).bytes;
}

void lek_page_flush(const leanedge::CachePlan* plan, int32_t layer, const uint16_t* k,
                    const uint16_t* v, int32_t stride, int32_t row, uint8_t* page) {
  page_flush(leanedge::platform_context(), *plan, layer, plan->kv_heads, plan->head_dim, k, v, stride, row, page);
}

// page_pack_ref of one head of 32 slots; returns its Status.
int32_t lek_page_pack_ref(const leanedge::CachePlan* plan, int32_t layer, int32_t head,
                          const uint16_t* k, const uint16_t* v, uint32_t row_stride,
                          uint8_t* block) {
  return static_cast<int32_t>(leanedge::page_pack_ref(*plan, layer, head, k, v, row_stride,
                                                      leanedge::kPageSlots, nullptr, block,
                                                      nullptr));
}

uint32_t lek_attention_scratch_bytes(int32_t rows_max, int32_t heads, int32_t head_dim,
                                     int32_t pages_max) {
  return static_cast<uint32_t>(attention_scratch_bytes(rows_max, heads, head_dim, pages_max));
}

// `tasks` are AttentionTask structs of this address size; all use `plan`, as index 0.
void lek_attention(const leanedge::CachePlan* plan, int32_t layer, int32_t heads,
                   const AttentionTask* tasks, int32_t task_count, uint8_t* scratch) {
  const AttentionShape shape = {&plan, layer, heads, plan->kv_heads, plan->head_dim};
  attention(leanedge::platform_context(), shape, tasks, task_count, scratch);
}

}  // extern "C"

static_assert(sizeof(void*) != 4 || sizeof(AttentionTask) == 116,
              "the conformance suite writes AttentionTask at fixed offsets");
