#include "pass.h"

#include <string.h>

#include "leanedge/half.h"
#include "observe.h"

namespace leanedge {
namespace {

size_t elements(int32_t rows, int32_t cols) {
  return static_cast<size_t>(rows) * static_cast<size_t>(cols);
}

kernels::Activations prepare(Engine& engine, const float* x, int32_t rows, int32_t cols) {
  kernels::Activations activations = {x, engine.scratch.prepared, rows, cols};
  kernels::prepare_activations(engine.context, activations);
  return activations;
}

// scratch.q of all rows: projected, with bias, normed per head, rotated.
void project_queries(const Pass& pass, const LayerWeights& layer,
                     const kernels::Activations& input) {
  Engine& e = *pass.engine;
  const ModelConfig& c = e.config;
  PassScratch& s = e.scratch;
  kernels::matmul(e.context, layer.q, input, s.q);
  if (layer.q_bias) {
    kernels::add_bias(e.context, s.q, layer.q_bias, pass.rows, c.heads * c.head_dim);
  }
  if (layer.q_norm) {
    kernels::rmsnorm(e.context, s.q, layer.q_norm, c.rms_eps, pass.rows * c.heads, c.head_dim, s.q);
  }
  kernels::rope(e.context, s.q, s.cosines, s.sines, pass.rows, c.heads, c.head_dim, c.rope_dim);
}

// scratch.k and scratch.v of all rows likewise.
void project_keys(const Pass& pass, const LayerWeights& layer, const kernels::Activations& input) {
  Engine& e = *pass.engine;
  const ModelConfig& c = e.config;
  PassScratch& s = e.scratch;
  kernels::matmul(e.context, layer.k, input, s.k);
  kernels::matmul(e.context, layer.v, input, s.v);
  if (layer.q_bias) {
    kernels::add_bias(e.context, s.k, layer.k_bias, pass.rows, c.kv_heads * c.head_dim);
    kernels::add_bias(e.context, s.v, layer.v_bias, pass.rows, c.kv_heads * c.head_dim);
  }
  if (layer.q_norm) {
    kernels::rmsnorm(e.context, s.k, layer.k_norm, c.rms_eps, pass.rows * c.kv_heads, c.head_dim,
                     s.k);
  }
  kernels::rope(e.context, s.k, s.cosines, s.sines, pass.rows, c.kv_heads, c.head_dim, c.rope_dim);
}

// The normed rows that a layer projects.
kernels::Activations layer_input(const Pass& pass, const LayerWeights& layer) {
  Engine& e = *pass.engine;
  kernels::rmsnorm(e.context, pass.x, layer.attn_norm, e.config.rms_eps, pass.rows, e.config.dim,
                   e.scratch.normed);
  return prepare(e, e.scratch.normed, pass.rows, e.config.dim);
}

bool all_finite(const uint16_t* values, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    if (!f16_finite(values[i])) return false;
  }
  return true;
}

// K and V of the new rows as f16 into the dense rows of their runs.
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
        const size_t to = (elements(h, run.dense_stride) + static_cast<size_t>(run.dense_row + r)) *
                          static_cast<size_t>(c.head_dim);
        memcpy(run.dense_k + to, s.k_rows + from, row_bytes);
        memcpy(run.dense_v + to, s.v_rows + from, row_bytes);
      }
    }
  }
}

// Which rows of the runs attend.
enum class Rows : int32_t { kAll, kLast };

// What run `index` attends for, its zones aside. With kLast it has one row, `index` of the batch.
kernels::AttentionTask task_of(const Engine& e, const Run& run, int32_t index, Rows rows) {
  const ModelConfig& c = e.config;
  const int32_t row = rows == Rows::kAll ? run.row : index;
  const uint32_t word = log_word(e.logs, run.sequence->log, run.first);
  const CachePlan& plan = *e.pool.plans[run.sequence->cache.plan].plan;
  kernels::AttentionTask task = {};
  task.q = e.scratch.q + elements(row, c.heads * c.head_dim);
  task.out = e.scratch.attended + elements(row, c.heads * c.head_dim);
  task.rows = rows == Rows::kAll ? run.rows : 1;
  task.first_position = run.first + run.rows - task.rows;
  task.selects = plan_selects(plan) && (word & kWordGenerated) ? 1 : 0;
  return task;
}

