#include "token_log.h"

#include "error.h"

namespace leanedge {
namespace {

constexpr uint64_t kFnvBasis = 0xcbf29ce484222325ull;
constexpr uint64_t kFnvPrime = 0x100000001b3ull;

uint64_t fnv_u32(uint64_t hash, uint32_t value) {
  for (int32_t i = 0; i < 4; ++i) hash = (hash ^ ((value >> (8 * i)) & 0xff)) * kFnvPrime;
  return hash;
}

bool continues(const TokenLogPool& pool, const TokenLog& log, SegmentKind kind) {
  return kind == SegmentKind::kGenerated && log.tokens > 0 &&
         (log_word(pool, log, log.tokens - 1) & kWordGenerated);
}

uint32_t* word_at(TokenLogPool* pool, const TokenLog& log, int32_t position) {
  const size_t block = static_cast<size_t>(log.blocks[position / kLogBlockTokens]);
  return pool->words + block * kLogBlockTokens + static_cast<size_t>(position % kLogBlockTokens);
}

// Appends one word and keeps count and hash.
void push_word(TokenLogPool* pool, TokenLog* log, uint32_t word) {
  if (log->tokens % kLogBlockTokens == 0) {
    const int32_t block = pool->free_head;
    ENGINE_ASSERT(block >= 0);
    pool->free_head = pool->next[block];
    --pool->free_count;
    log->blocks[log->tokens / kLogBlockTokens] = block;
  }
  if (word & kWordStart) {
    if (log->segments) log->hash = log_hash(*log);
    log->hash = fnv_u32(log->hash, word & kWordGenerated ? 2 : 1);
    log->last_start = log->tokens;
    ++log->segments;
  }
  log->hash = fnv_u32(log->hash, word & kWordId);
  *word_at(pool, *log, log->tokens) = word;
  ++log->tokens;
}

}  // namespace

void log_pool_init(TokenLogPool* pool, uint32_t* words, int32_t* next, int32_t block_count) {
  *pool = {words, next, block_count, block_count ? 0 : -1, block_count};
  for (int32_t i = 0; i < block_count; ++i) next[i] = i + 1 < block_count ? i + 1 : -1;
}

void log_init(TokenLog* log, int32_t* blocks) { *log = {blocks, 0, 0, 0, kFnvBasis}; }

Status log_room(const TokenLogPool& pool, const TokenLog& log, SegmentKind kind, int32_t count,
                ErrorDetail* detail) {
  const int32_t more = log_blocks(log.tokens + count) - log_blocks(log.tokens);
  if (more > pool.free_count) {
    const int64_t rest = static_cast<int64_t>(pool.free_count) * kLogBlockTokens;
    return error_set(detail, Status::kOutOfMemory, count, rest,
                     "# more tokens do not fit the memory of all logs: it has room for #",
                     {count, rest});
  }
  if (!continues(pool, log, kind) && log.segments == kSegmentsMax) {
    return error_set(detail, Status::kInvalidArgument, log.segments + 1, kSegmentsMax,
                     "the log would have # segments, the bound is #",
                     {log.segments + 1, kSegmentsMax});
  }
  return Status::kOk;
}

void log_append(TokenLogPool* pool, TokenLog* log, SegmentKind kind, const int32_t* ids,
                int32_t count) {
  uint32_t flags = kind == SegmentKind::kGenerated ? kWordGenerated : 0;
  if (!continues(*pool, *log, kind)) flags |= kWordStart;
  for (int32_t i = 0; i < count; ++i) {
    push_word(pool, log, static_cast<uint32_t>(ids[i]) | flags);
    flags &= ~kWordStart;
  }
}

void log_push(TokenLogPool* pool, TokenLog* log, SegmentKind kind, int32_t id, bool starts) {
  push_word(pool, log,
            static_cast<uint32_t>(id) | (kind == SegmentKind::kGenerated ? kWordGenerated : 0) |
                (starts ? kWordStart : 0));
}

void log_truncate(TokenLogPool* pool, TokenLog* log, int32_t tokens) {
  ENGINE_ASSERT(tokens >= 0 && tokens <= log->tokens);
  for (int32_t i = log_blocks(tokens); i < log_blocks(log->tokens); ++i) {
    pool->next[log->blocks[i]] = pool->free_head;
    pool->free_head = log->blocks[i];
    ++pool->free_count;
  }
  // The hash runs forward only: start again and read what is left.
  TokenLog rest = {log->blocks, tokens, 0, 0, kFnvBasis};
  for (int32_t i = 0; i < tokens; ++i) {
    const uint32_t word = log_word(*pool, *log, i);
    if (word & kWordStart) {
      if (rest.segments) rest.hash = fnv_u32(rest.hash, static_cast<uint32_t>(i - rest.last_start));
      rest.hash = fnv_u32(rest.hash, word & kWordGenerated ? 2 : 1);
      rest.last_start = i;
      ++rest.segments;
    }
    rest.hash = fnv_u32(rest.hash, word & kWordId);
  }
  *log = rest;
}

bool log_copy_room(const TokenLogPool& pool, int32_t tokens) {
  return log_blocks(tokens) <= pool.free_count;
}

void log_copy(TokenLogPool* pool, const TokenLog& from, int32_t tokens, TokenLog* to) {
  ENGINE_ASSERT(to->tokens == 0 && tokens <= from.tokens);
  for (int32_t i = 0; i < tokens; ++i) push_word(pool, to, log_word(*pool, from, i));
}

uint32_t log_word(const TokenLogPool& pool, const TokenLog& log, int32_t position) {
  const size_t block = static_cast<size_t>(log.blocks[position / kLogBlockTokens]);
  return pool.words[block * kLogBlockTokens + static_cast<size_t>(position % kLogBlockTokens)];
}

int32_t log_segment_end(const TokenLogPool& pool, const TokenLog& log, int32_t position,
                        int32_t end) {
  const int32_t most = end < log.tokens ? end : log.tokens;
  int32_t at = position + 1;
  while (at < most && !(log_word(pool, log, at) & kWordStart)) ++at;
  return at;
}

uint64_t log_hash(const TokenLog& log) {
  if (log.segments == 0) return log.hash;
  return fnv_u32(log.hash, static_cast<uint32_t>(log.tokens - log.last_start));
}

}  // namespace leanedge
