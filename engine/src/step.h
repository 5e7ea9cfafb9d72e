// A step: what each entry may compute, cut into passes that entries share.
#pragma once

#include "engine_state.h"

namespace leanedge {

// See le_step. `count` is in range. kDeviceLost where kernels did not come to their end.
Status step(Engine* engine, const StepEntry* entries, int32_t count, StepResult* results);

}  // namespace leanedge
