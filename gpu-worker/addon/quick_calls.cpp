#include "quick_calls.h"

namespace leanedge::addon {

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

}  // namespace leanedge::addon
