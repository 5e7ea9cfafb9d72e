#include "instance.h"

namespace leanedge::addon {

napi_value fail(napi_env env, const char* code, const char* message) {
  napi_throw_error(env, code, message);
  return nullptr;
}

void release(Instance* instance) {
  instance->closed = true;
  instance->thread.stop();
  if (instance->library) {
    if (!instance->emptied) library_calls(*instance->library).engine_close();
    library_release(instance->library);
  }
  instance->library = nullptr;
}

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

}  // namespace leanedge::addon
