#include "observe.h"

namespace leanedge {
namespace {

size_t layer_values(const ModelConfig& config) {
  return static_cast<size_t>(config.kv_heads + config.heads) *
         static_cast<size_t>(config.head_dim);
}

bool is_observed(const Engine& engine, const Run& run) {
  return run.sequence - engine.sequences == engine.observation.sequence;
}

// sums[i] += row[i]^2.
void add_squares(const float* row, size_t count, double* sums) {
  for (size_t i = 0; i < count; ++i) {
    const double value = static_cast<double>(row[i]);
    sums[i] += value * value;
  }
}

}  // namespace

uint64_t observe_bytes(const ModelConfig& config) {
  return static_cast<uint64_t>(config.layers) * layer_values(config) * sizeof(double);
}

double* observe_sums(const Engine& engine, int32_t layer) {
  return reinterpret_cast<double*>(heap_address(engine.pool.heap, engine.observation.block)) +
         static_cast<size_t>(layer) * layer_values(engine.config);
}

void observe_end(Engine* engine) {
  if (engine->observation.sequence < 0) return;
  heap_release(&engine->pool.heap, engine->observation.block);
  engine->observation = {-1, 0, kNoBlock};
}

bool observes(const Pass& pass) {
  const Engine& e = *pass.engine;
  if (e.observation.sequence < 0) return false;
  for (int32_t i = 0; i < pass.run_count; ++i) {
    if (is_observed(e, pass.runs[i])) return true;
  }
  return false;
}

void observe_rows(const Pass& pass, int32_t layer) {
  const Engine& e = *pass.engine;
  const size_t k_dim =
      static_cast<size_t>(e.config.kv_heads) * static_cast<size_t>(e.config.head_dim);
  const size_t q_dim = static_cast<size_t>(e.config.heads) * static_cast<size_t>(e.config.head_dim);
  double* sums = observe_sums(e, layer);
  for (int32_t i = 0; i < pass.run_count; ++i) {
    const Run& run = pass.runs[i];
    if (!is_observed(e, run)) continue;
    for (int32_t r = 0; r < run.rows; ++r) {
      const size_t row = static_cast<size_t>(run.row + r);
      add_squares(e.scratch.k + row * k_dim, k_dim, sums);
      if (run.first + r < e.observation.query_from) continue;
      add_squares(e.scratch.q + row * q_dim, q_dim, sums + k_dim);
    }
  }
}

}  // namespace leanedge
