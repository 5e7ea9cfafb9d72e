// The kernel contract: what a backend implements. `engine/` drives these functions and implements
// them once in plain scalar C++ (the reference, backend 1); `wasm/` implements them with SIMD
// (backend 2), `gpu-worker/` on a device (backend 3, where pointers are device pointers and the
// context carries the stream). A build links exactly one implementation.
//
// Rules that hold for every function:
// - Row invariance. The bits of an output row depend on that row's inputs only, never on how many
//   rows a call has or where the row stands. Replay rests on it: rows recomputed in one batch
//   equal the rows that were decoded one by one. A kernel for many rows hence adds up in the same
//   order as the kernel for one row.
// - No allocation: scratch is passed in, sized by the matching *_bytes function.
// - Rows are contiguous f32 unless a shape says otherwise. Pointers are 16-byte aligned.
// - No aliasing of inputs and outputs unless a comment allows it.
// - A caller's error is an ENGINE_ASSERT. Nothing here returns a Status: what can fail was checked
//   before.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "leanedge/model.h"
#include "leanedge/page.h"
#include "leanedge/plan.h"

namespace leanedge::kernels {

// State of a backend that its kernels share: a stream, a thread pool, nothing. Opaque to the graph.
struct Context;

// ---- weights -------------------------------------------------------------------------------

// A matrix in the backend's own layout. Made row by row while the file streams in.
struct PackedMatrix {
  uint8_t* data;   // packed_bytes(dtype, rows, cols), 64-byte aligned
  Dtype dtype;     // dtype of the file; weights keep exactly the file's values
  int32_t rows;    // output size
  int32_t cols;    // input size; a multiple of 32 for block dtypes
  int32_t reserved;
};

// Bytes of a packed matrix, any padding of rows included.
size_t packed_bytes(Dtype dtype, int32_t rows, int32_t cols);
// Packs one row. `src` is the row as in the GGUF file (any alignment). Every row exactly once, in
// any order; rows of padding are zeroed by the first call's owner: `data` starts as zeros.
void pack_row(const PackedMatrix& matrix, int32_t row, const uint8_t* src);
// Dequantises one row to `out` (cols): exactly the file's weights.
void unpack_row(const PackedMatrix& matrix, int32_t row, float* out);

// ---- matrix products -----------------------------------------------------------------------

// Activations prepared once for several matrices that share them: the f32 rows, and whatever the
// backend's integer kernels need (int8 values with a scale, and their sum, per 32 columns).
struct Activations {
  const float* x;    // (rows, cols)
  uint8_t* prepared; // activations_bytes(rows, cols)
  int32_t rows;
  int32_t cols;
};

// Bytes that prepare_activations writes.
size_t activations_bytes(int32_t rows, int32_t cols);
// Fills `prepared` from `x`. int8 form: scale = max|x| / 127 over each 32 columns, q =
// round-half-away(x / scale), as ggml does for its Q8_0 activations; so errors compare.
void prepare_activations(Context* context, Activations& activations);
// y (activations.rows, matrix.rows), y[r][n] = sum over c of W[n][c] * x[r][c].
// F32, F16 and BF16 weights take x in f32. Block dtypes take int8 x: exact integer sums within 32
// columns, f32 across them.
void matmul(Context* context, const PackedMatrix& matrix, const Activations& activations, float* y);

// ---- rows ----------------------------------------------------------------------------------

// y[r] = x[r] / sqrt(mean(x[r]^2) + eps) * weight (Zhang and Sennrich 2019, eq. 4). y may be x.
// Also used per head: rows = rows * heads, dim = head_dim.
void rmsnorm(Context* context, const float* x, const float* weight, float eps, int32_t rows,
             int32_t dim, float* y);
// x (rows, dim) += y (rows, dim).
void add(Context* context, float* x, const float* y, int32_t rows, int32_t dim);
// x (rows, dim) += bias (dim).
void add_bias(Context* context, float* x, const float* bias, int32_t rows, int32_t dim);
// gate (rows, dim) = silu(gate) * up, silu(a) = a / (1 + exp(-a)).
void swiglu(Context* context, float* gate, const float* up, int32_t rows, int32_t dim);
// Rotates channels i and i + rope_dim/2 of each head (half-rotation order) of x (rows, heads,
// head_dim) by the angles of that row: cos, sin (rows, rope_dim / 2). Channels from rope_dim on
// pass through.
void rope(Context* context, float* x, const float* cos, const float* sin, int32_t rows,
          int32_t heads, int32_t head_dim, int32_t rope_dim);
// f32 -> f16, round to nearest even; values beyond f16's range become infinities.
void to_f16(Context* context, const float* x, size_t count, uint16_t* out);

// ---- attention over the zones --------------------------------------------------------------

// A run of cached rows in full precision of one layer of one sequence: sink, recent, or the dense
// rows of the segment that is being read. K and V of head h, row i: base + (h * stride + i) *
// head_dim.
struct FullSpan {
  const uint16_t* k;      // (kv_heads, stride, head_dim), f16, after RoPE
  const uint16_t* v;      // (kv_heads, stride, head_dim), f16
  int32_t stride;         // rows between heads
  int32_t rows;           // rows of the span
  int32_t first_position; // position of row 0 in the sequence
};
inline constexpr int32_t kFullSpansMax = 4;

// Query rows of one sequence that see the same archive. Rows see every page, or, where `selects`
// says so, the pages that each of them chooses, and the full rows whose position is at most their
// own.
//
// Order of summation (bit-exact within the reference): slots are taken in blocks, the sink's rows
// first, then runs of 32 slots from position `sink` on, whatever zone they lie in, so that moving a
// page from recent to an identity archive changes no bit. Scores: q.k = (s0 + s1) + (s2 + s3), s_j
// the sum over kept channels of index = j mod 4 in increasing order, times 1/sqrt(head_dim). Blocks
// are merged by an online softmax (Milakov and Gimelshein 2018, algorithm 3): running maximum, sum
// and output are rescaled once a block.
//
// Choice of pages (plan-format.md, 'Page selection'): where the archive has more than
// plan.pages_floor pages, a row that selects reads plan.pages_per_step of them per KV head of a
// width above 0: the newest page (the last of the table), and the others of the highest score, the
// older page where scores are equal. They are summed in the table's order. Score of a page: the
// maximum, over the query heads that share the KV head, of (s0 + s1) + (s2 + s3), s_j the sum over
// kept channels of index = j mod 4 in increasing order of max(q lo, q hi), with lo and hi as
// page_bounds_ref gives them; a NaN counts as minus infinity. page_choose (page.h) chooses.
//
// What every backend holds:
// - The bits of a row depend on that row's inputs only (row invariance, above), on a page's bytes
//   and on positions; never on how the full rows are cut into spans.
// - Under a lossless plan (f16, all channels, no selection) a row has the same bits whether its
//   slots lie in pages or in full rows. Where every page is read, a selecting plan gives the bits of
//   the same plan without selection.
// - A backend may sum in another order, and fold scales: K's scale into q and its minimum into one
//   more dot product, V's into probabilities. With e = 2^-24, w the width, n the slots that the row
//   reads, and over these slots S = max of sum over kept channels of |q| (|min| + scale * levels)
//   (f16: |q k|), V = max of |min| + scale * levels (f16: |v|), each output differs from the
//   reference by at most
//       attention_error_max = e V (4 (w + 16) S / sqrt(head_dim) + 4 n + 128).
// - Where K or V are codes, a backend may round the folded query, and the folded probabilities, to
//   16-bit fixed point: one unit for each 32 kept channels of a page, and for 32 slots of a V group in
//   int8, 128 slots in int4 and int2. With c = 128, 8 or 2 for int8, int4 or int2, r = 32 for K, 32 or
//   128 for V as said, f = r c / 65000, and over the pages that the row reads, Q = sum over runs of 32
//   kept channels of the largest |q| scale, W = the largest scale of V, this adds at most
//       attention_fixed_max = V (exp(2 f_k Q / sqrt(head_dim)) - 1) + f_v W.
//   The storage itself may be off by half a scale; f is at most 6 %, 1.6 % and 0.4 % of one.
// - A backend may sum the scores of pages in another order: each is then off by at most
//       page_score_error_max = 2 e (w + 4) sum over kept channels of |q| max(|lo|, |hi|),
//   and the choice may differ from the reference's in pages whose scores differ by less than the sum
//   of their two errors. Within a backend the choice is a function of the row and the pages alone.
struct AttentionTask {
  const float* q;                // (rows, heads, head_dim), after RoPE
  float* out;                    // (rows, heads, head_dim)
  const uint8_t* const* pages;   // (page_count) this layer's block of each archive page
  FullSpan spans[kFullSpansMax]; // in order of position; neither overlap nor leave a gap, but for
                                 // the archive between sink and recent
  int32_t page_count;
  int32_t span_count;
  int32_t rows;
  int32_t first_position;        // position of query row 0; rows follow each other
  int32_t plan;                  // index into AttentionShape::plans
  int32_t selects;               // 1: generated rows of a plan that selects pages; 0: rows read all
};

// What the tasks of one call share.
struct AttentionShape {
  const CachePlan* const* plans; // plans of the engine
  int32_t layer;
  int32_t heads;
  int32_t kv_heads;
  int32_t head_dim;
};

// Bytes of scratch that one call of attention() takes, for tasks of at most `rows_max` rows and
// `pages_max` pages.
size_t attention_scratch_bytes(int32_t rows_max, int32_t heads, int32_t head_dim,
                               int32_t pages_max);
// Attends for all tasks of one layer.
void attention(Context* context, const AttentionShape& shape, const AttentionTask* tasks,
               int32_t task_count, uint8_t* scratch);

// Packs one page of one layer: gathers kept channels, quantises, summarises (page.h gives the
// bytes). k, v: (kv_heads, stride, head_dim) f16, the page's 32 rows starting at row `row`; rows
// wrap at `stride` where they lie in a ring.
void page_flush(Context* context, const CachePlan& plan, int32_t layer, int32_t kv_heads,
                int32_t head_dim, const uint16_t* k, const uint16_t* v, int32_t stride, int32_t row,
                uint8_t* page);

}  // namespace leanedge::kernels
