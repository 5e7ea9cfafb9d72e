// Methods that run on the engine's thread and give promises of what the function returned.
#pragma once

#include <node_api.h>

namespace leanedge::addon {

// close(): a promise of an engine whose memory, library and thread are given back; a task that runs ends
// before. Undefined where it was called already.
napi_value close_engine(napi_env env, napi_callback_info info);
// createEngine(options, config, tensors, count)
napi_value create_engine(napi_env env, napi_callback_info info);
// writeWeights(index, offset, Uint8Array): in pieces that the boundary takes.
napi_value write_weights(napi_env env, napi_callback_info info);
// startEngine()
napi_value start_engine(napi_env env, napi_callback_info info);
// step(entries, count, results)
napi_value step(napi_env env, napi_callback_info info);

}  // namespace leanedge::addon
