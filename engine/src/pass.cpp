#include "pass.h"

#include <string.h>

#include "leanedge/half.h"

namespace leanedge {
namespace {

// What the layers of one pass share.
struct Pass {
  Engine* engine;
  Run* runs;
  int32_t run_count;
  int32_t rows;
};

size_t elements(int32_t rows, int32_t cols) {
  return static_cast<size_t>(rows) * static_cast<size_t>(cols);
}

void embed(const Pass& pass) {
  Engine& e = *pass.engine;
  for (int32_t i = 0; i < pass.run_count; ++i) {
    const Run& run = pass.runs[i];
    for (int32_t r = 0; r < run.rows; ++r) {
      const int32_t position = run.sequence->cache.computed + r;
      const uint32_t word = log_word(e.logs, run.sequence->log, position);
      const int32_t row = run.row + r;
      kernels::unpack_row(e.weights.embedding, static_cast<int32_t>(word & kWordId),
                          e.scratch.x + elements(row, e.config.dim));
      rope_table_row(e.rope, position, e.scratch.cosines + elements(row, e.rope.pairs),
                     e.scratch.sines + elements(row, e.rope.pairs));
    }
  }
}

kernels::Activations prepare(const Pass& pass, const float* x, int32_t cols) {
  kernels::Activations activations = {x, pass.engine->scratch.prepared, pass.rows, cols};
  kernels::prepare_activations(pass.engine->context, activations);
  return activations;
}

// q, k, v of all rows: projected, with biases, normed per head, rotated.
void project(const Pass& pass, const LayerWeights& layer) {
  Engine& e = *pass.engine;
  const ModelConfig& c = e.config;
  PassScratch& s = e.scratch;
  kernels::rmsnorm(e.context, s.x, layer.attn_norm, c.rms_eps, pass.rows, c.dim, s.normed);
  const kernels::Activations input = prepare(pass, s.normed, c.dim);
  kernels::matmul(e.context, layer.q, input, s.q);
  kernels::matmul(e.context, layer.k, input, s.k);
  kernels::matmul(e.context, layer.v, input, s.v);
  if (layer.q_bias) {
    kernels::add_bias(e.context, s.q, layer.q_bias, pass.rows, c.heads * c.head_dim);
    kernels::add_bias(e.context, s.k, layer.k_bias, pass.rows, c.kv_heads * c.head_dim);
    kernels::add_bias(e.context, s.v, layer.v_bias, pass.rows, c.kv_heads * c.head_dim);
  }
  if (layer.q_norm) {
    kernels::rmsnorm(e.context, s.q, layer.q_norm, c.rms_eps, pass.rows * c.heads, c.head_dim, s.q);
    kernels::rmsnorm(e.context, s.k, layer.k_norm, c.rms_eps, pass.rows * c.kv_heads, c.head_dim,
                     s.k);
  }
  kernels::rope(e.context, s.q, s.cosines, s.sines, pass.rows, c.heads, c.head_dim, c.rope_dim);
  kernels::rope(e.context, s.k, s.cosines, s.sines, pass.rows, c.kv_heads, c.head_dim, c.rope_dim);
}

bool all_finite(const uint16_t* values, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    if (!f16_finite(values[i])) return false;
  }
  return true;
}

// K and V of the new rows as f16, by KV head within each run: what attention and the zones take.
void round_rows(const Pass& pass) {
  Engine& e = *pass.engine;
  const ModelConfig& c = e.config;
  PassScratch& s = e.scratch;
  const int32_t kv_dim = c.kv_heads * c.head_dim;
  const size_t row_bytes = static_cast<size_t>(c.head_dim) * 2;
  kernels::to_f16(e.context, s.k, elements(pass.rows, kv_dim), s.k_rows);
  kernels::to_f16(e.context, s.v, elements(pass.rows, kv_dim), s.v_rows);
  for (int32_t i = 0; i < pass.run_count; ++i) {
    Run& run = pass.runs[i];
    const size_t base = elements(run.row, kv_dim);
    const size_t count = elements(run.rows, kv_dim);
    if (!all_finite(s.k_rows + base, count) || !all_finite(s.v_rows + base, count)) run.failed = 1;
    for (int32_t r = 0; r < run.rows; ++r) {
      for (int32_t h = 0; h < c.kv_heads; ++h) {
        const size_t from = base + elements(r * c.kv_heads + h, c.head_dim);
        const size_t to = base + elements(h * run.rows + r, c.head_dim);
        memcpy(s.k_dense + to, s.k_rows + from, row_bytes);
        memcpy(s.v_dense + to, s.v_rows + from, row_bytes);
      }
    }
  }
}

// Attention of all runs, in as many calls as the table of page addresses asks for.
void attend(const Pass& pass, int32_t layer) {
  Engine& e = *pass.engine;
  const ModelConfig& c = e.config;
  PassScratch& s = e.scratch;
  const kernels::AttentionShape shape = {e.pool.plan_blocks, layer, c.heads, c.kv_heads, c.head_dim};
  int32_t tasks = 0;
  int32_t pages = 0;
  for (int32_t i = 0; i < pass.run_count; ++i) {
    const Run& run = pass.runs[i];
    const SequenceCache& cache = run.sequence->cache;
    const int32_t needed = cache_pages(e.pool, cache.plan, cache.computed);
    if (tasks && pages + needed > s.pages_max) {
      kernels::attention(e.context, shape, s.tasks, tasks, s.attention);
      tasks = 0;
      pages = 0;
    }
    kernels::AttentionTask& task = s.tasks[tasks++];
    task = {};
    task.q = s.q + elements(run.row, c.heads * c.head_dim);
    task.out = s.attended + elements(run.row, c.heads * c.head_dim);
    task.rows = run.rows;
    task.first_position = cache.computed;
    cache_zones(e.pool, cache, layer, s.pages + pages, &task);
    const size_t base = elements(run.row, c.kv_heads * c.head_dim);
    task.spans[task.span_count++] = {s.k_dense + base, s.v_dense + base, run.rows, run.rows,
                                     cache.computed};
    pages += needed;
  }
  kernels::attention(e.context, shape, s.tasks, tasks, s.attention);
}

void push_rows(const Pass& pass, int32_t layer) {
  Engine& e = *pass.engine;
  for (int32_t i = 0; i < pass.run_count; ++i) {
    Run& run = pass.runs[i];
    if (run.failed) continue;
    const size_t base = elements(run.row, e.config.kv_heads * e.config.head_dim);
    cache_push(&e.pool, &run.sequence->cache, e.context, layer, e.scratch.k_dense + base,
               e.scratch.v_dense + base, run.rows);
  }
}

// x += W_down(silu(W_gate(n)) * W_up(n)), n = norm(x).
void feed_forward(const Pass& pass, const LayerWeights& layer) {
  Engine& e = *pass.engine;
  const ModelConfig& c = e.config;
  PassScratch& s = e.scratch;
  kernels::rmsnorm(e.context, s.x, layer.ffn_norm, c.rms_eps, pass.rows, c.dim, s.normed);
  const kernels::Activations input = prepare(pass, s.normed, c.dim);
  kernels::matmul(e.context, layer.gate, input, s.gate);
  kernels::matmul(e.context, layer.up, input, s.up);
  kernels::swiglu(e.context, s.gate, s.up, pass.rows, c.ff_dim);
  const kernels::Activations hidden = prepare(pass, s.gate, c.ff_dim);
  kernels::matmul(e.context, layer.down, hidden, s.normed);
  kernels::add(e.context, s.x, s.normed, pass.rows, c.dim);
}

}  // namespace

