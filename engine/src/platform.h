// What the engine needs from the machine it runs on. Every build links one implementation:
// platform_native.cpp here, another one beside the WASM kernels.
#pragma once

#include <stdint.h>

#include "leanedge/kernels.h"

namespace leanedge {

// Makes the engine's memory range at least `bytes` bytes long and returns its start (64-byte
// aligned), or null if the host refuses. There is one range; it grows and never moves or shrinks.
uint8_t* platform_reserve(uint64_t bytes);

// Bytes that the module takes besides that range (statics, stack); they count towards
// EngineOptions.memory_bytes_max.
uint64_t platform_fixed_bytes();

// leanedge.v1.Backend of the kernels that this build links: 1 reference, 2 wasm, 3 cuda.
int32_t platform_backend();

// What the kernels of this build share; null where they share nothing.
kernels::Context* platform_context();

}  // namespace leanedge
