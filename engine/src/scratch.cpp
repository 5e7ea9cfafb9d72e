#include "scratch.h"

namespace leanedge {
namespace {

// Logits are kept for le_logits and drawn from in groups, so that the output matrix is read once a
// group: up to this many rows, and bytes unless one row is larger.
constexpr int32_t kLogitsRowsMax = 32;
constexpr uint64_t kLogitsBytesMax = 4 * 1024 * 1024;

// The feed-forward of more rows than this is computed in two halves: what it holds between its
// products would be the largest part of the scratch, and a matrix is unpacked for 32 rows at 1.1
// times the cost that it has for 64.
constexpr int32_t kFeedRowsWhole = 32;

// Tasks of one attention call share a table of page addresses: one long sequence, or many short.
constexpr int32_t kTaskPagesMin = 1024;

int32_t max_i32(int32_t a, int32_t b) { return a > b ? a : b; }

template <class T>
bool place(Arena* arena, T** out, uint64_t count) {
  *out = arena_array<T>(arena, count);
  return *out != nullptr;
}

// Bytes of one stretch of memory that buffers take one behind the other.
struct Stretch {
  uint8_t* base;  // null: only counts
  uint64_t used;
};

template <class T>
void lay(Stretch* stretch, T** out, uint64_t count) {
  if (stretch->base) *out = reinterpret_cast<T*>(stretch->base + stretch->used);
  stretch->used = align_up(stretch->used + count * sizeof(T), kArenaAlign);
}

uint64_t max_u64(uint64_t a, uint64_t b) { return a > b ? a : b; }

// Lays the buffers of a pass that are not in use at the same time over each other, from `base` on;
// returns the bytes they take. Attention's: q until its output is there, `projected` from then on;
// K and V in f32 and f16 until they are in the dense rows, attention's own scratch from then on.
// Then the feed-forward's. After the last layer, the sampler's candidates.
uint64_t lay_shared(Engine* e, int32_t pages_max, uint8_t* base) {
  const ModelConfig& c = e->config;
  PassScratch& s = e->scratch;
  const uint64_t rows = static_cast<uint64_t>(e->options.batch_rows_max);
  const uint64_t q_dim = static_cast<uint64_t>(c.heads) * static_cast<uint64_t>(c.head_dim);
  const uint64_t kv_dim = static_cast<uint64_t>(c.kv_heads) * static_cast<uint64_t>(c.head_dim);
  const uint64_t feed = static_cast<uint64_t>(s.feed_rows) * static_cast<uint64_t>(c.ff_dim);
  Stretch projected = {base, 0};
  lay(&projected, &s.projected, rows * static_cast<uint64_t>(c.dim));
  Stretch keys = {base, 0};
  lay(&keys, &s.q, rows * q_dim);
  keys.used = max_u64(keys.used, projected.used);
  Stretch attention = keys;
  lay(&keys, &s.k, rows * kv_dim);
  lay(&keys, &s.v, rows * kv_dim);
  lay(&keys, &s.k_rows, rows * kv_dim);
  lay(&keys, &s.v_rows, rows * kv_dim);
  lay(&attention, &s.attention,
      kernels::attention_scratch_bytes(e->options.batch_rows_max, c.heads, c.head_dim, pages_max));
  Stretch feed_forward = {base, 0};
  lay(&feed_forward, &s.gate, feed);
  lay(&feed_forward, &s.up, feed);
  Stretch sampling = {base, 0};
  lay(&sampling, &e->sampler.candidates, static_cast<uint64_t>(c.vocab_size));
  return max_u64(max_u64(keys.used, attention.used), max_u64(feed_forward.used, sampling.used));
}

bool place_pass(Engine* e, int32_t pages_max) {
  const ModelConfig& c = e->config;
  PassScratch& s = e->scratch;
  Arena* a = &e->arena;
  const int32_t batch = e->options.batch_rows_max;
  const int32_t wide = max_i32(c.dim, c.heads * c.head_dim);
  const uint64_t rows = static_cast<uint64_t>(batch);
  const uint64_t kv_dim = static_cast<uint64_t>(c.kv_heads) * static_cast<uint64_t>(c.head_dim);
  const uint64_t pairs = static_cast<uint64_t>(c.rope_dim / 2);
  s.pages_max = max_i32(pages_max, kTaskPagesMin);
  s.feed_rows = batch > kFeedRowsWhole ? (batch + 1) / 2 : batch;
  const uint64_t prepared = max_u64(kernels::activations_bytes(batch, wide),
                                    kernels::activations_bytes(s.feed_rows, c.ff_dim));
  uint8_t* shared = nullptr;
  if (!place(a, &shared, lay_shared(e, pages_max, nullptr))) return false;
  lay_shared(e, pages_max, shared);
  const bool placed =
      place(a, &s.x, rows * static_cast<uint64_t>(c.dim)) &&
      place(a, &s.normed, rows * static_cast<uint64_t>(wide)) &&
      place(a, &s.k_dense, rows * kv_dim) && place(a, &s.v_dense, rows * kv_dim) &&
      place(a, &s.cosines, rows * pairs) && place(a, &s.sines, rows * pairs) &&
      place(a, &s.prepared, prepared) &&
      place(a, &s.pages, static_cast<uint64_t>(s.pages_max)) && place(a, &s.tasks, kStepEntriesMax);
  s.attended = s.normed;  // written when the layer's input has been prepared and projected
  return placed;
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
  return place(a, &e->logits, rows * static_cast<uint64_t>(e->config.vocab_size));
}

}  // namespace

Status scratch_place(Engine* e, int32_t pages_max) {
  if (place_pass(e, pages_max) && place_sampling(e)) return Status::kOk;
  return scratch_too_large(e);
}

}  // namespace leanedge
