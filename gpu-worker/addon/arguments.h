// Values of JavaScript as the boundary takes them, and back: numbers, and offsets into the memory that both sides see as
// pointers.
#pragma once

#include <string.h>

#include "instance.h"

namespace leanedge::addon {

inline bool read(napi_env env, Instance*, napi_value value, int32_t* out) {
  return napi_get_value_int32(env, value, out) == napi_ok;
}
inline bool read(napi_env env, Instance*, napi_value value, uint64_t* out) {
  bool lossless = false;
  return napi_get_value_bigint_uint64(env, value, out, &lossless) == napi_ok && lossless;
}
template <typename T>
inline bool read(napi_env env, Instance* instance, napi_value value, T** out) {
  int64_t offset = 0;
  if (napi_get_value_int64(env, value, &offset) != napi_ok) return false;
  if (offset < 0 || static_cast<uint64_t>(offset) >= instance->memory_bytes) return false;
  *out = offset == 0 ? nullptr : reinterpret_cast<T*>(instance->memory + offset);
  return true;
}

inline napi_value written(napi_env env, Instance*, int32_t value) {
  napi_value out = nullptr;
  napi_create_int32(env, value, &out);
  return out;
}
inline napi_value written(napi_env env, Instance*, uint64_t value) {
  napi_value out = nullptr;
  napi_create_bigint_uint64(env, value, &out);
  return out;
}
// The error is copied to where JavaScript can read it.
inline napi_value written(napi_env env, Instance* instance, const ErrorDetail* error) {
  memcpy(instance->memory + instance->error_offset, error, sizeof *error);
  return written(env, instance, static_cast<int32_t>(instance->error_offset));
}

}  // namespace leanedge::addon
