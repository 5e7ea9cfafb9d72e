#include "scratch.h"

namespace leanedge {
namespace {

// Logits are kept for le_logits and drawn from in groups, so that the output matrix is read once a
// group: up to this many rows, and bytes unless one row is larger.
constexpr int32_t kLogitsRowsMax = 32;
constexpr uint64_t kLogitsBytesMax = 4 * 1024 * 1024;

// Tasks of one attention call share a table of page addresses: one long sequence, or many short.
constexpr int32_t kTaskPagesMin = 1024;

int32_t max_i32(int32_t a, int32_t b) { return a > b ? a : b; }

template <class T>
bool place(Arena* arena, T** out, uint64_t count) {
  *out = arena_array<T>(arena, count);
  return *out != nullptr;
}

bool place_pass(Engine* e, int32_t pages_max) {
  const ModelConfig& c = e->config;
  PassScratch& s = e->scratch;
  Arena* a = &e->arena;
  const uint64_t rows = static_cast<uint64_t>(e->options.batch_rows_max);
  const uint64_t dim = static_cast<uint64_t>(c.dim);
  const uint64_t q_dim = static_cast<uint64_t>(c.heads) * static_cast<uint64_t>(c.head_dim);
  const uint64_t kv_dim = static_cast<uint64_t>(c.kv_heads) * static_cast<uint64_t>(c.head_dim);
  const uint64_t ff_dim = static_cast<uint64_t>(c.ff_dim);
  const uint64_t pairs = static_cast<uint64_t>(c.rope_dim / 2);
  const int32_t widest = max_i32(max_i32(c.dim, c.ff_dim), c.heads * c.head_dim);
  s.pages_max = max_i32(pages_max, kTaskPagesMin);
  return place(a, &s.x, rows * dim) && place(a, &s.normed, rows * dim) &&
         place(a, &s.q, rows * q_dim) && place(a, &s.k, rows * kv_dim) &&
         place(a, &s.v, rows * kv_dim) && place(a, &s.attended, rows * q_dim) &&
         place(a, &s.gate, rows * ff_dim) && place(a, &s.up, rows * ff_dim) &&
         place(a, &s.k_rows, rows * kv_dim) && place(a, &s.v_rows, rows * kv_dim) &&
         place(a, &s.k_dense, rows * kv_dim) && place(a, &s.v_dense, rows * kv_dim) &&
         place(a, &s.cosines, rows * pairs) && place(a, &s.sines, rows * pairs) &&
         place(a, &s.prepared, kernels::activations_bytes(e->options.batch_rows_max, widest)) &&
         place(a, &s.attention,
               kernels::attention_scratch_bytes(e->options.batch_rows_max, c.heads, c.head_dim,
                                                pages_max)) &&
         place(a, &s.pages, static_cast<uint64_t>(s.pages_max)) &&
         place(a, &s.tasks, kStepEntriesMax);
}

bool place_sampling(Engine* e) {
  Arena* a = &e->arena;
  const uint64_t row_bytes = static_cast<uint64_t>(e->config.vocab_size) * sizeof(float);
  uint64_t rows = kLogitsBytesMax / row_bytes;
  if (rows > kLogitsRowsMax) rows = kLogitsRowsMax;
  if (rows > static_cast<uint64_t>(e->options.sequences_max)) {
    rows = static_cast<uint64_t>(e->options.sequences_max);
  }
  if (rows > static_cast<uint64_t>(e->options.batch_rows_max)) {
    rows = static_cast<uint64_t>(e->options.batch_rows_max);
  }
  if (rows == 0) rows = 1;
  e->logits_rows = static_cast<int32_t>(rows);
  e->logits_next = 0;
  e->sampler.vocab_size = e->config.vocab_size;
  return place(a, &e->logits, rows * static_cast<uint64_t>(e->config.vocab_size)) &&
         place(a, &e->sampler.candidates, static_cast<uint64_t>(e->config.vocab_size));
}

}  // namespace

Status scratch_place(Engine* e, int32_t pages_max) {
  if (place_pass(e, pages_max) && place_sampling(e)) return Status::kOk;
  return scratch_too_large(e);
}

}  // namespace leanedge
