// What the platform needs to know of the helper threads.
#pragma once

#include <stddef.h>

#include "leanedge/kernels.h"

namespace leanedge::kernels {

// The module's one pool.
Context* parallel_context();
// Bytes of the helpers' stacks, which lie before the engine's memory range.
size_t parallel_stack_bytes();

}  // namespace leanedge::kernels
