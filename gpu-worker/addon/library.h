// Engine libraries: what implements leanedge/engine.h, found at run time, so that the addon itself loads
// everywhere and a missing library, driver or GPU is an error with a message.
#pragma once

#include <stddef.h>

#include "leanedge/engine.h"
#include "leanedge/native.h"

namespace leanedge::addon {

inline constexpr int32_t kLibrariesMax = 64;   // images of libraries in one process
inline constexpr size_t kErrorBytesMax = 512;  // of a message

// The boundary's functions in one image of a library.
struct Calls {
  decltype(&::le_abi_version) abi_version;
  decltype(&::le_backend) backend;
  decltype(&::le_error) error;
  decltype(&::le_engine_create) engine_create;
  decltype(&::le_weights_write) weights_write;
  decltype(&::le_plan_add) plan_add;
  decltype(&::le_engine_start) engine_start;
  decltype(&::le_engine_close) engine_close;
  decltype(&::le_sequence_create) sequence_create;
  decltype(&::le_sequence_free) sequence_free;
  decltype(&::le_sequence_append) sequence_append;
  decltype(&::le_sequence_truncate) sequence_truncate;
  decltype(&::le_sequence_drop_cache) sequence_drop_cache;
  decltype(&::le_sequence_fork) sequence_fork;
  decltype(&::le_sequence_sampling) sequence_sampling;
  decltype(&::le_sequence_stats) sequence_stats;
  decltype(&::le_sequence_ids) sequence_ids;
  decltype(&::le_plan_sequence_bytes) plan_sequence_bytes;
  decltype(&::le_observe) observe;
  decltype(&::le_observed) observed;
  decltype(&::le_step) step;
  decltype(&::le_logits) logits;
  decltype(&::le_engine_stats) engine_stats;
  decltype(&::le_snapshot_bytes) snapshot_bytes;
  decltype(&::le_snapshot_read) snapshot_read;
  decltype(&::le_snapshot_begin) snapshot_begin;
  decltype(&::le_snapshot_write) snapshot_write;
};

// One image of a library holds one engine (engine.h). Images stay loaded for the life of the process and
// serve one engine after the other.
struct Library;

// An image of the library at `path` that no engine uses. The first one is the file itself; where that is
// taken, a copy of it in memory is loaded. Null where it cannot be had: `error` (kErrorBytesMax) says why.
// May be called from any thread.
Library* library_acquire(const char* path, char* error);
// The image may serve another engine; le_engine_close has been called on it.
void library_release(Library* library);
const Calls& library_calls(const Library& library);

}  // namespace leanedge::addon