// Attention of all runs, in as many calls as the table of page addresses asks for.
void attend(const Pass& pass, int32_t layer, Rows rows) {
  Engine& e = *pass.engine;
  const ModelConfig& c = e.config;
  PassScratch& s = e.scratch;
  const kernels::AttentionShape shape = {e.pool.plan_blocks, layer, c.heads, c.kv_heads,
                                         c.head_dim};
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
    task = task_of(e, run, i, rows);
    cache_zones(e.pool, cache, layer, s.pages + pages, &task);
    task.spans[task.span_count++] = {run.dense_k, run.dense_v, run.dense_stride,
                                     run.dense_row + run.rows, run.first - run.dense_row};
    pages += needed;
  }
  kernels::attention(e.context, shape, s.tasks, tasks, s.attention);
}

// x += W_down(silu(W_gate(n)) * W_up(n)), n = norm(x), feed_rows rows at a time.
void feed_forward(const Pass& pass, const LayerWeights& layer) {
  Engine& e = *pass.engine;
  const ModelConfig& c = e.config;
  PassScratch& s = e.scratch;
  for (int32_t begin = 0; begin < pass.rows; begin += s.feed_rows) {
    const int32_t left = pass.rows - begin;
    const int32_t rows = left < s.feed_rows ? left : s.feed_rows;
    float* x = pass.x + elements(begin, c.dim);
    kernels::rmsnorm(e.context, x, layer.ffn_norm, c.rms_eps, rows, c.dim, s.normed);
    const kernels::Activations input = prepare(e, s.normed, rows, c.dim);
    kernels::matmul(e.context, layer.gate, input, s.gate);
    kernels::matmul(e.context, layer.up, input, s.up);
    kernels::swiglu(e.context, s.gate, s.up, rows, c.ff_dim);
    const kernels::Activations hidden = prepare(e, s.gate, rows, c.ff_dim);
    kernels::matmul(e.context, layer.down, hidden, s.normed);
    kernels::add(e.context, x, s.normed, rows, c.dim);
  }
}

// x += W_o(attended).
void attention_output(const Pass& pass, const LayerWeights& layer) {
  Engine& e = *pass.engine;
  const ModelConfig& c = e.config;
  const kernels::Activations attended =
      prepare(e, e.scratch.attended, pass.rows, c.heads * c.head_dim);
  kernels::matmul(e.context, layer.o, attended, e.scratch.projected);
  kernels::add(e.context, pass.x, e.scratch.projected, pass.rows, c.dim);
}

}  // namespace

void pass_embed(const Pass& pass) {
  Engine& e = *pass.engine;
  for (int32_t i = 0; i < pass.run_count; ++i) {
    const Run& run = pass.runs[i];
    for (int32_t r = 0; r < run.rows; ++r) {
      const uint32_t word = log_word(e.logs, run.sequence->log, run.first + r);
      kernels::unpack_row(e.weights.embedding, static_cast<int32_t>(word & kWordId),
                          pass.x + elements(run.row + r, e.config.dim));
    }
  }
}

void pass_angles(const Pass& pass) {
  Engine& e = *pass.engine;
  for (int32_t i = 0; i < pass.run_count; ++i) {
    const Run& run = pass.runs[i];
    for (int32_t r = 0; r < run.rows; ++r) {
      const size_t at = elements(run.row + r, e.rope.pairs);
      rope_table_row(e.rope, run.first + r, e.scratch.cosines + at, e.scratch.sines + at);
    }
  }
}

