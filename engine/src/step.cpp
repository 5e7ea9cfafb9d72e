#include "step.h"

#include "draw.h"
#include "error.h"
#include "pass.h"
#include "prefill.h"

namespace leanedge {
namespace {

int32_t min_i32(int32_t a, int32_t b) { return a < b ? a : b; }

int32_t pending(const Sequence& sequence) { return sequence.log.tokens - sequence.cache.computed; }

void finish(EntryState* entry, StepResult* result, Status status) {
  result->status = static_cast<int32_t>(status);
  entry->sequence = nullptr;
}

// Gives back the logits row of a sequence.
void forget_logits(Engine* engine, Sequence* sequence) {
  if (sequence->logits_row >= 0) engine->logits_owner[sequence->logits_row] = -1;
  sequence->logits_row = -1;
}

// Where to start again for the logits of the last row: there, or, if only whole prompt segments can
// be computed, where its segment begins.
int32_t repeat_from(const Engine& engine, const Sequence& sequence) {
  int32_t row = sequence.log.tokens - 1;
  const uint32_t word = log_word(engine.logs, sequence.log, row);
  if (engine.pool.plans[sequence.cache.plan].lossless || (word & kWordGenerated)) return row;
  while (!(log_word(engine.logs, sequence.log, row) & kWordStart)) --row;
  return row;
}

// Whether the next row of an entry goes through prefill.h rather than through shared passes.
bool wants_prefill(const Engine& engine, const EntryState& entry) {
  const Sequence& sequence = *entry.sequence;
  if (engine.pool.plans[sequence.cache.plan].lossless || pending(sequence) == 0) return false;
  return !(log_word(engine.logs, sequence.log, sequence.cache.computed) & kWordGenerated);
}

// Sets one entry up; a bad one is finished with its error.
void admit(Engine* engine, const StepEntry* entries, int32_t index, StepResult* result) {
  const StepEntry& entry = entries[index];
  EntryState& state = engine->entries[index];
  *result = {static_cast<int32_t>(Status::kOk), -1, 0, 0, 0.0f, 0};
  state = {nullptr, 0, entry.sample};
  const int32_t bound = engine->options.sequences_max;
  if (entry.sequence < 0 || entry.sequence >= bound || !engine->sequences[entry.sequence].used) {
    finish(&state, result,
           error_set(&engine->error, Status::kInvalidArgument, entry.sequence, bound,
                     "entry # names sequence #, which does not exist", {index, entry.sequence}));
    return;
  }
  if (engine->sequences[entry.sequence].restoring) {
    finish(&state, result,
           error_set(&engine->error, Status::kWrongState, entry.sequence, 0,
                     "sequence # of entry # is being restored", {entry.sequence, index}));
    return;
  }
  if (entry.work_max < 1 || entry.sample < 0 || entry.sample > 1) {
    finish(&state, result,
           error_set(&engine->error, Status::kInvalidArgument, entry.work_max, 1,
                     "entry # has work_max #, at least 1, and sample #, 0 or 1",
                     {index, entry.work_max, entry.sample}));
    return;
  }
  for (int32_t i = 0; i < index; ++i) {
    if (entries[i].sequence != entry.sequence) continue;
    finish(&state, result,
           error_set(&engine->error, Status::kInvalidArgument, entry.sequence, 1,
                     "entries # and # both name sequence #", {i, index, entry.sequence}));
    return;
  }
  Sequence* sequence = &engine->sequences[entry.sequence];
  state.sequence = sequence;
  state.work_left = entry.work_max;
  if (!entry.sample) return;
  forget_logits(engine, sequence);
  // Logits are not kept: where all rows are there, the last one is computed once more.
  if (pending(*sequence) == 0 && sequence->log.tokens > 0) {
    cache_truncate(&engine->pool, &sequence->cache, repeat_from(*engine, *sequence));
  }
}

// Rows that an entry's next run may have, at most `room`; 0 where nothing is pending. A row is not
// split between steps: the first of a step is computed whatever the entry may spend.
int32_t run_rows(const Engine& engine, const EntryState& entry, int32_t work_done, int32_t room) {
  const Sequence& sequence = *entry.sequence;
  const int32_t begin = sequence.cache.computed;
  const int32_t affordable = entry.work_left / engine.config.layers;
  const int32_t rows = affordable < 1 && work_done == 0 ? 1 : affordable;
  const int32_t most = min_i32(min_i32(pending(sequence), rows), room);
  if (most <= 0) return 0;
  int32_t end = log_segment_end(engine.logs, sequence.log, begin, begin + most);
  if (log_word(engine.logs, sequence.log, begin) & kWordGenerated) {
    // Each generated row has the zones of its own position: stop where the next page would leave.
    const CachePlan& plan = *engine.pool.plans[sequence.cache.plan].plan;
    const int32_t pages = archive_pages(begin, plan.sink, plan.recent);
    end = min_i32(end, plan.sink + plan.recent + kPageSlots * (pages + 1));
  }
  return end - begin;
}

// Adds the next run of entry `index` to the pass; an entry whose memory is not free is finished.
void add_run(Engine* engine, int32_t index, StepResult* result, int32_t* run_count, int32_t* rows) {
  EntryState& entry = engine->entries[index];
  const int32_t count =
      run_rows(*engine, entry, result->work_done, engine->options.batch_rows_max - *rows);
  if (count == 0) return;
  Sequence* sequence = entry.sequence;
  if (!cache_reserve(&engine->pool, &sequence->cache, count)) {
    const int32_t tokens = sequence->cache.computed + count;
    const int64_t needed =
        static_cast<int64_t>(cache_bytes(engine->pool, sequence->cache.plan, tokens));
    const int64_t all = static_cast<int64_t>(engine->pool.heap.bytes);
    const bool never = needed > all;
    const int64_t bound = never ? all : static_cast<int64_t>(engine->pool.heap.bytes_free);
    finish(&entry, result,
           error_set(&engine->error, never ? Status::kOutOfMemory : Status::kOutOfPages, needed,
                     bound, "# tokens need # bytes of cache: # are free, of # in all",
                     {tokens, needed, static_cast<int64_t>(engine->pool.heap.bytes_free), all}));
    return;
  }
  Run& run = engine->runs[(*run_count)++];
  run = {};
  run.sequence = sequence;
  run.entry = index;
  run.rows = count;
  run.row = *rows;
  run.first = sequence->cache.computed;
  *rows += count;
}

Status not_finite(Engine* engine) {
  return error_set(&engine->error, Status::kNotFinite, 0, 0,
                   "K or V of a row is not finite: the cache of the sequence was dropped", {0});
}

// Appends the token that was drawn for a sequence.
Status take_token(Engine* engine, const Draw& draw, StepResult* result) {
  Sequence* sequence = draw.sequence;
  const SampleResult& drawn = draw.result;
  const int32_t position = sequence->log.tokens;
  if (drawn.status != Status::kOk) {
    return error_set(&engine->error, drawn.status, position, 0,
                     "a logit of the token at position # is not finite", {position});
  }
  if (position >= engine->options.context_tokens_max) {
    return error_set(&engine->error, Status::kContextFull, position + 1,
                     engine->options.context_tokens_max,
                     "the log has # tokens, the context window is #: no token can follow",
                     {position, engine->options.context_tokens_max});
  }
  const Status room =
      log_room(engine->logs, sequence->log, SegmentKind::kGenerated, 1, &engine->error);
  if (room != Status::kOk) return room;
  log_append(&engine->logs, &sequence->log, SegmentKind::kGenerated, &drawn.token, 1);
  result->token = drawn.token;
  result->logprob = drawn.logprob;
  return Status::kOk;
}

// Samples for `count` entries of sampling_runs, which share one product with the output matrix.
void sample_group(Engine* engine, int32_t begin, int32_t count, StepResult* results) {
  if (engine->logits_next + count > engine->logits_rows) engine->logits_next = 0;
  const int32_t first = engine->logits_next;
  engine->logits_next += count;
  pass_logits(engine, engine->sampling_rows + begin, count, first);
  for (int32_t i = 0; i < count; ++i) {
    const Run& run = engine->runs[engine->sampling_runs[begin + i]];
    const int32_t row = first + i;
    const int32_t before = engine->logits_owner[row];
    if (before >= 0) engine->sequences[before].logits_row = -1;
    engine->logits_owner[row] = static_cast<int32_t>(run.sequence - engine->sequences);
    run.sequence->logits_row = row;
    engine->draws[i] = {run.sequence, row, {}};
  }
  draw_tokens(engine, engine->draws, count);
  for (int32_t i = 0; i < count; ++i) {
    const Run& run = engine->runs[engine->sampling_runs[begin + i]];
    finish(&engine->entries[run.entry], &results[run.entry],
           take_token(engine, engine->draws[i], &results[run.entry]));
  }
}

// Books what a pass has computed, and samples where a log's last row was among it.
void settle(Engine* engine, int32_t run_count, StepResult* results) {
  int32_t sampling = 0;
  for (int32_t i = 0; i < run_count; ++i) {
    const Run& run = engine->runs[i];
    EntryState& entry = engine->entries[run.entry];
    if (run.failed) {
      finish(&entry, &results[run.entry], not_finite(engine));
      continue;
    }
    entry.work_left -= run.rows * engine->config.layers;
    results[run.entry].work_done += run.rows * engine->config.layers;
    if (entry.sample && pending(*run.sequence) == 0) {
      engine->sampling_runs[sampling] = i;
      engine->sampling_rows[sampling++] = run.x_row;
    }
  }
  for (int32_t i = 0; i < sampling; i += engine->logits_rows) {
    sample_group(engine, i, min_i32(sampling - i, engine->logits_rows), results);
  }
}

// One pass that all entries share but those in a prefill. False where none has a row for it.
bool shared_pass(Engine* engine, int32_t count, StepResult* results) {
  int32_t runs = 0;
  int32_t rows = 0;
  // Single rows first, so that decoding never waits for a pass that a prompt has filled.
  for (int32_t sweep = 0; sweep < 2; ++sweep) {
    for (int32_t i = 0; i < count; ++i) {
      const EntryState& entry = engine->entries[i];
      if (!entry.sequence || wants_prefill(*engine, entry)) continue;
      if ((pending(*entry.sequence) == 1) != (sweep == 0)) continue;
      add_run(engine, i, &results[i], &runs, &rows);
    }
  }
  if (runs == 0) return false;
  pass_compute(engine, engine->runs, runs);
  settle(engine, runs, results);
  return true;
}

// One block of rows of one layer of the prompt that entry `index` reads. False where there is none.
bool prefill_block(Engine* engine, int32_t index, StepResult* result) {
  EntryState& entry = engine->entries[index];
  if (!entry.sequence || entry.work_left < 1 || !wants_prefill(*engine, entry)) return false;
  Sequence* sequence = entry.sequence;
  Status status = Status::kOk;
  if (sequence->prefill.block == kNoBlock) status = prefill_begin(engine, sequence);
  const int32_t rows =
      status == Status::kOk ? prefill_advance(engine, sequence, entry.work_left) : 0;
  if (status == Status::kOk && rows == 0) status = not_finite(engine);
  if (status != Status::kOk) {
    finish(&entry, result, status);
    return false;
  }
  entry.work_left -= rows;
  result->work_done += rows;
  if (sequence->prefill.block == kNoBlock && entry.sample && pending(*sequence) == 0) {
    engine->runs[0] = {};
    engine->runs[0].sequence = sequence;
    engine->runs[0].entry = index;
    engine->sampling_runs[0] = 0;
    engine->sampling_rows[0] = 0;
    sample_group(engine, 0, 1, result - index);
  }
  return true;
}

}  // namespace

Status step(Engine* engine, const StepEntry* entries, int32_t count, StepResult* results) {
  ++engine->steps;
  int32_t sampling = 0;
  for (int32_t i = 0; i < count; ++i) sampling += entries[i].sample ? 1 : 0;
  // What one step draws from stays whole, however many passes it takes.
  if (engine->logits_next + sampling > engine->logits_rows) engine->logits_next = 0;
  for (int32_t i = 0; i < count; ++i) admit(engine, entries, i, &results[i]);
  for (bool more = true; more;) {
    more = shared_pass(engine, count, results);
    for (int32_t i = 0; i < count; ++i) more = prefill_block(engine, i, &results[i]) || more;
  }
  const Status status = pass_wait(engine);
  if (status != Status::kOk) return status;
  for (int32_t i = 0; i < count; ++i) {
    const int32_t handle = entries[i].sequence;
    if (handle < 0 || handle >= engine->options.sequences_max) continue;
    Sequence* sequence = &engine->sequences[handle];
    if (!sequence->used) continue;
    if (pass_failed(*engine, *sequence)) {
      prefill_drop(engine, sequence);
      cache_drop(&engine->pool, &sequence->cache);
      finish(&engine->entries[i], &results[i], not_finite(engine));
    }
    results[i].rows_pending = pending(*sequence);
  }
  return Status::kOk;
}

}  // namespace leanedge
