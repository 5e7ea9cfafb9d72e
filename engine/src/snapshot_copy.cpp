#include <string.h>

#include "memory_ops.h"
#include "snapshot_io.h"

namespace leanedge {
namespace {

// A window of the snapshot that is being filled.
struct Window {
  uint64_t begin;
  uint64_t end;
  uint8_t* out;  // (end - begin)
};

// Copies what of `bytes` bytes at snapshot offset `at` lies in the window.
void put(const Window& window, uint64_t at, const void* data, uint64_t bytes) {
  const uint64_t begin = at > window.begin ? at : window.begin;
  const uint64_t end = at + bytes < window.end ? at + bytes : window.end;
  if (begin >= end) return;
  memcpy(window.out + (begin - window.begin), static_cast<const uint8_t*>(data) + (begin - at),
         static_cast<size_t>(end - begin));
}

// The same of bytes that lie in cache memory.
void put_cache(const Window& window, uint64_t at, const uint8_t* data, uint64_t bytes) {
  const uint64_t begin = at > window.begin ? at : window.begin;
  const uint64_t end = at + bytes < window.end ? at + bytes : window.end;
  if (begin < end)
    memory_read(window.out + (begin - window.begin), data + (begin - at), end - begin);
}

// Rows that a snapshot can end with: all, or, inside a prompt segment, those before it.
int32_t snapshot_rows(const Engine& engine, const Sequence& sequence) {
  int32_t rows = sequence.cache.computed;
  if (rows == sequence.log.tokens || rows == 0) return rows;
  if (log_word(engine.logs, sequence.log, rows) & kWordStart) return rows;
  if (log_word(engine.logs, sequence.log, rows) & kWordGenerated) return rows;
  while (!(log_word(engine.logs, sequence.log, rows) & kWordStart)) --rows;
  return rows;
}

void put_log(const Engine& engine, const Sequence& sequence, const Window& window) {
  const TokenLog& log = sequence.log;
  uint64_t at = sizeof(SnapshotHeader);
  for (int32_t begin = 0; begin < log.tokens;) {
    const int32_t end = log_segment_end(engine.logs, log, begin, log.tokens);
    const bool generated = (log_word(engine.logs, log, begin) & kWordGenerated) != 0;
    const SnapshotSegment segment = {generated ? 2u : 1u, static_cast<uint32_t>(end - begin)};
    put(window, at, &segment, sizeof(segment));
    at += sizeof(segment);
    for (int32_t i = begin; i < end; ++i, at += 4) {
      const uint32_t id = log_word(engine.logs, log, i) & kWordId;
      put(window, at, &id, 4);
    }
    begin = end;
  }
}

// Rows of one layer and head: K of the sink, K of recent, V of the sink, V of recent.
void put_head_rows(const Engine& engine, const Sequence& sequence, const SnapshotHeader& header,
                   int32_t layer, int32_t head, const Window& window) {
  const uint64_t row_bytes = static_cast<uint64_t>(engine.config.head_dim) * 2;
  uint64_t at = snapshot_rows_offset(header, layer, head);
  const int32_t rows = static_cast<int32_t>(header.sink_rows + header.recent_rows);
  if (at >= window.end || at + 2 * static_cast<uint64_t>(rows) * row_bytes <= window.begin) return;
  const int32_t in_sink = static_cast<int32_t>(header.sink_rows);
  const int32_t archived = static_cast<int32_t>(header.pages) * kPageSlots;
  uint16_t read[kPageSlots * kHeadDimMax];
  for (int32_t value = 0; value < 2; ++value) {
    for (int32_t i = 0, count = 0; i < rows; i += count) {
      const int32_t rest = (i < in_sink ? in_sink : rows) - i;
      count = rest < kPageSlots ? rest : kPageSlots;
      const uint64_t bytes = static_cast<uint64_t>(count) * row_bytes;
      if (at < window.end && at + bytes > window.begin) {
        const int32_t position = i < in_sink ? i : i + archived;
        cache_read_rows(engine.pool, sequence.cache, layer, head, position, count, value == 1,
                        read);
        put(window, at, read, bytes);
      }
      at += bytes;
    }
  }
}

}  // namespace

void snapshot_describe(const Engine& engine, const Sequence& sequence, SnapshotHeader* header) {
  snapshot_header_write(*engine.pool.plans[sequence.cache.plan].plan,
                        static_cast<uint32_t>(sequence.log.tokens),
                        static_cast<uint32_t>(snapshot_rows(engine, sequence)),
                        static_cast<uint32_t>(sequence.log.segments), header);
}

void snapshot_copy(const Engine& engine, const Sequence& sequence, uint64_t offset, uint8_t* out,
                   int32_t bytes) {
  const Window window = {offset, offset + static_cast<uint64_t>(bytes), out};
  SnapshotHeader header;
  snapshot_describe(engine, sequence, &header);
  memset(out, 0, static_cast<size_t>(bytes));  // padding
  put(window, 0, &header, sizeof(header));
  if (window.begin < header.rows_offset) put_log(engine, sequence, window);
  for (int32_t layer = 0; layer < engine.config.layers; ++layer) {
    for (int32_t head = 0; head < engine.config.kv_heads; ++head) {
      put_head_rows(engine, sequence, header, layer, head, window);
    }
  }
  for (uint32_t page = 0; page < header.pages; ++page) {
    put_cache(window, header.pages_offset + static_cast<uint64_t>(page) * header.page_bytes,
              heap_address(engine.pool.heap, sequence.cache.pages[page]), header.page_bytes);
  }
}

}  // namespace leanedge