void pass_layer(const Pass& pass, int32_t layer) {
  const LayerWeights& weights = pass.engine->weights.layers[layer];
  const kernels::Activations input = layer_input(pass, weights);
  project_queries(pass, weights, input);
  project_keys(pass, weights, input);
  if (observes(pass)) observe_rows(pass, layer);
  round_rows(pass);
  attend(pass, layer, Rows::kAll);
  attention_output(pass, weights);
  feed_forward(pass, weights);
}

void pass_keys(const Pass& pass, int32_t layer) {
  const LayerWeights& weights = pass.engine->weights.layers[layer];
  project_keys(pass, weights, layer_input(pass, weights));
  round_rows(pass);
}

void pass_last_layer(const Pass& pass) {
  Engine& e = *pass.engine;
  const int32_t layer = e.config.layers - 1;
  if (pass.rows == pass.run_count || observes(pass)) {
    pass_layer(pass, layer);
    for (int32_t i = 0; i < pass.run_count; ++i) {
      pass.runs[i].x_row = pass.runs[i].row + pass.runs[i].rows - 1;
    }
    return;
  }
  pass_keys(pass, layer);
  // Gathers x, its norm and the angles: row i is never behind the last row of run i.
  PassScratch& s = e.scratch;
  const size_t row_bytes = static_cast<size_t>(e.config.dim) * sizeof(float);
  const size_t angle_bytes = static_cast<size_t>(e.rope.pairs) * sizeof(float);
  for (int32_t i = 0; i < pass.run_count; ++i) {
    Run& run = pass.runs[i];
    const int32_t from = run.row + run.rows - 1;
    run.x_row = i;
    if (from == i) continue;
    memcpy(pass.x + elements(i, e.config.dim), pass.x + elements(from, e.config.dim), row_bytes);
    memcpy(s.normed + elements(i, e.config.dim), s.normed + elements(from, e.config.dim),
           row_bytes);
    memcpy(s.cosines + elements(i, e.rope.pairs), s.cosines + elements(from, e.rope.pairs),
           angle_bytes);
    memcpy(s.sines + elements(i, e.rope.pairs), s.sines + elements(from, e.rope.pairs),
           angle_bytes);
  }
  const Pass rest = {pass.engine, pass.runs, pass.run_count, pass.run_count, pass.x};
  const LayerWeights& weights = e.weights.layers[layer];
  project_queries(rest, weights, prepare(e, s.normed, rest.rows, e.config.dim));
  attend(rest, layer, Rows::kLast);
  attention_output(rest, weights);
  feed_forward(rest, weights);
}

void pass_compute(Engine* engine, Run* runs, int32_t run_count) {
  Pass pass = {engine, runs, run_count, 0, engine->scratch.x};
  for (int32_t i = 0; i < run_count; ++i) {
    const size_t base = elements(runs[i].row, engine->config.kv_heads * engine->config.head_dim);
    runs[i].dense_k = engine->scratch.k_dense + base;
    runs[i].dense_v = engine->scratch.v_dense + base;
    runs[i].dense_stride = runs[i].rows;
    runs[i].dense_row = 0;
    pass.rows += runs[i].rows;
  }
  ENGINE_ASSERT(pass.rows > 0 && pass.rows <= engine->options.batch_rows_max);
  pass_embed(pass);
  pass_angles(pass);
  for (int32_t layer = 0; layer < engine->config.layers; ++layer) {
    if (layer == engine->config.layers - 1) {
      pass_last_layer(pass);
    } else {
      pass_layer(pass, layer);
    }
    for (int32_t i = 0; i < run_count; ++i) {
      const Run& run = runs[i];
      if (run.failed) continue;
      cache_push(&engine->pool, &run.sequence->cache, engine->context, layer, run.dense_k,
                 run.dense_v, run.rows);
    }
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

// Kernels of a CPU are done when their call is.
Status pass_wait(Engine*) { return Status::kOk; }
bool pass_failed(const Engine&, const Sequence&) { return false; }

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

const float* pass_logits_row(Engine* engine, int32_t row) {
  return engine->logits + elements(row, engine->config.vocab_size);
}

}  // namespace leanedge
