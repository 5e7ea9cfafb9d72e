// A C interface over the row kernels, sampling and their scalar references for the Python checks of
// gpu-worker/device: structs are passed as they are. Not part of the engine.
#include <cuda_runtime.h>
#include <stdlib.h>

#include "../../engine/src/rope_table.h"
#include "../../engine/src/sampler.h"
#include "leanedge_cuda/rows.h"
#include "leanedge_cuda/sampling.h"

using namespace leanedge;

extern "C" {

// Bytes of the structs that Python fills, to be compared with its own.
void harness_row_sizes(int32_t* out) {
  out[0] = sizeof(cuda::RmsNorm);
  out[1] = sizeof(cuda::ResidualAdd);
  out[2] = sizeof(cuda::GatherRows);
  out[3] = sizeof(cuda::RopeAngles);
  out[4] = sizeof(cuda::RotateWrite);
  out[5] = sizeof(cuda::SwiGlu);
  out[6] = sizeof(cuda::Sampling);
  out[7] = sizeof(ModelConfig);
}

int32_t harness_rmsnorm(const cuda::RmsNorm* call, void* stream) {
  return cuda::rmsnorm_launch(*call, static_cast<cudaStream_t>(stream));
}
int32_t harness_residual_add(const cuda::ResidualAdd* call, void* stream) {
  return cuda::residual_add_launch(*call, static_cast<cudaStream_t>(stream));
}
int32_t harness_gather_rows(const cuda::GatherRows* call, void* stream) {
  return cuda::gather_rows_launch(*call, static_cast<cudaStream_t>(stream));
}
int32_t harness_rope_angles(const cuda::RopeAngles* call, void* stream) {
  return cuda::rope_angles_launch(*call, static_cast<cudaStream_t>(stream));
}
int32_t harness_rotate_write(const cuda::RotateWrite* call, void* stream) {
  return cuda::rotate_write_launch(*call, static_cast<cudaStream_t>(stream));
}
int32_t harness_swiglu(const cuda::SwiGlu* call, void* stream) {
  return cuda::swiglu_launch(*call, static_cast<cudaStream_t>(stream));
}
int32_t harness_sampling(const cuda::Sampling* call, void* stream) {
  return cuda::sampling_launch(*call, static_cast<cudaStream_t>(stream));
}

// Frequencies (rope_dim / 2) and magnitude of a model; factors (rope_dim / 2) or null.
double harness_rope_table(const ModelConfig* config, const float* factors, double* frequency) {
  RopeTable table = {};
  rope_table_init(&table, *config, factors);
  for (int32_t i = 0; i < table.pairs; ++i) frequency[i] = table.frequency[i];
  return table.magnitude;
}

// The scalar sampler: logits (vocab), recent (recent_count).
int32_t harness_sample_ref(const float* logits, int32_t vocab, const SamplingParams* params,
                           const int32_t* recent, int32_t recent_count, int32_t position,
                           int32_t* token, float* logprob) {
  Sampler sampler = {static_cast<Candidate*>(malloc(sampler_bytes(vocab))), vocab};
  const SampleResult result = sample(&sampler, *params, logits, recent, recent_count, position);
  free(sampler.candidates);
  *token = result.token;
  *logprob = result.logprob;
  return static_cast<int32_t>(result.status);
}

}  // extern "C"
