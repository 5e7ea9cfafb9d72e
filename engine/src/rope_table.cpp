#include "rope_table.h"

#include "numeric.h"

namespace leanedge {
namespace {

constexpr double kTwoPi = 6.28318530717958647693;

// Pair index at which a wave turns `turns` times within the original window (Peng et al. 2023,
// YaRN, section 3.2).
double yarn_pair(const ModelConfig& config, double turns) {
  return config.rope_dim *
         log_f64(static_cast<double>(config.yarn_original_context) / (turns * kTwoPi)) /
         (2.0 * log_f64(static_cast<double>(config.rope_base)));
}

double floor_f64(double x) {
  const double truncated = static_cast<double>(static_cast<int64_t>(x));
  return truncated > x ? truncated - 1 : truncated;
}

// How much of the stretched frequency pair `pair` keeps: 0 none (fast waves) .. 1 all (slow waves).
double yarn_ramp(double low, double high, int32_t pair) {
  const double width = high - low > 0.001 ? high - low : 0.001;
  const double at = (pair - low) / width;
  return at < 0 ? 0 : at > 1 ? 1 : at;
}

}  // namespace

void rope_table_init(RopeTable* table, const ModelConfig& config, const float* factors) {
  table->pairs = config.rope_dim / 2;
  table->magnitude = 1;
  const double log_base = log_f64(static_cast<double>(config.rope_base));
  double low = 0;
  double high = 0;
  if (config.rope_scaling == RopeScaling::kYarn) {
    table->magnitude = static_cast<double>(config.yarn_attention_factor);
    low = floor_f64(yarn_pair(config, static_cast<double>(config.yarn_beta_fast)));
    high = -floor_f64(-yarn_pair(config, static_cast<double>(config.yarn_beta_slow)));
    if (low < 0) low = 0;
    if (high > config.rope_dim - 1) high = config.rope_dim - 1;
  }
  for (int32_t i = 0; i < table->pairs; ++i) {
    double frequency = exp_f64(-2.0 * i / config.rope_dim * log_base);
    if (factors) frequency /= static_cast<double>(factors[i]);
    const double stretched = frequency / static_cast<double>(config.rope_scale);
    if (config.rope_scaling == RopeScaling::kLinear) frequency = stretched;
    if (config.rope_scaling == RopeScaling::kYarn) {
      const double mix = yarn_ramp(low, high, i);
      frequency = stretched * mix + frequency * (1 - mix);
    }
    table->frequency[i] = frequency;
  }
}

void rope_table_row(const RopeTable& table, int32_t position, float* cosines, float* sines) {
  for (int32_t i = 0; i < table.pairs; ++i) {
    double sine = 0;
    double cosine = 0;
    sincos_f64(position * table.frequency[i], &sine, &cosine);
    cosines[i] = static_cast<float>(cosine * table.magnitude);
    sines[i] = static_cast<float>(sine * table.magnitude);
  }
}

}  // namespace leanedge
