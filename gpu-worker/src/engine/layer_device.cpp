#include "layer_device.h"

#include "leanedge_cuda/page_selection.h"
#include "leanedge_cuda/prefill_attention.h"
#include "observe.h"
#include "plans_device.h"
#include "row_kernels.h"
#include "../kernels/variants.h"

namespace leanedge::cuda {
namespace {

size_t elements(int32_t rows, int32_t cols) {
  return static_cast<size_t>(rows) * static_cast<size_t>(cols);
}

// Rows up to here keep the products of wq, wk and wv in f32: a few bytes more that nobody notices.
constexpr int32_t kExactRows = kDecodeRowsMax;

// The matrix that a later product reads: `most` bytes of it, from its first on, may be asked for.
struct NextMatrix {
  const Matrix& matrix;
  int32_t most;
};

void ask_for(const NextMatrix& next, MatrixProduct* call) {
  const uint64_t bytes = matrix_bytes(next.matrix.form, next.matrix.rows, next.matrix.cols);
  const uint64_t most = static_cast<uint64_t>(next.most);
  call->next = next.matrix.data;
  call->next_bytes = static_cast<uint32_t>(bytes < most ? bytes : most) / 16 * 16;
}

// out = matrix x norm(x), normed by the product itself where it serves that.
void normed_product(const Engine& engine, const Matrix& matrix, const float* x, const float* weight,
                    int32_t rows, const float* bias, void* out, MatrixOutput output,
                    const NextMatrix& next) {
  MatrixProduct call = {};
  ask_for(next, &call);
  if (rows <= kMatrixNormRowsMax) {
    call.norm_x = x;
    call.norm_weight = weight;
    call.norm_eps = engine.config.rms_eps;
  } else {
    RmsNorm norm = {};
    norm.x = const_cast<float*>(x);
    norm.weight = weight;
    norm.y = device.scratch.normed;
    norm.y_type = Dtype::kBF16;
    norm.eps = engine.config.rms_eps;
    norm.rows = rows;
    norm.dim = engine.config.dim;
    device_check(rmsnorm_launch(norm, device.stream));
    call.x = device.scratch.normed;
  }
  call.inputs = rows;
  call.bias = bias;
  call.out = out;
  call.output = output;
  call.overlap = 1;
  device_check(matrix_product_launch(device.matrix, matrix, call, device.stream, &device.error));
}

// x += matrix x input.
void residual_product(const Matrix& matrix, const uint16_t* input, int32_t rows, float* x,
                      const NextMatrix& next) {
  MatrixProduct call = {};
  ask_for(next, &call);
  call.x = input;
  call.inputs = rows;
  call.out = x;
  call.output = MatrixOutput::kResidual;
  call.overlap = 1;
  device_check(matrix_product_launch(device.matrix, matrix, call, device.stream, &device.error));
}

// Q of a group as its attention takes it; K and V to their targets.
void rotate(const Engine& engine, const PassTables& tables, const PassGroup& group, int32_t layer) {
  const ModelConfig& c = engine.config;
  const DeviceScratch& s = device.scratch;
  const DeviceLayer& weights = device.weights.layers[layer];
  const bool exact = tables.rows <= kExactRows;
  const size_t qkv = elements(group.row, (c.heads + 2 * c.kv_heads) * c.head_dim);
  RotateWrite call = {};
  call.qkv = static_cast<const uint8_t*>(s.qkv) + qkv * (exact ? 4 : 2);
  call.qkv_type = exact ? Dtype::kF32 : Dtype::kBF16;
  call.q_norm = weights.q_norm;
  call.k_norm = weights.k_norm;
  call.angles = s.angles + elements(group.row, engine.rope.pairs);
  call.targets = tables.targets + group.row;
  if (group.decodes) {
    call.q_f32 = s.q_f32;
  } else {
    call.q_f16 = s.q_f16 + elements(group.row, c.heads * c.head_dim);
  }
  call.not_finite = s.bad_rows + group.row;
  call.zone_layer = group.zone_layer;
  call.layer = layer;
  call.eps = c.rms_eps;
  call.rows = group.rows;
  call.heads = c.heads;
  call.kv_heads = c.kv_heads;
  call.head_dim = c.head_dim;
  call.rope_dim = c.rope_dim;
  device_check(rotate_write_launch(call, device.stream));
}

// Adds those rows of a group that le_observe asked for.
void observe_group(const Engine& engine, const PassTables& tables, const PassGroup& group,
                   int32_t layer) {
  const ModelConfig& c = engine.config;
  for (int32_t i = 0; i < tables.run_count && engine.observation.sequence >= 0; ++i) {
    const Run& run = tables.runs[i];
    if (run.sequence - engine.sequences != engine.observation.sequence) continue;
    const int32_t begin = run.row > group.row ? run.row : group.row;
    const int32_t run_end = run.row + run.rows;
    const int32_t end = run_end < group.row + group.rows ? run_end : group.row + group.rows;
    if (begin >= end) continue;
    const int32_t position = run.first + begin - run.row;
    const int32_t before = engine.observation.query_from - position;
    const size_t q_at = elements(begin - group.row, c.heads * c.head_dim);
    SquareSums call = {};
    call.targets = tables.targets + begin;
    if (group.decodes) {
      call.q_f32 = device.scratch.q_f32 + q_at;
    } else {
      call.q_f16 = device.scratch.q_f16 + elements(group.row, c.heads * c.head_dim) + q_at;
    }
    call.sums = observe_sums(engine, layer);
    call.zone_offset = group.zone_layer * static_cast<size_t>(layer);
    call.rows = end - begin;
    call.q_from = before > 0 ? before : 0;
    call.heads = c.heads;
    call.kv_heads = c.kv_heads;
    call.head_dim = c.head_dim;
    device_check(square_sums_launch(call, device.stream));
  }
}

void decode_attend(const Engine& engine, const PassGroup& group, int32_t layer) {
  const ModelConfig& c = engine.config;
  const DeviceScratch& s = device.scratch;
  const DevicePlan& plan = device.plans[group.plan];
  DecodeAttention call = {};
  call.step = group.selects ? group.chosen : group.step;
  call.channels = plan.channels;
  call.arena = plan_arena(engine, group.plan, layer);
  call.q = s.q_f32;
  call.out_bf16 = s.attended + elements(group.row, c.heads * c.head_dim);
  call.scratch = s.decode;
  call.zone_layer = plan.zone_layer;
  call.layer = layer;
  call.heads = c.heads;
  call.overlap = 1;
  call.form = group.form;
  if (group.selects) {
    PageSelection choose = {};
    choose.rows = group.step.rows;
    choose.channels = call.channels;
    choose.arena = call.arena;
    choose.q = s.q_f32;
    choose.chosen = s.chosen;
    choose.scratch = s.selection;
    choose.chosen_pitch = s.chosen_pitch;
    choose.pages_max = s.pages_max;
    choose.row_count = group.rows;
    choose.heads = c.heads;
    choose.overlap = 1;
    device_check(page_selection_launch(plan.layers[layer], choose, device.stream));
    call.table_pitch = s.chosen_pitch;
  }
  device_check(decode_attention_launch(plan.layers[layer], call, device.stream));
}

void prompt_attend(const Engine& engine, const PassGroup& group, int32_t layer) {
  const ModelConfig& c = engine.config;
  const DeviceScratch& s = device.scratch;
  const DevicePlan& plan = device.plans[group.plan];
  const size_t q_dim = elements(c.heads, c.head_dim);
  PrefillAttention call = {};
  call.runs = group.runs;
  call.tiles = group.tiles;
  call.channels = plan.channels;
  call.arena = plan_arena(engine, group.plan, layer);
  call.q = s.q_f16 + static_cast<size_t>(group.row) * q_dim;
  call.out = s.attended + static_cast<size_t>(group.row) * q_dim;
  call.q_pitch = q_dim;
  call.out_pitch = q_dim;
  call.zone_layer = plan.zone_layer;
  call.q_type = RowType::kF16;
  call.out_type = RowType::kBf16;
  call.scratch = s.prefill;
  call.tile_count = group.tile_count;
  call.layer = layer;
  call.heads = c.heads;
  call.has_pages = group.has_pages;
  call.slots_max = group.slots_max;
  call.overlap = 1;
  device_check(prefill_attention_launch(plan.layers[layer], call, device.stream));
}

void feed_forward(const Engine& engine, int32_t layer, int32_t rows, float* x) {
  const DeviceScratch& s = device.scratch;
  const DeviceLayer& weights = device.weights.layers[layer];
  const bool last = layer == engine.config.layers - 1;
  const Matrix& behind = last ? device.weights.output : device.weights.layers[layer + 1].qkv;
  normed_product(engine, weights.gate_up, x, weights.ffn_norm, rows, nullptr, s.hidden,
                 MatrixOutput::kSwiglu, {weights.down, variants().next_bytes});
  residual_product(weights.down, s.hidden, rows, x, {behind, variants().next_bytes});
}

// The last rows of all runs, of x and of what attention gave (pairs of bf16 go as one f32), together.
void gather_last(const Engine& engine, const PassTables& tables, const float* x) {
  const ModelConfig& c = engine.config;
  const DeviceScratch& s = device.scratch;
  GatherRows call = {};
  call.x = x;
  call.index = tables.last;
  call.out = s.last;
  call.rows = tables.run_count;
  call.dim = c.dim;
  device_check(gather_rows_launch(call, device.stream));
  call.x = reinterpret_cast<const float*>(s.attended);
  call.out = reinterpret_cast<float*>(s.attended_last);
  call.dim = c.heads * c.head_dim / 2;
  device_check(gather_rows_launch(call, device.stream));
}

}  // namespace

void layer_launch(const Engine& engine, const PassTables& tables, int32_t layer, float* x,
                  Continue rows) {
  const DeviceScratch& s = device.scratch;
  const DeviceLayer& weights = device.weights.layers[layer];
  const MatrixOutput output = tables.rows <= kExactRows ? MatrixOutput::kF32 : MatrixOutput::kBf16;
  normed_product(engine, weights.qkv, x, weights.attn_norm, tables.rows, weights.qkv_bias, s.qkv,
                 output, {weights.o, variants().next_far_bytes});
  for (int32_t i = 0; i < tables.group_count; ++i) {
    const PassGroup& group = tables.groups[i];
    rotate(engine, tables, group, layer);
    observe_group(engine, tables, group, layer);
    if (rows == Continue::kNone) continue;
    if (group.decodes) {
      decode_attend(engine, group, layer);
    } else {
      prompt_attend(engine, group, layer);
    }
  }
  const NextMatrix feeds = {weights.gate_up, variants().next_bytes};
  switch (rows) {
    case Continue::kNone: return;
    case Continue::kAll:
      residual_product(weights.o, s.attended, tables.rows, x, feeds);
      feed_forward(engine, layer, tables.rows, x);
      return;
    case Continue::kLast:
      gather_last(engine, tables, x);
      residual_product(weights.o, s.attended_last, tables.run_count, s.last, feeds);
      feed_forward(engine, layer, tables.run_count, s.last);
      return;
  }
}

}  // namespace leanedge::cuda
