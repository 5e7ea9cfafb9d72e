// The boundary between policy (TypeScript) and arithmetic (C++): a batch of token ids goes down,
// token ids and statistics come up. The WASM module exports exactly these functions (pointers are
// offsets into its memory); a native addon offers the same over its own handles. One engine a
// module instance, single-threaded from the caller's view.
//
// Every function returns Status (0 is kOk) or, where said, a non-negative number; on an error
// le_error() tells more. Nothing allocates after le_engine_start().
//
// Life: le_engine_create -> le_weights_write ... -> le_engine_start -> sequences and steps.
#pragma once

#include <stdint.h>

#include "leanedge/model.h"
#include "leanedge/plan.h"
#include "leanedge/sequence.h"
#include "leanedge/status.h"

namespace leanedge {

inline constexpr int32_t kAbiVersion = 2;
inline constexpr int32_t kStepEntriesMax = 256;      // sequences of one step
inline constexpr int32_t kStagingBytes = 256 * 1024; // the buffer that weights pass through
inline constexpr int32_t kPlansMax = 8;              // plans of one engine

// Limits that the host sets when it creates the engine.
struct EngineOptions {
  uint64_t memory_bytes_max;  // all memory: code's statics, weights, cache and scratch together
  int32_t sequences_max;      // 1 .. kSequencesMax
  int32_t batch_rows_max;     // rows that one matrix product takes, 1 .. 4096; sizes the scratch
  int32_t context_tokens_max; // at most the model's; longest log of a sequence
  int32_t weight_form;  // 0: matrices as the file has them. 1, on a device: those of F32, F16 and
                        // BF16 become FP8 with a scale a row
};
static_assert(sizeof(EngineOptions) == 24, "EngineOptions is written by TypeScript");

// One piece of a step: what one sequence may advance.
struct StepEntry {
  int32_t sequence;     // handle
  int32_t work_max;     // most rows x layers to compute for this entry in this step, at least 1;
                        // under a lossless plan one row is computed even if it costs more
  int32_t sample;       // 1: once the log's last row is computed, draw a token and append it. With
                        // no row pending the last one is computed again
  int32_t reserved;     // 0
};
static_assert(sizeof(StepEntry) == 16, "StepEntry is written by TypeScript");

struct StepResult {
  int32_t status;       // Status of this entry; others go on where one fails
  int32_t token;        // the drawn token, appended to the log as generated; -1 if none
  int32_t rows_pending; // log rows that still have no K and V (the drawn token included)
  int32_t work_done;    // rows x layers computed for this entry
  float logprob;        // natural log of the drawn token's probability before temperature
  int32_t reserved;     // 0
};
static_assert(sizeof(StepResult) == 24, "StepResult is read by TypeScript");

struct EngineStats {
  uint64_t memory_bytes;        // memory in use now
  uint64_t memory_bytes_max;    // as set
  uint64_t weight_bytes;        // weights as packed
  uint64_t scratch_bytes;       // activations, tables, logs
  uint64_t cache_bytes;         // pages and sink/recent regions, free ones included
  uint64_t cache_bytes_free;    // of it free
  uint64_t steps;               // le_step calls so far
  uint64_t rows;                // rows computed so far
  uint64_t allocations;         // allocations since le_engine_start: stays 0
  uint64_t weight_bytes_row;    // bytes of weights that one decoded row reads
  uint64_t cache_bytes_peak;    // most bytes of the cache that were in use at once so far
};
static_assert(sizeof(EngineStats) == 88, "EngineStats is read by TypeScript");

}  // namespace leanedge

