#include "config_check.h"

#include "error.h"
#include "numeric.h"
#include "weights.h"

namespace leanedge {
namespace {

constexpr int32_t kBatchRowsMax = 4096;

// An integer field, its name and its range.
struct IntRange {
  const char* format;  // message; '#' value, '#' least, '#' most
  int64_t value;
  int64_t least;
  int64_t most;
};

Status check_ranges(const IntRange* ranges, size_t count, Status status, ErrorDetail* detail) {
  for (size_t i = 0; i < count; ++i) {
    const IntRange& range = ranges[i];
    if (range.value >= range.least && range.value <= range.most) continue;
    const int64_t bound = range.value < range.least ? range.least : range.most;
    return error_set(detail, status, range.value, bound, range.format,
                     {range.value, range.least, range.most});
  }
  return Status::kOk;
}

bool positive(float x) { return f32_finite(x) && x > 0; }

Status check_floats(const ModelConfig& c, ErrorDetail* detail) {
  // Values are reported in millionths: ErrorDetail holds integers.
  struct FloatRule {
    const char* format;
    float value;
    bool good;
  };
  const bool yarn = c.rope_scaling == RopeScaling::kYarn;
  const FloatRule rules[] = {
      {"rms_eps is # millionths, not in [0, 1)", c.rms_eps,
       f32_finite(c.rms_eps) && c.rms_eps >= 0 && c.rms_eps < 1},
      {"rope_base is # millionths, not above 1", c.rope_base,
       f32_finite(c.rope_base) && c.rope_base > 1},
      {"rope_scale is # millionths, not at least 1", c.rope_scale,
       f32_finite(c.rope_scale) && c.rope_scale >= 1},
      {"yarn_original_context is # millionths, not at least 1", c.yarn_original_context,
       !yarn || (f32_finite(c.yarn_original_context) && c.yarn_original_context >= 1)},
      {"yarn_beta_fast is # millionths, not above 0", c.yarn_beta_fast,
       !yarn || positive(c.yarn_beta_fast)},
      {"yarn_beta_slow is # millionths, not above 0", c.yarn_beta_slow,
       !yarn || positive(c.yarn_beta_slow)},
      {"yarn_attention_factor is # millionths, not above 0", c.yarn_attention_factor,
       !yarn || positive(c.yarn_attention_factor)},
  };
  for (const FloatRule& rule : rules) {
    if (rule.good) continue;
    const bool shown = f32_finite(rule.value) && rule.value < 1e12f && rule.value > -1e12f;
    const int64_t value = shown ? static_cast<int64_t>(rule.value * 1e6f) : -1;
    return error_set(detail, Status::kInvalidModel, value, 0, rule.format, {value});
  }
  return Status::kOk;
}

}  // namespace

Status config_check(const ModelConfig& c, ErrorDetail* detail) {
  const IntRange ranges[] = {
      {"architecture is #, not one of # .. #", static_cast<int64_t>(c.architecture), 0, 2},
      {"layers is #, not in # .. #", c.layers, 1, kLayersMax},
      {"dim is #, not in # .. #", c.dim, 1, kDimMax},
      {"ff_dim is #, not in # .. #", c.ff_dim, 1, kDimMax},
      {"heads is #, not in # .. #", c.heads, 1, kDimMax},
      {"kv_heads is #, not in # .. #", c.kv_heads, 1, kKvHeadsMax},
      {"head_dim is #, not in # .. #", c.head_dim, 2, kHeadDimMax},
      {"vocab_size is #, not in # .. #", c.vocab_size, 1, kVocabMax},
      {"context_tokens_max is #, not in # .. #", c.context_tokens_max, 1, kContextMax},
      {"rope_dim is #, not in # .. # (head_dim)", c.rope_dim, 2, c.head_dim},
      {"rope_order is #, not one of # .. #", static_cast<int64_t>(c.rope_order), 0, 1},
      {"rope_scaling is #, not one of # .. #", static_cast<int64_t>(c.rope_scaling), 0, 2},
      {"tied_embeddings is #, not # or #", c.tied_embeddings, 0, 1},
      {"qkv_bias is #, not # or #", c.qkv_bias, 0, 1},
      {"qk_norm is #, not # or #", c.qk_norm, 0, 1},
      {"rope_factors is #, not # or #", c.rope_factors, 0, 1},
  };
  const Status status =
      check_ranges(ranges, sizeof(ranges) / sizeof(ranges[0]), Status::kInvalidModel, detail);
  if (status != Status::kOk) return status;
  if (c.dim % 4 || c.ff_dim % 4) {
    return error_set(detail, Status::kInvalidModel, c.dim % 4 ? c.dim : c.ff_dim, 4,
                     "dim is # and ff_dim is #: both must be multiples of #", {c.dim, c.ff_dim, 4});
  }
  if (c.head_dim % 2 || c.rope_dim % 2) {
    return error_set(detail, Status::kInvalidModel, c.head_dim % 2 ? c.head_dim : c.rope_dim, 2,
                     "head_dim is # and rope_dim is #: both must be multiples of #",
                     {c.head_dim, c.rope_dim, 2});
  }
  if (c.heads % c.kv_heads) {
    return error_set(detail, Status::kInvalidModel, c.heads, c.kv_heads,
                     "heads is #, no multiple of kv_heads, which is #", {c.heads, c.kv_heads});
  }
  if (static_cast<int64_t>(c.heads) * c.head_dim > kDimMax) {
    const int64_t q_dim = static_cast<int64_t>(c.heads) * c.head_dim;
    return error_set(detail, Status::kInvalidModel, q_dim, kDimMax,
                     "heads x head_dim is #, above #", {q_dim, kDimMax});
  }
  return check_floats(c, detail);
}

Status options_check(const EngineOptions& o, const ModelConfig& c, ErrorDetail* detail) {
  const IntRange ranges[] = {
      {"sequences_max is #, not in # .. #", o.sequences_max, 1, kSequencesMax},
      {"batch_rows_max is #, not in # .. #", o.batch_rows_max, 1, kBatchRowsMax},
      {"context_tokens_max is #, not in # .. # (the model's)", o.context_tokens_max, 1,
       c.context_tokens_max},
      {"weight_form is #, not in # .. # (the backend's)", o.weight_form, 0, kWeightForms - 1},
  };
  return check_ranges(ranges, sizeof(ranges) / sizeof(ranges[0]), Status::kInvalidArgument, detail);
}

}  // namespace leanedge
