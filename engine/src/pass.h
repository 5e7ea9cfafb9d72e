// One pass over the weights: rows of several sequences, each a run of rows that follow each other.
#pragma once

#include "engine_state.h"

namespace leanedge {

// Rows [cache.computed, cache.computed + rows) of a sequence. They lie in one segment, and no page
// leaves `recent` before the last of them is computed if the segment is a generated one.
struct Run {
  Sequence* sequence;
  int32_t entry;    // of the step
  int32_t rows;
  int32_t row;      // of the batch where the run begins
  int32_t failed;   // 1: a value of K or V was not finite; nothing of the run was kept
};

// Computes `runs`; their caches have room (cache_reserve). Raises `computed` of the sequences; the
// cache of a failed run is dropped. The last layer's output stays in scratch.x.
void pass_compute(Engine* engine, Run* runs, int32_t run_count);

// Logits of batch rows `rows` (count) into logits rows from `first` on.
void pass_logits(Engine* engine, const int32_t* rows, int32_t count, int32_t first);

}  // namespace leanedge
