// What a native library offers beside engine.h. A WASM module has no such function: its memory goes with
// the instance.
#pragma once

#include <stdint.h>

extern "C" {

// Ends the engine, in whatever phase it is, and gives back the memory that it took: on a device all of it is
// free for others when the call is back. Only le_engine_create may follow. Returns 0.
int32_t le_engine_close(void);

}  // extern "C"
