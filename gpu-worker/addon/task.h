// Tasks: what a promise stands for. An instance has one, which its thread runs.
#pragma once

#include "instance.h"

namespace leanedge::addon {

// A task is pending, or no longer: the process and the engine's object live as long as somebody waits for a
// result.
void set_pending(napi_env env, Instance* instance, bool pending);

// Starts instance->task and gives its promise.
napi_value post(napi_env env, Instance* instance);

// Closes the engine on its thread. A thread that takes no job is done with them: then it is closed here.
void post_close(napi_env env, Instance* instance);

// The work of a task that closes the engine.
int32_t close_library(Task* task);

const Calls& calls_of(Task* task);

}  // namespace leanedge::addon
