// What can go wrong in an engine, and how a caller learns the thing, the value and the bound.
// A programmer's error is an ENGINE_ASSERT; bad files, requests and full memory are a Status.
#pragma once

#include <stdint.h>

namespace leanedge {

// Values cross the boundary to TypeScript (src/engine/status.ts has the same table, and a test
// compares them): never renumber.
enum class Status : int32_t {
  kOk = 0,
  kInvalidArgument = -1,     // a parameter or handle is wrong in any state
  kInvalidModel = -2,        // the model file's description or data does not fit
  kInvalidPlan = -3,         // the cache plan does not fit the model or itself
  kOutOfMemory = -4,         // weights, scratch or tables do not fit the memory's maximum
  kOutOfPages = -5,          // the sequence could have its pages only if others gave theirs up
  kContextFull = -6,         // the log would be longer than the context window
  kTooManySequences = -7,    // the table of sequences is full
  kWrongState = -8,          // the call is right, but not now
  kInvalidSnapshot = -9,     // serialised cache is corrupt, truncated or of another model or plan
  kNotFinite = -10,          // a logit or an input became NaN or infinite
  kDeviceLost = -11,         // a device does not answer any more; all sequences are lost
  kUnimplemented = -12,      // this backend cannot do that
};

// Which of an error's parts `value` and `bound` speak about.
struct ErrorDetail {
  Status status;      // the last error's status
  int32_t reserved;   // 0
  int64_t value;      // the offending value
  int64_t bound;      // the bound that it broke
  char message[240];  // NUL-terminated UTF-8: names thing, value and bound
};
static_assert(sizeof(ErrorDetail) == 264, "ErrorDetail is read by TypeScript at fixed offsets");

}  // namespace leanedge

// Stops the engine on a programmer's error, in release builds too. Only measured inner loops go
// without.
#define ENGINE_ASSERT(condition) \
  do {                           \
    if (!(condition)) __builtin_trap(); \
  } while (0)
