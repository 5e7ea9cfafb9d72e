// One engine: everything that the parts of engine/src share.
#pragma once

#include "arena.h"
#include "leanedge/engine.h"
#include "leanedge/kernels.h"
#include "leanedge/snapshot.h"
#include "rope_table.h"
#include "sampler.h"
#include "sequence_cache.h"
#include "token_log.h"
#include "weights.h"

namespace leanedge {

enum class Phase : int32_t { kEmpty = 0, kLoading = 1, kRunning = 2 };

// A prompt segment on its way through the layers, under a plan whose pages lose something: rows of
// the segment must see each other with full K, and the zones as they stood before it. So one layer
// takes the whole segment before the next one starts, into a second region; the first one and
// `computed` stay as they are until the last layer is done. prefill.cpp says where hidden states
// stand meanwhile.
struct Prefill {
  int32_t block;       // heap block: hidden states of the rows that find no place elsewhere, then K
                       // and V of one layer, (kv_heads, rows, head_dim) f16 each; kNoBlock: no
                       // prefill under way
  int32_t region;      // heap block: the region that will replace the cache's
  int32_t rows;        // of the segment
  int32_t layer;       // that is being computed
  int32_t row;         // first row of it that is not done
  int32_t first_page;  // of the pages that the segment adds
};

struct Sequence {
  int32_t used;        // 1: the handle names a sequence
  int32_t restoring;   // 1: its snapshot has not come whole yet
  int32_t logits_row;  // row of Engine::logits that is this sequence's; -1: none
  TokenLog log;
  SequenceCache cache;
  Prefill prefill;
  SamplingParams sampling;
};

// Buffers of one pass over the layers; B = batch_rows_max, F = feed_rows. On a CPU some share
// memory (lay_shared in scratch.cpp).
struct PassScratch {
  float* x;                       // (B, dim) the residual stream
  float* normed;                  // (B, dim) inputs of products, and their outputs to add to x
  float* q;                       // (B, heads * head_dim)
  float* projected;               // (B, dim) what attention adds to x
  float* k;                       // (B, kv_heads * head_dim)
  float* v;                       // (B, kv_heads * head_dim)
  float* attended;                // (B, heads * head_dim)
  float* gate;                    // (F, ff_dim)
  float* up;                      // (F, ff_dim)
  uint16_t* k_rows;               // (B, kv_heads, head_dim) f16
  uint16_t* v_rows;               // (B, kv_heads, head_dim) f16
  uint16_t* k_dense;              // per run: (kv_heads, rows, head_dim) f16
  uint16_t* v_dense;              // per run: (kv_heads, rows, head_dim) f16
  float* cosines;                 // (B, rope_dim / 2)
  float* sines;                   // (B, rope_dim / 2)
  uint8_t* prepared;              // activations_bytes(B, dim or heads * head_dim), (F, ff_dim)
  uint8_t* attention;             // attention_scratch_bytes(B, ...)
  const uint8_t** pages;          // (pages_max) page addresses of the tasks of one attention call
  kernels::AttentionTask* tasks;  // (kStepEntriesMax)
  int32_t pages_max;
  int32_t feed_rows;              // rows whose feed-forward is computed at a time
};

// What a step still has to do for one of its entries.
struct EntryState {
  Sequence* sequence;  // null once the entry is finished
  int32_t work_left;   // most rows x layers that it may still compute
  int32_t sample;      // 1: draw a token after the log's last row
};

struct Run;

// A token to draw for a sequence, and what was drawn (draw.h).
struct Draw {
  Sequence* sequence;
  int32_t logits_row;  // of Engine::logits
  SampleResult result;
};

// The restore under way; one at a time.
struct Restore {
  enum Word : int32_t { kKind = 0, kCount = 1, kFirstId = 2, kId = 3 };
  int32_t active;                          // 1: there is one
  int32_t handle;                          // sequence that it fills
  uint64_t bytes;                          // of the snapshot, without the checksum
  uint64_t offset;                         // bytes that came
  SnapshotHeader header;                   // checked once `offset` is beyond it
  uint8_t buffer[sizeof(SnapshotHeader)];  // what has come of the header, or of a word of the log
  uint16_t row[kHeadDimMax];               // what has come of a row
  Word expects;                            // next word of the log
  int32_t kind;                            // of the segment under way
  int32_t count;                           // ids that it still needs
};

// What le_observe started (observe.h).
struct Observation {
  int32_t sequence;    // handle; -1: nothing is observed
  int32_t query_from;  // position of the first row whose Q counts
  int32_t block;       // heap block: per layer sums of K's squares, (kv_heads, head_dim) f64, then
                       // of Q's, (heads, head_dim)
};

struct Engine {
  Phase phase;
  EngineOptions options;
  ModelConfig config;
  Arena arena;
  Weights weights;
  RopeTable rope;
  kernels::Context* context;
  CachePool pool;
  TokenLogPool logs;
  Sequence* sequences;  // (sequences_max)
  PassScratch scratch;
  Sampler sampler;
  EntryState* entries;     // (kStepEntriesMax) of the step under way
  Run* runs;               // (kStepEntriesMax) of the pass under way
  int32_t* sampling_runs;  // (kStepEntriesMax) runs of the pass that want logits
  int32_t* sampling_rows;  // (kStepEntriesMax) their rows in the batch
  Draw* draws;             // (logits_rows) of the sampling under way
  int32_t* recent_ids;     // (kRepetitionWindowMax) ids for the penalty
  float* logits;           // (logits_rows, vocab_size)
  int32_t* logits_owner;   // (logits_rows) sequence of each row; -1: none
  int32_t logits_rows;
  int32_t logits_next;  // row that the next logits go to
  Restore restore;
  Observation observation;
  uint64_t scratch_bytes;
  uint64_t steps;
  uint64_t rows;
  ErrorDetail error;
};

// Lays out all that a running engine needs; the cache gets what is left. kOutOfMemory otherwise.
Status engine_start(Engine* engine);

}  // namespace leanedge
