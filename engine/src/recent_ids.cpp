#include "draw.h"

namespace leanedge {

int32_t recent_ids(const Engine& engine, const Sequence& sequence, int32_t* out) {
  const int32_t window = sequence.sampling.repetition_window;
  const int32_t count = sequence.log.tokens < window ? sequence.log.tokens : window;
  const int32_t begin = sequence.log.tokens - count;
  for (int32_t i = 0; i < count; ++i) {
    out[i] = static_cast<int32_t>(log_word(engine.logs, sequence.log, begin + i) & kWordId);
  }
  return count;
}

}  // namespace leanedge
