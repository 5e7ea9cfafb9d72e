// What kernels need beside weights and cache: buffers of one pass, logits, scratch of the sampler.
// A CPU links scratch.cpp.
#pragma once

#include "engine_state.h"

namespace leanedge {

// Lays it out, for page tables of at most `pages_max` pages, and sets Engine::logits_rows. Weights
// and plans are complete. kOutOfMemory where it does not fit.
Status scratch_place(Engine* engine, int32_t pages_max);
// kOutOfMemory, because something before the cache does not fit the arena.
Status scratch_too_large(Engine* engine);

}  // namespace leanedge
