// Hidden states of a prompt segment on a device stay where they are computed with: f32, in the prefill's
// block (engine/src/prefill_states.h).
#include "device.h"
#include "prefill_states.h"

namespace leanedge {
namespace {

uint64_t bytes_of(const Engine& engine, int32_t rows) {
  return align_up(static_cast<uint64_t>(rows) * static_cast<uint64_t>(engine.config.dim) *
                      sizeof(float), 16);
}

}  // namespace

uint64_t states_bytes_max(const Engine& engine, int32_t rows) { return bytes_of(engine, rows); }

uint64_t states_bytes(const Engine& engine, int32_t, int32_t rows, int32_t) {
  return bytes_of(engine, rows);
}

float* states_batch(const Engine& engine, const Sequence& sequence, const Run& run) {
  return reinterpret_cast<float*>(heap_address(engine.pool.heap, sequence.prefill.block)) +
         static_cast<size_t>(run.dense_row) * static_cast<size_t>(engine.config.dim);
}

void states_load(Engine*, const Sequence&, const Run&) {}

void states_store(Engine*, const Sequence&, const Run&) {}

void states_push(Engine* engine, const Sequence& sequence, SequenceCache* next, const uint16_t* k,
                 const uint16_t* v) {
  cache_push(&engine->pool, next, engine->context, sequence.prefill.layer, k, v,
             sequence.prefill.rows);
}

}  // namespace leanedge
