#include "api_state.h"

#include "error.h"

namespace leanedge {

Engine engine;

int32_t wrong_phase(Phase needed) {
  return code(error_set(&engine.error, Status::kWrongState, static_cast<int32_t>(engine.phase),
                        static_cast<int32_t>(needed),
                        "the engine is in phase #, the call needs phase # (1 loading, 2 running)",
                        {static_cast<int32_t>(engine.phase), static_cast<int32_t>(needed)}));
}

Sequence* find_any_sequence(int32_t handle) {
  if (engine.phase != Phase::kRunning) {
    wrong_phase(Phase::kRunning);
    return nullptr;
  }
  const int32_t bound = engine.options.sequences_max;
  if (handle < 0 || handle >= bound || !engine.sequences[handle].used) {
    error_set(&engine.error, Status::kInvalidArgument, handle, bound,
              "sequence # does not exist: handles are below #", {handle, bound});
    return nullptr;
  }
  return &engine.sequences[handle];
}

Sequence* find_sequence(int32_t handle) {
  Sequence* sequence = find_any_sequence(handle);
  if (!sequence || !sequence->restoring) return sequence;
  error_set(&engine.error, Status::kWrongState, handle, 0, "sequence # is being restored",
            {handle});
  return nullptr;
}

int32_t find_error() { return code(engine.error.status); }

bool bad_range(int32_t value, int32_t bound, const char* format) {
  if (value >= 0 && value <= bound) return false;
  error_set(&engine.error, Status::kInvalidArgument, value, bound, format, {value, bound});
  return true;
}

}  // namespace leanedge
