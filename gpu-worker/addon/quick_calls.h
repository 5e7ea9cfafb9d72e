// Methods that come back at once: most are one function of Calls.
#pragma once

#include <tuple>
#include <utility>

#include "arguments.h"

namespace leanedge::addon {

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
napi_value logits(napi_env env, napi_callback_info info);

}  // namespace leanedge::addon
