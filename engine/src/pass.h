// One pass over the weights: rows of several sequences, each a run of rows that follow each other.
#pragma once

#include "engine_state.h"

namespace leanedge {

// Rows [first, first + rows) of a sequence, which lie in one segment. If that is a generated one,
// no page leaves `recent` before the last of them is computed.
//
// K and V of the rows go to the dense rows of the run: (kv_heads, dense_stride, head_dim) f16. They
// stand at row dense_row of it, behind earlier rows of their segment that are not in the zones yet.
struct Run {
  Sequence* sequence;
  int32_t entry;  // of the step
  int32_t rows;
  int32_t row;    // of the batch where the run begins
  int32_t first;  // position of its first row
  uint16_t* dense_k;
  uint16_t* dense_v;
  int32_t dense_stride;
  int32_t dense_row;
  int32_t x_row;   // of scratch.x: what the last layer gave for the run's last row
  int32_t failed;  // 1: a value of K or V was not finite; nothing of the run was kept
};

// What the layers of one pass share.
struct Pass {
  Engine* engine;
  Run* runs;  // (run_count)
  int32_t run_count;
  int32_t rows;  // of all runs, at most batch_rows_max
  float* x;      // (rows, dim) the residual stream
};

// Writes the embeddings of all rows to x.
void pass_embed(const Pass& pass);
// Writes the cosines and sines of all rows, which pass_layer reads.
void pass_angles(const Pass& pass);
// One layer over all rows: x in, x out, K and V in the dense rows. The zones stay as they are.
void pass_layer(const Pass& pass, int32_t layer);

// What pass_layer does for K and V of the dense rows, and nothing else: x stays as it is.
void pass_keys(const Pass& pass, int32_t layer);
// pass_layer for the model's last layer, whose output only the last row of each run is read of: row
// i of x becomes that of run i (Run::x_row).
void pass_last_layer(const Pass& pass);

// Computes all layers of runs that begin where their caches end, and moves their rows into the
// zones, for which there is room (cache_reserve). Raises `computed`; the cache of a failed run is
// dropped. What the last layer gave for each run's last row stays in scratch.x.
void pass_compute(Engine* engine, Run* runs, int32_t run_count);

// Waits for the kernels of all passes so far, where they run beside the host. kDeviceLost, with the
// error set, where one of them failed.
Status pass_wait(Engine* engine);
// Whether a row of the sequence that this step computed had K or V that are not finite, as far as
// Run::failed has not told: known after pass_wait.
bool pass_failed(const Engine& engine, const Sequence& sequence);

// Logits of rows `rows` (count) of scratch.x into logits rows from `first` on.
void pass_logits(Engine* engine, const int32_t* rows, int32_t count, int32_t first);
// Logits row `row` (vocab_size) where the host can read it, until the next call; null where the
// device is lost.
const float* pass_logits_row(Engine* engine, int32_t row);

}  // namespace leanedge
