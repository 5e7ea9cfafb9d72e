// A device that is the host: the CUDA engine's own files run against it, so that all they do on the host
// is tested without a GPU. Launches happen at once, or, while a graph is captured, whenever it is replayed.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>

namespace leanedge::cuda {

// Runs `kernel` now, or records it.
cudaError_t host_launch(std::function<void()> kernel);

}  // namespace leanedge::cuda