void pass_compute(Engine* engine, Run* runs, int32_t run_count) {
  Pass pass = {engine, runs, run_count, 0};
  for (int32_t i = 0; i < run_count; ++i) pass.rows += runs[i].rows;
  ENGINE_ASSERT(pass.rows > 0 && pass.rows <= engine->options.batch_rows_max);
  embed(pass);
  for (int32_t l = 0; l < engine->config.layers; ++l) {
    const LayerWeights& layer = engine->weights.layers[l];
    project(pass, layer);
    round_rows(pass);
    attend(pass, l);
    push_rows(pass, l);
    const kernels::Activations attended =
        prepare(pass, engine->scratch.attended, engine->config.heads * engine->config.head_dim);
    kernels::matmul(engine->context, layer.o, attended, engine->scratch.normed);
    kernels::add(engine->context, engine->scratch.x, engine->scratch.normed, pass.rows,
                 engine->config.dim);
    feed_forward(pass, layer);
  }
  for (int32_t i = 0; i < run_count; ++i) {
    SequenceCache& cache = runs[i].sequence->cache;
    if (runs[i].failed) {
      cache_drop(&engine->pool, &cache);
    } else {
      cache_commit(engine->pool, &cache, runs[i].rows);
      engine->rows += static_cast<uint64_t>(runs[i].rows);
    }
  }
}

void pass_logits(Engine* engine, const int32_t* rows, int32_t count, int32_t first) {
  const ModelConfig& c = engine->config;
  PassScratch& s = engine->scratch;
  for (int32_t i = 0; i < count; ++i) {
    memcpy(s.normed + elements(i, c.dim), s.x + elements(rows[i], c.dim),
           static_cast<size_t>(c.dim) * sizeof(float));
  }
  kernels::rmsnorm(engine->context, s.normed, engine->weights.output_norm, c.rms_eps, count, c.dim,
                   s.normed);
  kernels::Activations input = {s.normed, s.prepared, count, c.dim};
  kernels::prepare_activations(engine->context, input);
  kernels::matmul(engine->context, engine->weights.output, input,
                  engine->logits + elements(first, c.vocab_size));
}

}  // namespace leanedge
