// cuBLASLt: its handle, the algorithm of each shape, one product.
#include "context.h"

#include <cuda_runtime.h>
#include <stdlib.h>
#include <string.h>

#include "../cuda_status.h"
#include "block_product.h"
#include "vector_product.h"

namespace leanedge::cuda {
namespace {

Status lt_failed(ErrorDetail* detail, cublasStatus_t error, const char* call) {
  const Status status = error == CUBLAS_STATUS_ALLOC_FAILED      ? Status::kOutOfMemory
                        : error == CUBLAS_STATUS_NOT_SUPPORTED   ? Status::kUnimplemented
                        : error == CUBLAS_STATUS_INVALID_VALUE   ? Status::kInvalidArgument
                                                                 : Status::kDeviceLost;
  if (detail) {
    detail->status = status;
    detail->reserved = 0;
    detail->value = static_cast<int64_t>(error);
    detail->bound = 0;
    snprintf(detail->message, sizeof detail->message, "cublasLt: %s: status %d", call,
             static_cast<int>(error));
  }
  return status;
}

#define LEANEDGE_LT_TRY(call, detail)                                  \
  do {                                                                 \
    const cublasStatus_t leanedge_error = (call);                      \
    if (leanedge_error != CUBLAS_STATUS_SUCCESS)                       \
      return lt_failed((detail), leanedge_error, #call);               \
  } while (0)

// Descriptors of a product; freed when it goes.
struct LtDescriptors {
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t weights = nullptr;
  cublasLtMatrixLayout_t x = nullptr;
  cublasLtMatrixLayout_t out = nullptr;
  cublasLtMatmulPreference_t preference = nullptr;

  LtDescriptors() = default;
  LtDescriptors(const LtDescriptors&) = delete;
  LtDescriptors& operator=(const LtDescriptors&) = delete;
  ~LtDescriptors() {
    if (preference) cublasLtMatmulPreferenceDestroy(preference);
    if (out) cublasLtMatrixLayoutDestroy(out);
    if (x) cublasLtMatrixLayoutDestroy(x);
    if (weights) cublasLtMatrixLayoutDestroy(weights);
    if (product) cublasLtMatmulDescDestroy(product);
  }
};

// cuBLASLt counts columns first: weights are (cols x rows) and enter transposed.
Status describe(const LtShape& shape, LtDescriptors* to, ErrorDetail* detail) {
  const cudaDataType_t in = shape.f16 ? CUDA_R_16F : CUDA_R_16BF;
  const cudaDataType_t out = shape.out_f32 ? CUDA_R_32F : CUDA_R_16BF;
  const uint64_t rows = static_cast<uint64_t>(shape.rows);
  const uint64_t inputs = static_cast<uint64_t>(shape.inputs);
  const uint64_t cols = static_cast<uint64_t>(shape.cols);
  LEANEDGE_LT_TRY(cublasLtMatmulDescCreate(&to->product, CUBLAS_COMPUTE_32F, CUDA_R_32F), detail);
  const cublasOperation_t transposed = CUBLAS_OP_T;
  LEANEDGE_LT_TRY(cublasLtMatmulDescSetAttribute(to->product, CUBLASLT_MATMUL_DESC_TRANSA,
                                                 &transposed, sizeof transposed),
                  detail);
  LEANEDGE_LT_TRY(cublasLtMatrixLayoutCreate(&to->weights, in, cols, rows, shape.cols), detail);
  LEANEDGE_LT_TRY(cublasLtMatrixLayoutCreate(&to->x, in, cols, inputs, shape.cols), detail);
  LEANEDGE_LT_TRY(cublasLtMatrixLayoutCreate(&to->out, out, rows, inputs, shape.out_pitch), detail);
  return Status::kOk;
}

Status choose(MatrixContext* context, const LtShape& shape, const LtDescriptors& with,
              LtDescriptors* to, cublasLtMatmulAlgo_t* out, ErrorDetail* detail) {
  LEANEDGE_LT_TRY(cublasLtMatmulPreferenceCreate(&to->preference), detail);
  const uint64_t workspace = kWorkspaceBytes;
  LEANEDGE_LT_TRY(
      cublasLtMatmulPreferenceSetAttribute(to->preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                           &workspace, sizeof workspace),
      detail);
  // Rows of activations and outputs begin anywhere.
  const uint32_t alignment = 16;
  for (const cublasLtMatmulPreferenceAttributes_t attribute :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    LEANEDGE_LT_TRY(cublasLtMatmulPreferenceSetAttribute(to->preference, attribute, &alignment,
                                                         sizeof alignment),
                    detail);
  }
  cublasLtMatmulHeuristicResult_t best = {};
  int found = 0;
  LEANEDGE_LT_TRY(
      cublasLtMatmulAlgoGetHeuristic(context->handle, with.product, with.weights, with.x, with.out,
                                     with.out, to->preference, 1, &best, &found),
      detail);
  if (found < 1) {
    return refuse(detail, "cublasLt: no algorithm for # rows and # inputs", shape.rows,
                  shape.inputs);
  }
  *out = best.algo;
  return Status::kOk;
}

}  // namespace

size_t matrix_context_bytes() {
  return kWorkspaceBytes + kWideBytes + kNarrowBytes + kSumsBytes + kCounterBytes;
}

Status matrix_context_create(uint8_t* scratch, bool alone, cudaStream_t stream, MatrixContext** out,
                             ErrorDetail* detail) {
  *out = nullptr;
  MatrixContext* context = static_cast<MatrixContext*>(calloc(1, sizeof *context));
  if (!context) return cuda_failed(detail, cudaErrorMemoryAllocation, "context of matrices");
  context->workspace = scratch;
  context->wide = scratch + kWorkspaceBytes;
  context->narrow = context->wide + kWideBytes;
  context->sums = context->narrow + kNarrowBytes;
  context->counters = context->sums + kSumsBytes;
  int device = 0;
  int processors = 0;
  int shared_max = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  }
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&shared_max, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  }
  if (error == cudaSuccess) error = vector_prepare(shared_max);
  if (error == cudaSuccess) error = block_prepare(shared_max);
  // On this stream alone: another engine's may be capturing a graph, which ends where somebody waits for all streams.
  if (error == cudaSuccess) {
    error = cudaMemsetAsync(context->counters, 0, kCounterBytes, stream);
  }
  if (error == cudaSuccess) error = cudaStreamSynchronize(stream);
  if (error == cudaSuccess && block_parts_bytes(processors) > kSumsBytes) {
    error = cudaErrorInvalidConfiguration;
  }
  if (error != cudaSuccess) {
    free(context);
    return cuda_failed(detail, error, "matrix_context_create");
  }
  context->alone = alone;
  context->processors = processors;
  context->shared_max = shared_max;
  const cublasStatus_t status = cublasLtCreate(&context->handle);
  if (status != CUBLAS_STATUS_SUCCESS) {
    free(context);
    return lt_failed(detail, status, "cublasLtCreate");
  }
  *out = context;
  return Status::kOk;
}

