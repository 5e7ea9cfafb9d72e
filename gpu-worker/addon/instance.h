// One engine of one JavaScript environment, and the task that its thread has.
#pragma once

#include <node_api.h>

#include "library.h"
#include "work_thread.h"

namespace leanedge::addon {

inline constexpr size_t kPathBytesMax = 4096;

// What runs on the thread, and what becomes of it.
struct Task : Job {
  struct Instance* instance;
  napi_deferred deferred;
  napi_ref bytes;  // keeps the weights that are being written; or null
  int32_t (*work)(Task* task);
  int32_t result;
  int32_t index;
  uint64_t offset;
  const uint8_t* data;
  size_t length;
  const uint8_t* pointers[3];
  int32_t count;
  char error[kErrorBytesMax];
};

// One engine of one JavaScript environment.
struct Instance {
  napi_env env;
  Library* library;  // null until opened, and once closed
  uint8_t* memory;   // the ArrayBuffer's bytes
  size_t memory_bytes;
  size_t error_offset;
  napi_ref memory_ref;
  napi_ref self;     // the JavaScript object: weak, but strong while a task is pending
  napi_threadsafe_function done;
  WorkThread thread;
  Task task;         // the one that is pending
  napi_deferred closing;  // of close(); null until it is called
  bool pending;
  bool closed;
  bool emptied;      // le_engine_close has run, or there was nothing to close
  char path[kPathBytesMax];
};

// Throws an error with that code; null.
napi_value fail(napi_env env, const char* code, const char* message);
napi_value bad_argument(napi_env env);

// Gives the library and the thread back. Blocks while a task runs, and while the engine gives back its memory
// where close() has not done that.
void release(Instance* instance);

// The instance that a method was called on, and its arguments; null, with an exception, if it is not
// callable.
Instance* called(napi_env env, napi_callback_info info, size_t count, napi_value* arguments);

}  // namespace leanedge::addon
