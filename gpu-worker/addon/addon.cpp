// The Node addon: the boundary of an engine (leanedge/engine.h) as functions of a JavaScript object.
//
//   open(libraryPath, memory, errorOffset) -> Promise<object>
//
// `memory` is an ArrayBuffer that both sides see: pointers are offsets into it, 0 is null. Functions named
// as in engine.h come back at once; createEngine, writeWeights, startEngine and step run on a thread of the
// engine's own and give promises of what the function returned. One call at a time: while a promise is
// pending the others throw, but for close, which waits its turn: its promise is of an engine whose memory
// is free. Nothing here ends the process: what fails is a JavaScript error whose `code`
// is one of LEANEDGE_LIBRARY, LEANEDGE_BUSY, LEANEDGE_CLOSED, LEANEDGE_ARGUMENT.
#include <node_api.h>

#include <new>

#include "instance.h"
#include "quick_calls.h"
#include "task.h"
#include "thread_calls.h"

namespace leanedge::addon {
namespace {

// The environment ends: the thread must have ended before, and after this Node closes the function itself.
void environment_ends(void* data) {
  Instance* instance = static_cast<Instance*>(data);
  release(instance);
  if (instance->done) napi_release_threadsafe_function(instance->done, napi_tsfn_abort);
  instance->done = nullptr;
}

// JavaScript has forgotten the engine, or ends.
void finalize(napi_env env, void* data, void*) {
  Instance* instance = static_cast<Instance*>(data);
  napi_remove_env_cleanup_hook(env, environment_ends, instance);
  environment_ends(instance);
  napi_delete_reference(env, instance->memory_ref);
  if (instance->self) napi_delete_reference(env, instance->self);
  delete instance;
}

napi_value engine_object(napi_env env, Instance* instance) {
  struct Method {
    const char* name;
    napi_callback function;
  };
  const Method methods[] = {
      {"le_error", call<&Calls::error>},
      {"le_plan_add", call<&Calls::plan_add>},
      {"le_sequence_create", call<&Calls::sequence_create>},
      {"le_sequence_free", call<&Calls::sequence_free>},
      {"le_sequence_append", call<&Calls::sequence_append>},
      {"le_sequence_truncate", call<&Calls::sequence_truncate>},
      {"le_sequence_drop_cache", call<&Calls::sequence_drop_cache>},
      {"le_sequence_fork", call<&Calls::sequence_fork>},
      {"le_sequence_sampling", call<&Calls::sequence_sampling>},
      {"le_sequence_stats", call<&Calls::sequence_stats>},
      {"le_sequence_ids", call<&Calls::sequence_ids>},
      {"le_plan_sequence_bytes", call<&Calls::plan_sequence_bytes>},
      {"le_observe", call<&Calls::observe>},
      {"le_observed", call<&Calls::observed>},
      {"le_step", call<&Calls::step>},
      {"le_engine_stats", call<&Calls::engine_stats>},
      {"le_snapshot_bytes", call<&Calls::snapshot_bytes>},
      {"le_snapshot_read", call<&Calls::snapshot_read>},
      {"le_snapshot_begin", call<&Calls::snapshot_begin>},
      {"le_snapshot_write", call<&Calls::snapshot_write>},
      {"logits", logits},
      {"createEngine", create_engine},
      {"writeWeights", write_weights},
      {"startEngine", start_engine},
      {"step", step},
      {"close", close_engine},
  };
  napi_value object = nullptr;
  if (napi_create_object(env, &object) != napi_ok) return nullptr;
  for (const Method& method : methods) {
    napi_value function = nullptr;
    if (napi_create_function(env, method.name, NAPI_AUTO_LENGTH, method.function, nullptr,
                             &function) != napi_ok ||
        napi_set_named_property(env, object, method.name, function) != napi_ok) {
      return nullptr;
    }
  }
  napi_value backend = nullptr;
  if (napi_create_int32(env, library_calls(*instance->library).backend(), &backend) != napi_ok ||
      napi_set_named_property(env, object, "backend", backend) != napi_ok ||
      napi_wrap(env, object, instance, finalize, nullptr, &instance->self) != napi_ok) {
    return nullptr;
  }
  return object;
}

// On JavaScript's thread, when a task is done.
void settle(napi_env env, napi_value, void*, void* data) {
  if (!env) return;  // the environment ends
  Task* task = static_cast<Task*>(data);
  Instance* instance = task->instance;
  napi_deferred deferred = task->deferred;
  set_pending(env, instance, false);
  if (task->bytes) napi_delete_reference(env, task->bytes);
  task->bytes = nullptr;
  napi_value value = nullptr;
  napi_create_int32(env, task->result, &value);
  if (task->work == close_library) {
    instance->emptied = true;
    release(instance);
  } else if (instance->closed) {
    post_close(env, instance);
  }
  napi_resolve_deferred(env, deferred, value);
}

// The same for the task that opened the library.
void settle_open(napi_env env, Task* task) {
  Instance* instance = task->instance;
  napi_deferred deferred = task->deferred;
  set_pending(env, instance, false);
  napi_value object = instance->library ? engine_object(env, instance) : nullptr;
  if (object) {
    napi_resolve_deferred(env, deferred, object);
    return;
  }
  napi_value code = nullptr, message = nullptr, error = nullptr;
  napi_create_string_utf8(env, "LEANEDGE_LIBRARY", NAPI_AUTO_LENGTH, &code);
  napi_create_string_utf8(env, task->error, NAPI_AUTO_LENGTH, &message);
  napi_create_error(env, code, message, &error);
  finalize(env, instance, nullptr);
  napi_reject_deferred(env, deferred, error);
}

int32_t open_library(Task* task) {
  task->instance->library = library_acquire(task->instance->path, task->error);
  return 0;
}

void settle_any(napi_env env, napi_value function, void* context, void* data) {
  Task* task = static_cast<Task*>(data);
  if (env && task->work == open_library) {
    settle_open(env, task);
  } else {
    settle(env, function, context, data);
  }
}

// open(libraryPath, memory, errorOffset)
napi_value open(napi_env env, napi_callback_info info) {
  size_t count = 3;
  napi_value values[3];
  size_t path_bytes = 0;
  void* memory = nullptr;
  size_t memory_bytes = 0;
  int64_t error_offset = 0;
  Instance* instance = new (std::nothrow) Instance();
  if (!instance) return fail(env, "LEANEDGE_LIBRARY", "no memory");
  if (napi_get_cb_info(env, info, &count, values, nullptr, nullptr) != napi_ok || count < 3 ||
      napi_get_value_string_utf8(env, values[0], instance->path, kPathBytesMax, &path_bytes) !=
          napi_ok ||
      napi_get_arraybuffer_info(env, values[1], &memory, &memory_bytes) != napi_ok ||
      napi_get_value_int64(env, values[2], &error_offset) != napi_ok || error_offset <= 0 ||
      memory_bytes < sizeof(ErrorDetail) ||
      static_cast<uint64_t>(error_offset) > memory_bytes - sizeof(ErrorDetail)) {
    delete instance;
    return bad_argument(env);
  }
  instance->env = env;
  instance->memory = static_cast<uint8_t*>(memory);
  instance->memory_bytes = memory_bytes;
  instance->error_offset = static_cast<size_t>(error_offset);
  napi_value name = nullptr;
  napi_create_string_utf8(env, "leanedge engine", NAPI_AUTO_LENGTH, &name);
  if (napi_create_reference(env, values[1], 1, &instance->memory_ref) != napi_ok ||
      napi_create_threadsafe_function(env, nullptr, nullptr, name, 1, 1, nullptr, nullptr, nullptr,
                                      settle_any, &instance->done) != napi_ok) {
    delete instance;
    return fail(env, "LEANEDGE_LIBRARY", "Node cannot make a thread-safe function");
  }
  napi_unref_threadsafe_function(env, instance->done);
  napi_add_env_cleanup_hook(env, environment_ends, instance);
  if (instance->thread.start() != 0) {
    finalize(env, instance, nullptr);
    return fail(env, "LEANEDGE_LIBRARY", "the engine's thread cannot be started");
  }
  instance->task.work = open_library;
  return post(env, instance);
}

}  // namespace
}  // namespace leanedge::addon

NAPI_MODULE_INIT() {
  napi_value function = nullptr;
  if (napi_create_function(env, "open", NAPI_AUTO_LENGTH, leanedge::addon::open, nullptr,
                           &function) != napi_ok ||
      napi_set_named_property(env, exports, "open", function) != napi_ok) {
    return nullptr;
  }
  return exports;
}