void matrix_context_destroy(MatrixContext* context) {
  if (!context) return;
  cublasLtDestroy(context->handle);
  free(context);
}

Status lt_product(MatrixContext* context, const LtShape& shape, const void* weights, const void* x,
                  void* out, cudaStream_t stream, ErrorDetail* detail) {
  LtDescriptors with;
  Status status = describe(shape, &with, detail);
  if (status != Status::kOk) return status;
  LtAlgorithm* chosen = nullptr;
  for (int32_t i = 0; i < context->algorithm_count && !chosen; ++i) {
    if (memcmp(&context->algorithms[i].shape, &shape, sizeof shape) == 0) {
      chosen = &context->algorithms[i];
    }
  }
  if (!chosen) {
    LtAlgorithm fresh = {};
    fresh.shape = shape;
    status = choose(context, shape, with, &with, &fresh.algorithm, detail);
    if (status != Status::kOk) return status;
    if (context->algorithm_count < kAlgorithmsMax) {
      chosen = &context->algorithms[context->algorithm_count++];
    } else {
      chosen = &context->algorithms[context->algorithm_next];
      context->algorithm_next = (context->algorithm_next + 1) % kAlgorithmsMax;
    }
    *chosen = fresh;
  }
  const float one = 1.0f;
  const float beta = shape.accumulate ? 1.0f : 0.0f;
  LEANEDGE_LT_TRY(
      cublasLtMatmul(context->handle, with.product, &one, weights, with.weights, x, with.x, &beta,
                     out, with.out, out, with.out, &chosen->algorithm, context->workspace,
                     kWorkspaceBytes, stream),
      detail);
  return Status::kOk;
}

}  // namespace leanedge::cuda
