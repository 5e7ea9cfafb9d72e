// The one engine of a module instance, and the checks that all parts of the boundary share. Where
// one finds something wrong, le_error() tells.
#pragma once

#include "engine_state.h"

namespace leanedge {

// What le_error() and all calls speak about.
extern Engine engine;

constexpr int32_t code(Status status) { return static_cast<int32_t>(status); }

// kWrongState, because the engine is in another phase than the call needs.
int32_t wrong_phase(Phase needed);
// The sequence of a handle, whole or not; null if there is none.
Sequence* find_any_sequence(int32_t handle);
// The sequence of a handle that is not being restored; null otherwise.
Sequence* find_sequence(int32_t handle);
// The error that made one of the others fail.
int32_t find_error();
// Whether `value` is not in 0 .. bound; '#' in `format` stands for each of them.
bool bad_range(int32_t value, int32_t bound, const char* format);

}  // namespace leanedge
