// A launch that may overlap the end of the kernel before it.
#pragma once

#include <cuda_runtime.h>
#include <stddef.h>
#include <stdint.h>

namespace leanedge::cuda {

struct Launch {
  const void* kernel;
  int32_t blocks;
  int32_t threads;      // of a block
  size_t shared_bytes;  // of a block, dynamic
  // On sm_90 blocks may start while the kernel before still runs (programmatic dependent launch): the kernel says itself
  // what it waits for.
  bool overlap;
};

// Launches with the kernel's one argument, which it takes by value.
template <class Arguments>
cudaError_t launch(const Launch& launch, Arguments& arguments, cudaStream_t stream) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(launch.blocks));
  config.blockDim = dim3(static_cast<unsigned>(launch.threads));
  config.dynamicSmemBytes = launch.shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = launch.overlap ? 1 : 0;
  void* values[] = {&arguments};
  return cudaLaunchKernelExC(&config, launch.kernel, values);
}

}  // namespace leanedge::cuda
