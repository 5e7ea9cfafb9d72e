// The log of a sequence: token ids in segments, append-only but for truncation. Ids of all
// sequences share a pool of blocks, so that many short logs and few long ones fit the same memory.
#pragma once

#include "arena.h"
#include "leanedge/sequence.h"
#include "leanedge/status.h"

namespace leanedge {

inline constexpr int32_t kLogBlockTokens = 512;  // 2 KiB: half of it is lost per log on average

// A word of the log: the id, and what segment it belongs to. ids are below kVocabMax = 2^20.
inline constexpr uint32_t kWordId = 0x000fffff;
inline constexpr uint32_t kWordGenerated = 0x40000000;
inline constexpr uint32_t kWordStart = 0x80000000;  // first of its segment

struct TokenLogPool {
  uint32_t* words;  // (block_count, kLogBlockTokens)
  int32_t* next;    // (block_count) list of free blocks; -1 ends it
  int32_t block_count;
  int32_t free_head;
  int32_t free_count;
};

struct TokenLog {
  int32_t* blocks;  // (blocks that the longest log takes) of the pool
  int32_t tokens;
  int32_t segments;
  int32_t last_start;  // where the last segment begins
  uint64_t hash;       // FNV-1a up to the last id; log_hash() adds the last segment's length
};

// Blocks of a log of `tokens` tokens.
constexpr int32_t log_blocks(int32_t tokens) {
  return (tokens + kLogBlockTokens - 1) / kLogBlockTokens;
}

void log_pool_init(TokenLogPool* pool, uint32_t* words, int32_t* next, int32_t block_count);
// An empty log; `blocks` is its table.
void log_init(TokenLog* log, int32_t* blocks);
// Whether `count` more tokens of `kind` fit the pool and the segment limit.
Status log_room(const TokenLogPool& pool, const TokenLog& log, SegmentKind kind, int32_t count,
                ErrorDetail* detail);
// Appends ids that log_room has let in. A generated segment next to a generated one continues it.
void log_append(TokenLogPool* pool, TokenLog* log, SegmentKind kind, const int32_t* ids,
                int32_t count);
// Appends one id that log_room or log_copy_room has let in; `starts` begins a segment.
void log_push(TokenLogPool* pool, TokenLog* log, SegmentKind kind, int32_t id, bool starts);
// Keeps the first `tokens` tokens.
void log_truncate(TokenLogPool* pool, TokenLog* log, int32_t tokens);
// Whether the pool has room for a copy of `tokens` tokens.
bool log_copy_room(const TokenLogPool& pool, int32_t tokens);
// Makes the empty log `to` a copy of the first `tokens` tokens of `from`.
void log_copy(TokenLogPool* pool, const TokenLog& from, int32_t tokens, TokenLog* to);
// Word of the token at `position`.
uint32_t log_word(const TokenLogPool& pool, const TokenLog& log, int32_t position);
// One past the last token of the segment that `position` lies in, looking no further than `end`.
int32_t log_segment_end(const TokenLogPool& pool, const TokenLog& log, int32_t position,
                        int32_t end);
// FNV-1a 64 over, for each segment, its kind, its ids and its length, as little-endian u32.
uint64_t log_hash(const TokenLog& log);

}  // namespace leanedge
