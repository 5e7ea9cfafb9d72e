// Draws the tokens of a group of sequences from their logits. A CPU links draw.cpp.
#pragma once

#include "engine_state.h"

namespace leanedge {

// Fills in the results of `count` draws, at most logits_rows: the token that follows each
// sequence's log, drawn from Engine::logits[logits_row] by the sequence's sampling parameters.
void draw_tokens(Engine* engine, Draw* draws, int32_t count);

// The last ids of a log, as many as the penalty looks back on, at most kRepetitionWindowMax, to
// `out`; returns how many.
int32_t recent_ids(const Engine& engine, const Sequence& sequence, int32_t* out);

}  // namespace leanedge
