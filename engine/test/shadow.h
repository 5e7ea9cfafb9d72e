// What a sequence's log should be, kept beside the engine, and a fresh replay of it.
#pragma once

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "leanedge/engine.h"

namespace leanedge::test {

inline constexpr int32_t kShadowTokensMax = 4096;

struct Shadow {
  int32_t tokens;
  int32_t ids[kShadowTokensMax];
  uint8_t kinds[kShadowTokensMax];   // SegmentKind
  uint8_t starts[kShadowTokensMax];  // 1: first of its segment
  SamplingParams sampling;

  void append(int32_t kind, const int32_t* added, int32_t count) {
    const bool continues = kind == 2 && tokens > 0 && kinds[tokens - 1] == 2;
    for (int32_t i = 0; i < count; ++i) {
      ids[tokens] = added[i];
      kinds[tokens] = static_cast<uint8_t>(kind);
      starts[tokens] = i == 0 && !continues ? 1 : 0;
      ++tokens;
    }
  }

  // One past the segment that begins at `begin`.
  int32_t segment_end(int32_t begin) const {
    int32_t end = begin + 1;
    while (end < tokens && !starts[end]) ++end;
    return end;
  }

  // FNV-1a 64 over kind, ids and length of each segment, as little-endian u32.
  uint64_t hash() const {
    uint64_t h = 0xcbf29ce484222325ull;
    const auto mix = [&h](int32_t value) {
      for (int32_t i = 0; i < 4; ++i)
        h = (h ^ ((static_cast<uint32_t>(value) >> (8 * i)) & 255)) * 0x100000001b3ull;
    };
    for (int32_t begin = 0; begin < tokens;) {
      const int32_t end = segment_end(begin);
      mix(kinds[begin]);
      for (int32_t i = begin; i < end; ++i) mix(ids[i]);
      mix(end - begin);
      begin = end;
    }
    return h;
  }
};

// Appends a shadow's log to an empty sequence.
inline void replay_log(const Shadow& shadow, int32_t sequence) {
  for (int32_t begin = 0; begin < shadow.tokens;) {
    const int32_t end = shadow.segment_end(begin);
    CHECK_EQ(le_sequence_append(sequence, shadow.kinds[begin], shadow.ids + begin, end - begin), 0);
    begin = end;
  }
}

// Draws the token that follows a fresh sequence with the shadow's log; copies its logits.
inline StepResult replay(const Shadow& shadow, int32_t plan, int32_t vocab_size, float* logits) {
  const int32_t sequence = le_sequence_create(plan);
  CHECK(sequence >= 0);
  CHECK_EQ(le_sequence_sampling(sequence, &shadow.sampling), 0);
  replay_log(shadow, sequence);
  const StepEntry entry = {sequence, 1 << 20, 1, 0};
  StepResult result = {};
  CHECK_EQ(le_step(&entry, 1, &result), 0);
  const float* row = le_logits(sequence);
  if (row) memcpy(logits, row, static_cast<size_t>(vocab_size) * sizeof(float));
  CHECK_EQ(le_sequence_free(sequence), 0);
  return result;
}

inline int32_t same_bits(const float* a, const float* b, int32_t count) {
  return memcmp(a, b, static_cast<size_t>(count) * sizeof(float)) == 0 ? 1 : 0;
}

}  // namespace leanedge::test
