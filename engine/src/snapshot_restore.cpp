// Restoring a sequence from a snapshot that arrives in pieces of any size. Nothing of it is trusted
// before snapshot_header_check has seen the header and this file the log.
#include <string.h>

#include "error.h"
#include "leanedge/half.h"
#include "memory_ops.h"
#include "snapshot_io.h"

namespace leanedge {
namespace {

Status corrupt(Engine* engine, int64_t value, int64_t bound, const char* format) {
  return error_set(&engine->error, Status::kInvalidSnapshot, value, bound, format, {value, bound});
}

Sequence* target(Engine* engine) { return &engine->sequences[engine->restore.handle]; }

// The header is complete: checks it and takes the memory.
Status take_header(Engine* engine) {
  Restore& restore = engine->restore;
  Sequence* sequence = target(engine);
  const CachePlan& plan = *engine->pool.plans[sequence->cache.plan].plan;
  memcpy(&restore.header, restore.buffer, sizeof(restore.header));
  const Status status = snapshot_header_check(restore.header, plan, restore.bytes,
                                              engine->options.context_tokens_max, &engine->error);
  if (status != Status::kOk) return status;
  const int32_t tokens = static_cast<int32_t>(restore.header.log_tokens);
  const int32_t rows = static_cast<int32_t>(restore.header.cache_tokens);
  if (!log_copy_room(engine->logs, tokens)) {
    const int64_t rest = static_cast<int64_t>(engine->logs.free_count) * kLogBlockTokens;
    return error_set(&engine->error, Status::kOutOfMemory, tokens, rest,
                     "# tokens of a snapshot do not fit the memory of all logs: room for #",
                     {tokens, rest});
  }
  if (rows > 0 && !cache_reserve(&engine->pool, &sequence->cache, rows)) {
    const int64_t needed =
        static_cast<int64_t>(cache_bytes(engine->pool, sequence->cache.plan, rows));
    const int64_t rest = static_cast<int64_t>(engine->pool.heap.bytes_free);
    return error_set(&engine->error, Status::kOutOfPages, needed, rest,
                     "a snapshot's cache needs # bytes, # are free", {needed, rest});
  }
  return Status::kOk;
}

// A word of the log section: a segment's kind, its count, an id, or padding.
Status take_word(Engine* engine, uint32_t word) {
  Restore& restore = engine->restore;
  TokenLog& log = target(engine)->log;
  const int32_t tokens = static_cast<int32_t>(restore.header.log_tokens);
  if (log.tokens == tokens) {
    return word == 0 ? Status::kOk : corrupt(engine, word, 0, "snapshot: padding is #, must be #");
  }
  if (restore.expects == Restore::kKind) {
    if (word != 1 && word != 2)
      return corrupt(engine, word, 2, "snapshot: segment kind is #, at most #");
    const bool neighbour = word == 2 && log.tokens > 0 && restore.kind == 2;
    if (neighbour)
      return corrupt(engine, log.tokens, 0, "snapshot: generated segments meet at token #");
    restore.kind = static_cast<int32_t>(word);
    restore.expects = Restore::kCount;
    return Status::kOk;
  }
  if (restore.expects == Restore::kCount) {
    const int32_t rest = tokens - log.tokens;
    if (word < 1 || word > static_cast<uint32_t>(rest)) {
      return corrupt(engine, word, rest, "snapshot: a segment has # ids, the log has # left");
    }
    if (log.segments == static_cast<int32_t>(restore.header.segments)) {
      return corrupt(engine, log.segments + 1, log.segments, "snapshot: segment # of #");
    }
    restore.count = static_cast<int32_t>(word);
    restore.expects = Restore::kFirstId;
    return Status::kOk;
  }
  if (word >= static_cast<uint32_t>(engine->config.vocab_size)) {
    return corrupt(engine, word, engine->config.vocab_size,
                   "snapshot: an id is #, ids are below #");
  }
  log_push(&engine->logs, &log, static_cast<SegmentKind>(restore.kind), static_cast<int32_t>(word),
           restore.expects == Restore::kFirstId);
  restore.expects = --restore.count ? Restore::kId : Restore::kKind;
  return Status::kOk;
}

// The log is complete.
Status check_log(Engine* engine) {
  const SnapshotHeader& header = engine->restore.header;
  const TokenLog& log = target(engine)->log;
  if (log.tokens != static_cast<int32_t>(header.log_tokens)) {
    return corrupt(engine, log.tokens, header.log_tokens, "snapshot: the log has # of # tokens");
  }
  if (log.segments != static_cast<int32_t>(header.segments)) {
    return corrupt(engine, log.segments, header.segments, "snapshot: the log has # of # segments");
  }
  const int32_t rows = static_cast<int32_t>(header.cache_tokens);
  if (rows == 0 || rows == log.tokens) return Status::kOk;
  const uint32_t next = log_word(engine->logs, log, rows);
  if (next & (kWordStart | kWordGenerated)) return Status::kOk;
  return corrupt(engine, rows, log.tokens,
                 "snapshot: the cache ends inside a prompt, at # of # tokens");
}

// Rows of the rows section, complete and one behind the other, of which there are as many as one
// head has of one kind: they go to their places. page_flush relies on finite rows; a page has no
// such reader.
Status take_rows(Engine* engine, uint64_t row, int32_t count, const uint16_t* values) {
  const SnapshotHeader& header = engine->restore.header;
  const int32_t rows = static_cast<int32_t>(header.sink_rows + header.recent_rows);
  const int32_t dim = static_cast<int32_t>(header.head_dim);
  for (int32_t d = 0; d < count * dim; ++d) {
    if (f16_finite(values[d])) continue;
    return corrupt(engine, values[d], 0x7bff,
                   "snapshot: a row holds f16 bits #, finite ones end at #");
  }
  const int32_t index = static_cast<int32_t>(row / static_cast<uint64_t>(rows));  // head and kind
  const int32_t i = static_cast<int32_t>(row % static_cast<uint64_t>(rows));
  const int32_t position = i < static_cast<int32_t>(header.sink_rows)
                               ? i
                               : i + static_cast<int32_t>(header.pages) * kPageSlots;
  const int32_t kv_heads = engine->config.kv_heads;
  cache_write_rows(engine->pool, target(engine)->cache, index / 2 / kv_heads, index / 2 % kv_heads,
                   position, count, index % 2 == 1, values);
  return Status::kOk;
}

// Rows, of at most `most`, that follow row `row` without a gap in positions, itself included.
int32_t rows_in_line(const SnapshotHeader& header, uint64_t row, uint64_t most) {
  const uint64_t i = row % (header.sink_rows + header.recent_rows);
  const uint64_t line =
      i < header.sink_rows ? header.sink_rows - i : header.sink_rows + header.recent_rows - i;
  const uint64_t rows = line < most ? line : most;
  return static_cast<int32_t>(rows < kPageSlots ? rows : kPageSlots);
}

// Bytes of the rows section. A row that chunks have split is put together in Restore::row; whole
// ones go on in batches. Padding must be zero.
Status take_row_bytes(Engine* engine, uint64_t offset, const uint8_t* data, size_t bytes) {
  Restore& restore = engine->restore;
  const SnapshotHeader& header = restore.header;
  const uint64_t row_bytes = static_cast<uint64_t>(header.head_dim) * 2;
  const uint64_t all =
      2ull * (header.sink_rows + header.recent_rows) * header.layers * header.kv_heads;
  while (bytes) {
    const uint64_t row = (offset - header.rows_offset) / row_bytes;
    if (row >= all) {
      for (size_t i = 0; i < bytes; ++i) {
        if (data[i]) return corrupt(engine, data[i], 0, "snapshot: padding is #, must be #");
      }
      return Status::kOk;
    }
    const uint64_t within = (offset - header.rows_offset) % row_bytes;
    size_t take = static_cast<size_t>(row_bytes - within);
    Status status = Status::kOk;
    if (within || bytes < row_bytes) {
      if (bytes < take) take = bytes;
      memcpy(reinterpret_cast<uint8_t*>(restore.row) + within, data, take);
      if (within + take == row_bytes) status = take_rows(engine, row, 1, restore.row);
    } else {
      uint16_t rows[kPageSlots * kHeadDimMax];
      const int32_t count = rows_in_line(header, row, bytes / row_bytes);
      take = static_cast<size_t>(count) * static_cast<size_t>(row_bytes);
      memcpy(rows, data, take);
      status = take_rows(engine, row, count, rows);
    }
    if (status != Status::kOk) return status;
    offset += take;
    data += take;
    bytes -= take;
  }
  return Status::kOk;
}

void take_page_bytes(Engine* engine, uint64_t offset, const uint8_t* data, size_t bytes) {
  const SnapshotHeader& header = engine->restore.header;
  const SequenceCache& cache = target(engine)->cache;
  while (bytes) {
    const uint64_t at = offset - header.pages_offset;
    const uint64_t within = at % header.page_bytes;
    const size_t rest = static_cast<size_t>(header.page_bytes - within);
    const size_t take = bytes < rest ? bytes : rest;
    memory_write(heap_address(engine->pool.heap, cache.pages[at / header.page_bytes]) + within,
                 data, take);
    offset += take;
    data += take;
    bytes -= take;
  }
}

// Bytes [begin, end) that a chunk has of the section which ends at `end`.
size_t chunk_of(uint64_t offset, uint64_t end, size_t bytes) {
  return end - offset < bytes ? static_cast<size_t>(end - offset) : bytes;
}

// Collects `size` bytes in the buffer, which starts at section offset `within`; true when full.
bool collect(Restore* restore, size_t within, size_t size, const uint8_t* data, size_t* take) {
  const size_t rest = size - within;
  *take = *take < rest ? *take : rest;
  memcpy(restore->buffer + within, data, *take);
  return within + *take == size;
}

}  // namespace

void restore_begin(Engine* engine, int32_t handle, uint64_t bytes) {
  engine->restore = Restore{};
  engine->restore.active = 1;
  engine->restore.handle = handle;
  engine->restore.bytes = bytes;
  engine->sequences[handle].restoring = 1;
}

Status restore_write(Engine* engine, const uint8_t* data, int32_t byte_count) {
  Restore& restore = engine->restore;
  const SnapshotHeader& header = restore.header;
  size_t left = static_cast<size_t>(byte_count);
  Status status = Status::kOk;
  while (left && status == Status::kOk) {
    const uint64_t at = restore.offset;
    size_t take = left;
    if (at < sizeof(SnapshotHeader)) {
      if (collect(&restore, static_cast<size_t>(at), sizeof(SnapshotHeader), data, &take)) {
        status = take_header(engine);
      }
    } else if (at < header.rows_offset) {
      if (collect(&restore, static_cast<size_t>(at % 4), 4, data, &take)) {
        uint32_t word;
        memcpy(&word, restore.buffer, 4);
        status = take_word(engine, word);
        if (status == Status::kOk && at + take == header.rows_offset) status = check_log(engine);
      }
    } else if (at < header.pages_offset) {
      take = chunk_of(at, header.pages_offset, left);
      status = take_row_bytes(engine, at, data, take);
    } else {
      take_page_bytes(engine, at, data, take);
    }
    restore.offset += take;
    data += take;
    left -= take;
  }
  if (status != Status::kOk || restore.offset != restore.bytes) return status;
  Sequence* sequence = target(engine);
  const int32_t sink = engine->pool.plans[sequence->cache.plan].plan->sink;
  sequence->cache.computed = static_cast<int32_t>(header.cache_tokens);
  sequence->cache.ring_from = sink + static_cast<int32_t>(header.pages) * kPageSlots;
  sequence->restoring = 0;
  restore.active = 0;
  return Status::kOk;
}

}  // namespace leanedge
