#include "thread_calls.h"

#include "arguments.h"
#include "task.h"

namespace leanedge::addon {

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

}  // namespace leanedge::addon
