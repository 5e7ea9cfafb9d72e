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
#include <stdlib.h>
#include <string.h>

#include <new>
#include <tuple>
#include <utility>

#include "library.h"
#include "work_thread.h"

namespace leanedge::addon {
namespace {

constexpr size_t kPathBytesMax = 4096;

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

napi_value fail(napi_env env, const char* code, const char* message) {
  napi_throw_error(env, code, message);
  return nullptr;
}

// Gives the library and the thread back. Blocks while a task runs, and while the engine gives back its memory
// where close() has not done that.
void release(Instance* instance) {
  instance->closed = true;
  instance->thread.stop();
  if (instance->library) {
    if (!instance->emptied) library_calls(*instance->library).engine_close();
    library_release(instance->library);
  }
  instance->library = nullptr;
}

// ---- arguments -----------------------------------------------------------------------------------

bool read(napi_env env, Instance*, napi_value value, int32_t* out) {
  return napi_get_value_int32(env, value, out) == napi_ok;
}
bool read(napi_env env, Instance*, napi_value value, uint64_t* out) {
  bool lossless = false;
  return napi_get_value_bigint_uint64(env, value, out, &lossless) == napi_ok && lossless;
}
template <typename T>
bool read(napi_env env, Instance* instance, napi_value value, T** out) {
  int64_t offset = 0;
  if (napi_get_value_int64(env, value, &offset) != napi_ok) return false;
  if (offset < 0 || static_cast<uint64_t>(offset) >= instance->memory_bytes) return false;
  *out = offset == 0 ? nullptr : reinterpret_cast<T*>(instance->memory + offset);
  return true;
}

napi_value written(napi_env env, Instance*, int32_t value) {
  napi_value out = nullptr;
  napi_create_int32(env, value, &out);
  return out;
}
napi_value written(napi_env env, Instance*, uint64_t value) {
  napi_value out = nullptr;
  napi_create_bigint_uint64(env, value, &out);
  return out;
}
// The error is copied to where JavaScript can read it.
napi_value written(napi_env env, Instance* instance, const ErrorDetail* error) {
  memcpy(instance->memory + instance->error_offset, error, sizeof *error);
  return written(env, instance, static_cast<int32_t>(instance->error_offset));
}

// The instance that a method was called on, and its arguments; null, with an exception, if it is not
// callable.
Instance* called(napi_env env, napi_callback_info info, size_t count, napi_value* arguments) {
  size_t given = count;
  napi_value self = nullptr;
  void* data = nullptr;
  if (napi_get_cb_info(env, info, &given, arguments, &self, nullptr) != napi_ok ||
      napi_unwrap(env, self, &data) != napi_ok) {
    fail(env, "LEANEDGE_ARGUMENT", "a method of an engine was called on something else");
    return nullptr;
  }
  Instance* instance = static_cast<Instance*>(data);
  if (instance->closed || !instance->library) {
    fail(env, "LEANEDGE_CLOSED", "the engine is closed");
    return nullptr;
  }
  if (instance->pending) {
    fail(env, "LEANEDGE_BUSY", "a call of the engine is pending");
    return nullptr;
  }
  if (given < count) {
    fail(env, "LEANEDGE_ARGUMENT", "too few arguments");
    return nullptr;
  }
  return instance;
}

napi_value bad_argument(napi_env env) {
  return fail(env, "LEANEDGE_ARGUMENT", "an argument is of the wrong kind or outside of the memory");
}

// ---- calls that come back at once ----------------------------------------------------------------

template <typename Result, typename... Args, size_t... I>
napi_value apply(napi_env env, Instance* instance, Result (*function)(Args...),
                 const napi_value* values, std::index_sequence<I...>) {
  [[maybe_unused]] std::tuple<Args...> arguments = {};
  if (!(read(env, instance, values[I], &std::get<I>(arguments)) && ...)) return bad_argument(env);
  return written(env, instance, function(std::get<I>(arguments)...));
}

template <typename Result, typename... Args>
napi_value apply(napi_env env, napi_callback_info info, Result (*Calls::* member)(Args...)) {
  napi_value values[sizeof...(Args) + 1];
  Instance* instance = called(env, info, sizeof...(Args), values);
  if (!instance) return nullptr;
  return apply(env, instance, library_calls(*instance->library).*member, values,
               std::index_sequence_for<Args...>());
}

// A method that is one function of Calls.
template <auto member>
napi_value call(napi_env env, napi_callback_info info) {
  return apply(env, info, member);
}

// logits(sequence, Float32Array): fills the array; false where the sequence has none.
napi_value logits(napi_env env, napi_callback_info info) {
  napi_value values[2];
  Instance* instance = called(env, info, 2, values);
  if (!instance) return nullptr;
  int32_t sequence = 0;
  napi_typedarray_type type = napi_int8_array;
  size_t length = 0;
  void* out = nullptr;
  if (!read(env, instance, values[0], &sequence) ||
      napi_get_typedarray_info(env, values[1], &type, &length, &out, nullptr, nullptr) != napi_ok ||
      type != napi_float32_array) {
    return bad_argument(env);
  }
  const float* from = library_calls(*instance->library).logits(sequence);
  if (from) memcpy(out, from, length * sizeof(float));
  napi_value found = nullptr;
  napi_get_boolean(env, from != nullptr, &found);
  return found;
}

// ---- calls that run on the thread ------------------------------------------------------------------

// On the thread.
void run_task(Job* job) {
  Task* task = static_cast<Task*>(job);
  task->result = task->work(task);
  // Refused only once the environment ends; nobody waits for the promise then.
  napi_call_threadsafe_function(task->instance->done, task, napi_tsfn_nonblocking);
}

// A task is pending, or no longer: the process and the engine's object live as long as somebody waits for a
// result.
void set_pending(napi_env env, Instance* instance, bool pending) {
  instance->pending = pending;
  if (pending) {
    napi_ref_threadsafe_function(env, instance->done);
    if (instance->self) napi_reference_ref(env, instance->self, nullptr);
  } else {
    napi_unref_threadsafe_function(env, instance->done);
    if (instance->self) napi_reference_unref(env, instance->self, nullptr);
  }
}

// Hands instance->task to the thread; false where that takes none.
bool post_task(napi_env env, Instance* instance) {
  Task* task = &instance->task;
  task->run = run_task;
  task->instance = instance;
  set_pending(env, instance, true);
  if (instance->thread.post(task)) return true;
  set_pending(env, instance, false);
  return false;
}

// Starts instance->task and gives its promise.
napi_value post(napi_env env, Instance* instance) {
  napi_value promise = nullptr;
  if (napi_create_promise(env, &instance->task.deferred, &promise) != napi_ok) return nullptr;
  if (post_task(env, instance)) return promise;
  return fail(env, "LEANEDGE_BUSY", "the engine's thread takes no more jobs");
}

const Calls& calls_of(Task* task) { return library_calls(*task->instance->library); }

int32_t close_library(Task* task) { return calls_of(task).engine_close(); }

// Closes the engine on its thread. A thread that takes no job is done with them: then it is closed here.
void post_close(napi_env env, Instance* instance) {
  instance->task.work = close_library;
  instance->task.deferred = instance->closing;
  if (post_task(env, instance)) return;
  release(instance);
  napi_value nothing = nullptr;
  napi_get_undefined(env, &nothing);
  napi_resolve_deferred(env, instance->closing, nothing);
}

// close(): a promise of an engine whose memory, library and thread are given back; a task that runs ends
// before. Undefined where it was called already.
napi_value close_engine(napi_env env, napi_callback_info info) {
  napi_value self = nullptr;
  void* data = nullptr;
  if (napi_get_cb_info(env, info, nullptr, nullptr, &self, nullptr) != napi_ok ||
      napi_unwrap(env, self, &data) != napi_ok) {
    return fail(env, "LEANEDGE_ARGUMENT", "close was called on something else");
  }
  Instance* instance = static_cast<Instance*>(data);
  if (instance->closed) return nullptr;
  napi_value promise = nullptr;
  if (napi_create_promise(env, &instance->closing, &promise) != napi_ok) return nullptr;
  instance->closed = true;
  if (!instance->pending) post_close(env, instance);
  return promise;
}

napi_value create_engine(napi_env env, napi_callback_info info) {
  napi_value values[4];
  Instance* instance = called(env, info, 4, values);
  if (!instance) return nullptr;
  Task* task = &instance->task;
  for (int32_t i = 0; i < 3; ++i) {
    if (!read(env, instance, values[i], &task->pointers[i])) return bad_argument(env);
  }
  if (!read(env, instance, values[3], &task->count)) return bad_argument(env);
  task->work = [](Task* t) {
    return calls_of(t).engine_create(reinterpret_cast<const EngineOptions*>(t->pointers[0]),
                                     reinterpret_cast<const ModelConfig*>(t->pointers[1]),
                                     reinterpret_cast<const TensorDesc*>(t->pointers[2]), t->count);
  };
  return post(env, instance);
}

// writeWeights(index, offset, Uint8Array): in pieces that the boundary takes.
napi_value write_weights(napi_env env, napi_callback_info info) {
  napi_value values[3];
  Instance* instance = called(env, info, 3, values);
  if (!instance) return nullptr;
  Task* task = &instance->task;
  napi_typedarray_type type = napi_int8_array;
  void* data = nullptr;
  if (!read(env, instance, values[0], &task->index) ||
      !read(env, instance, values[1], &task->offset) ||
      napi_get_typedarray_info(env, values[2], &type, &task->length, &data, nullptr, nullptr) !=
          napi_ok ||
      type != napi_uint8_array ||
      napi_create_reference(env, values[2], 1, &task->bytes) != napi_ok) {
    return bad_argument(env);
  }
  task->data = static_cast<const uint8_t*>(data);
  task->work = [](Task* t) {
    for (size_t at = 0; at < t->length; at += kStagingBytes) {
      const size_t rest = t->length - at;
      const int32_t bytes = rest < kStagingBytes ? static_cast<int32_t>(rest) : kStagingBytes;
      const int32_t status =
          calls_of(t).weights_write(t->index, t->offset + at, t->data + at, bytes);
      if (status < 0) return status;
    }
    return 0;
  };
  return post(env, instance);
}

napi_value start_engine(napi_env env, napi_callback_info info) {
  Instance* instance = called(env, info, 0, nullptr);
  if (!instance) return nullptr;
  instance->task.work = [](Task* t) { return calls_of(t).engine_start(); };
  return post(env, instance);
}

napi_value step(napi_env env, napi_callback_info info) {
  napi_value values[3];
  Instance* instance = called(env, info, 3, values);
  if (!instance) return nullptr;
  Task* task = &instance->task;
  if (!read(env, instance, values[0], &task->pointers[0]) ||
      !read(env, instance, values[1], &task->count) ||
      !read(env, instance, values[2], &task->pointers[1])) {
    return bad_argument(env);
  }
  task->work = [](Task* t) {
    return calls_of(t).step(reinterpret_cast<const StepEntry*>(t->pointers[0]), t->count,
                            reinterpret_cast<StepResult*>(const_cast<uint8_t*>(t->pointers[1])));
  };
  return post(env, instance);
}

// ---- an instance -----------------------------------------------------------------------------------

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