extern "C" {

// kAbiVersion; TypeScript refuses a module with another one.
int32_t le_abi_version(void);
// leanedge.v1.Backend of this build: 1 reference, 2 wasm, 3 cuda.
int32_t le_backend(void);
// The last error of this engine.
const leanedge::ErrorDetail* le_error(void);
// A buffer for what goes down (structs, ids, chunks of weights): kStagingBytes, 64-byte aligned,
// valid for the engine's life.
uint8_t* le_staging(void);

// Lays out memory for a model: checks config and tensors, reserves packed weights. `tensors` in
// the order in which their data will be written.
int32_t le_engine_create(const leanedge::EngineOptions* options, const leanedge::ModelConfig* config,
                         const leanedge::TensorDesc* tensors, int32_t tensor_count);
// The next `bytes` bytes of tensor `index`, as the file has them; each tensor's data come in order
// and without gaps, in chunks of any size up to kStagingBytes. The engine repacks as it reads.
int32_t le_weights_write(int32_t index, uint64_t offset, const uint8_t* data, int32_t bytes);
// Adds a cache plan (plan.h); returns its index. The identity plan is index 0 of every engine,
// with the sink and recent sizes that are given here: le_plan_add(null, sink, recent) must come
// first.
int32_t le_plan_add(const leanedge::CachePlan* plan, int32_t sink, int32_t recent);
// Checks that all weights came, gives the rest of the memory to scratch and cache.
int32_t le_engine_start(void);

// Creates an empty sequence under a plan; returns its handle (>= 0).
int32_t le_sequence_create(int32_t plan);
// Forgets a sequence and frees its cache.
int32_t le_sequence_free(int32_t sequence);
// Appends `count` ids as a segment of `kind` (a generated segment next to a generated one
// continues it). Nothing is computed. Refused as a whole on any bad id or a full context.
int32_t le_sequence_append(int32_t sequence, int32_t kind, const int32_t* ids, int32_t count);
// Shortens the log to `tokens` and the cache with it. What cannot be shortened in place is
// dropped and will be replayed.
int32_t le_sequence_truncate(int32_t sequence, int32_t tokens);
// Frees the cache and keeps the log: the next step replays it.
int32_t le_sequence_drop_cache(int32_t sequence);
// A new sequence with the first `tokens` tokens of this one, sharing or copying its cache;
// returns its handle.
int32_t le_sequence_fork(int32_t sequence, int32_t tokens);
// Sets how tokens are drawn for a sequence.
int32_t le_sequence_sampling(int32_t sequence, const leanedge::SamplingParams* params);
// Numbers of a sequence.
int32_t le_sequence_stats(int32_t sequence, leanedge::SequenceStats* out);
// Copies ids [begin, begin + count) of the log to `out`.
int32_t le_sequence_ids(int32_t sequence, int32_t begin, int32_t count, int32_t* out);
// Bytes of cache that a sequence of `tokens` tokens takes under a plan; known before admission.
uint64_t le_plan_sequence_bytes(int32_t plan, int32_t tokens);

// For plans that are chosen per prompt: adds up, over the rows of `sequence` that are computed from
// now on, the squares of K's channels after RoPE, and of Q's for rows from position `query_from`
// on. One sequence at a time, which ends an earlier observation; -1 only ends it. Takes cache
// memory; kOutOfPages if that is not free. The sequence's end is the observation's.
int32_t le_observe(int32_t sequence, int32_t query_from);
// Copies the sums of one layer: K's, (kv_heads, head_dim), then Q's, (heads, head_dim).
int32_t le_observed(int32_t layer, double* out);

// One step: every entry advances by at most its work_max. Decode rows of several entries share one
// pass over the weights. Entries of one step name different sequences. Returns kOk, or an
// error if nothing at all could be done; per-entry errors stand in the results. A failed or
// cancelled entry leaves log and cache consistent (computed rows stay).
int32_t le_step(const leanedge::StepEntry* entries, int32_t count, leanedge::StepResult* results);
// Logits of the last row that was computed for this sequence, (vocab_size) f32; null unless that
// row was the log's last one in the latest step in which the sequence took part with sample = 1.
const float* le_logits(int32_t sequence);
// Numbers of the engine.
int32_t le_engine_stats(leanedge::EngineStats* out);

// Bytes of the serialised cache of a sequence (docs/page-format.md), without the checksum.
uint64_t le_snapshot_bytes(int32_t sequence);
// Copies bytes [offset, offset + bytes) of it to `out`.
int32_t le_snapshot_read(int32_t sequence, uint64_t offset, uint8_t* out, int32_t bytes);
// Starts a sequence from a snapshot of `bytes` bytes whose checksum the host has verified; data
// follow through le_snapshot_write in order; returns the handle. A snapshot that does not fit is
// kInvalidSnapshot and nothing is kept.
int32_t le_snapshot_begin(int32_t plan, uint64_t bytes);
// The next bytes of a snapshot; the last call makes the sequence usable.
int32_t le_snapshot_write(int32_t sequence, uint64_t offset, const uint8_t* data, int32_t bytes);

}  // extern "C"
