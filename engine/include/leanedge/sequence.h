// What an engine knows of a session: an append-only log of token ids in segments, and the cache
// built from it. The rules of what a row may see stand in docs/architecture.md; this header fixes
// the words and the numbers.
#pragma once

#include <stdint.h>

namespace leanedge {

inline constexpr int32_t kPageSlots = 32;         // slots of an archive page
inline constexpr int32_t kSequencesMax = 1024;    // sequences of one engine
inline constexpr int32_t kSegmentsMax = 16384;    // segments of one log

enum class SegmentKind : int32_t {
  // A prompt row attends densely, with full K, to the earlier rows of its own segment, and to
  // all before the segment through the zones as they stood at the segment's start.
  kPrompt = 1,
  // A generated row attends through the zones as they stand at its own position.
  kGenerated = 2,
};

// Zones of a sequence of `n` tokens under a plan, at the moment when row n is about to be computed.
//   sink    [0, min(n, sink))                 full K and V
//   archive [sink, sink + 32 * pages)         as the plan stores it
//   recent  [sink + 32 * pages, n)            full K and V
// One page leaves `recent` at a time, as soon as recent would hold more than recent + 31 rows:
// pages = max(0, floor((n - sink - recent) / 32)). So recent holds between `recent` and
// `recent` + 31 rows once the sequence is long enough, and a slot is never in two zones.
constexpr int32_t archive_pages(int32_t n, int32_t sink, int32_t recent) {
  return n - sink - recent < kPageSlots ? 0 : (n - sink - recent) / kPageSlots;
}

// Sampling of one sequence; fields and ranges are those of leanedge.v1.SamplingParams.
struct SamplingParams {
  float temperature;         // 0 .. 2; 0: greedy, ties to the lowest id
  int32_t top_k;             // 0 .. 1000; 0: all
  float top_p;               // (0, 1]
  float min_p;               // [0, 1]
  float repetition_penalty;  // (0, 2]
  int32_t repetition_window; // 1 .. 4096
  uint64_t seed;
};
static_assert(sizeof(SamplingParams) == 32, "SamplingParams is written by TypeScript");

// Numbers of one sequence.
struct SequenceStats {
  int32_t tokens;           // length of the log
  int32_t computed;         // rows whose K and V are in the cache
  int32_t segments;         // segments of the log
  int32_t pages;            // archive pages held (per layer; every layer holds as many)
  uint64_t cache_bytes;     // bytes held: sink and recent, pages
  uint64_t log_hash;        // FNV-1a 64 over kinds, lengths and ids, for tests and assertions
};
static_assert(sizeof(SequenceStats) == 32, "SequenceStats is read by TypeScript");

}  // namespace leanedge
