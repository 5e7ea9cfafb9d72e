// Checks of what TypeScript hands down before anything is laid out from it.
#pragma once

#include "leanedge/engine.h"

namespace leanedge {

// Every field in its range and consistent with the others; kInvalidModel otherwise.
Status config_check(const ModelConfig& config, ErrorDetail* detail);
// Host limits in their ranges; kInvalidArgument otherwise.
Status options_check(const EngineOptions& options, const ModelConfig& config, ErrorDetail* detail);

}  // namespace leanedge
