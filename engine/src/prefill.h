// Prompt segments layer by layer: see Prefill in engine_state.h.
#pragma once

#include "engine_state.h"

namespace leanedge {

// Most bytes that reading a prompt of `rows` rows takes besides the cache that it leaves, and
// besides the region that it replaces.
uint64_t prefill_bytes_max(const Engine& engine, int32_t rows);
// What the prefill that is under way takes besides these.
uint64_t prefill_bytes(const Engine& engine, const Sequence& sequence);
// Takes the memory for the segment that begins where the sequence's cache ends: the pages and the
// region that it will leave, and prefill_bytes. kOutOfPages or kOutOfMemory, and nothing changes,
// if that is not free.
Status prefill_begin(Engine* engine, Sequence* sequence);
// Computes at most `rows_max` rows of the current layer. Returns how many; 0 if a value was not
// finite, and the sequence's cache is dropped. After the last layer the segment is computed, its
// last row lies in row 0 of scratch.x, and no prefill is under way.
int32_t prefill_advance(Engine* engine, Sequence* sequence, int32_t rows_max);
// Gives up a prefill, if there is one: the cache is as it was before the segment.
void prefill_drop(Engine* engine, Sequence* sequence);

}  // namespace leanedge
