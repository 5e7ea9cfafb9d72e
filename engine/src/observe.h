// Sums of squared channels of one sequence's Q and K, for plans that are chosen per prompt (ThinK,
// Xu et al. 2024). For evaluations; nothing is spent where nobody observes.
#pragma once

#include "pass.h"

namespace leanedge {

// Bytes of an observation's block.
uint64_t observe_bytes(const ModelConfig& config);
// Sums of layer `layer` until the next heap allocation.
double* observe_sums(const Engine& engine, int32_t layer);
// Ends the observation, if there is one.
void observe_end(Engine* engine);
// Whether a run of a pass is of the observed sequence: its last layer then computes Q of all rows.
bool observes(const Pass& pass);
// Adds the rows in scratch.q and scratch.k, which are rotated, of the observed run.
void observe_rows(const Pass& pass, int32_t layer);

}  // namespace leanedge
