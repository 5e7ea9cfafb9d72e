#include "task.h"

namespace leanedge::addon {

namespace {

// On the thread.
void run_task(Job* job) {
  Task* task = static_cast<Task*>(job);
  task->result = task->work(task);
  // Refused only once the environment ends; nobody waits for the promise then.
  napi_call_threadsafe_function(task->instance->done, task, napi_tsfn_nonblocking);
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

}  // namespace

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

napi_value post(napi_env env, Instance* instance) {
  napi_value promise = nullptr;
  if (napi_create_promise(env, &instance->task.deferred, &promise) != napi_ok) return nullptr;
  if (post_task(env, instance)) return promise;
  return fail(env, "LEANEDGE_BUSY", "the engine's thread takes no more jobs");
}

const Calls& calls_of(Task* task) { return library_calls(*task->instance->library); }

int32_t close_library(Task* task) { return calls_of(task).engine_close(); }

void post_close(napi_env env, Instance* instance) {
  instance->task.work = close_library;
  instance->task.deferred = instance->closing;
  if (post_task(env, instance)) return;
  release(instance);
  napi_value nothing = nullptr;
  napi_get_undefined(env, &nothing);
  napi_resolve_deferred(env, instance->closing, nothing);
}

}  // namespace leanedge::addon
