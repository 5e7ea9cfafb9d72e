#include "draw.h"

namespace leanedge {

void draw_tokens(Engine* engine, Draw* draws, int32_t count) {
  for (int32_t i = 0; i < count; ++i) {
    const Sequence& sequence = *draws[i].sequence;
    const float* logits = engine->logits + static_cast<size_t>(draws[i].logits_row) *
                                               static_cast<size_t>(engine->config.vocab_size);
    const int32_t recent = recent_ids(*engine, sequence, engine->recent_ids);
    draws[i].result = sample(&engine->sampler, sequence.sampling, logits, engine->recent_ids,
                             recent, sequence.log.tokens);
  }
}

}  // namespace leanedge
