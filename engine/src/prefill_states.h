// Hidden states of a prompt segment between two layers. A CPU links prefill_states.cpp.
#pragma once

#include "pass.h"

namespace leanedge {

// Hidden states of a segment stay f32 between layers where they take at most this together, and are
// packed (hidden_rows.h) where they would take more: 2,048 rows of a model of dim 512.
inline constexpr uint64_t kPrefillExactBytes = 4 * 1024 * 1024;

// Most bytes of a prefill's block that the states of `rows` rows take.
uint64_t states_bytes_max(const Engine& engine, int32_t rows);
// Bytes that they take under a plan where the segment adds `pages` pages; a multiple of 16.
uint64_t states_bytes(const Engine& engine, int32_t plan, int32_t rows, int32_t pages);
// Where the states of a run are computed with: (run.rows, dim), until the next heap allocation.
float* states_batch(const Engine& engine, const Sequence& sequence, const Run& run);
// Brings the states of a run from their places to states_batch.
void states_load(Engine* engine, const Sequence& sequence, const Run& run);
// Takes them back.
void states_store(Engine* engine, const Sequence& sequence, const Run& run);
// All rows of the layer under way are there: cache_push of its K and V, as the prefill's block has
// them, to `next`. Where states stand in what that writes to, they move first.
void states_push(Engine* engine, const Sequence& sequence, SequenceCache* next, const uint16_t* k,
                 const uint16_t* v);

}  // namespace leanedge
