// From CUDA's errors to the engine's: which status, and the words.
#pragma once

#include <cuda_runtime_api.h>
#include <stdint.h>
#include <stdio.h>

#include "leanedge/status.h"

namespace leanedge::cuda {

// Fills in all of an error but its message; `detail` may be null. Returns `status`.
inline Status error_begin(ErrorDetail* detail, Status status, int64_t value, int64_t bound) {
  if (detail) {
    detail->status = status;
    detail->reserved = 0;
    detail->value = value;
    detail->bound = bound;
  }
  return status;
}

// kUnimplemented with a message: each `#` of `format` is replaced by value, then bound.
inline Status refuse(ErrorDetail* detail, const char* format, int64_t value, int64_t bound) {
  error_begin(detail, Status::kUnimplemented, value, bound);
  if (detail) {
    size_t at = 0;
    int used = 0;
    for (const char* c = format; *c && at + 24 < sizeof detail->message; ++c) {
      if (*c == '#') {
        at += static_cast<size_t>(snprintf(detail->message + at, sizeof detail->message - at,
                                           "%lld", static_cast<long long>(used++ ? bound : value)));
      } else {
        detail->message[at++] = *c;
      }
    }
    detail->message[at] = 0;
  }
  return Status::kUnimplemented;
}

// Memory that is short is the caller's to handle; an illegal argument is too; all else means that
// the device or its context is gone.
inline Status status_of(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return Status::kOk;
    case cudaErrorMemoryAllocation: return Status::kOutOfMemory;
    case cudaErrorInvalidValue:
    case cudaErrorInvalidConfiguration: return Status::kInvalidArgument;
    default: return Status::kDeviceLost;
  }
}

inline Status cuda_failed(ErrorDetail* detail, cudaError_t error, const char* call) {
  const Status status = status_of(error);
  error_begin(detail, status, static_cast<int64_t>(error), 0);
  if (detail) {
    snprintf(detail->message, sizeof detail->message, "cuda: %s: %s (%d)", call,
             cudaGetErrorString(error), static_cast<int>(error));
  }
  return status;
}

}  // namespace leanedge::cuda

// Returns from a function of Status when a CUDA call fails.
#define LEANEDGE_CUDA_TRY(call, detail)                                        \
  do {                                                                         \
    const cudaError_t leanedge_error = (call);                                 \
    if (leanedge_error != cudaSuccess)                                         \
      return ::leanedge::cuda::cuda_failed((detail), leanedge_error, #call);   \
  } while (0)
