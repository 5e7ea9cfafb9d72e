// Frequencies and angles of rotation, against the formulas in plain double arithmetic.
#include <math.h>

#include "../src/rope_table.h"
#include "check.h"
#include "tiny_model.h"

using namespace leanedge;

namespace {

ModelConfig config_of(int32_t rope_dim, float base) {
  ModelConfig c = test::tiny_config(Architecture::kQwen2);
  c.head_dim = rope_dim;
  c.rope_dim = rope_dim;
  c.rope_base = base;
  return c;
}

}  // namespace

TEST(rope_frequencies_fall_by_the_base) {
  RopeTable table;
  rope_table_init(&table, config_of(64, 500000), nullptr);
  for (int32_t i = 0; i < 32; ++i) CHECK_NEAR(table.frequency[i] * pow(500000, i / 32.0), 1, 1e-13);
  float c[32];
  float s[32];
  rope_table_row(table, 100003, c, s);
  for (int32_t i = 0; i < 32; ++i) {
    CHECK_NEAR(c[i], cos(100003 * pow(500000, -i / 32.0)), 1e-7);
    CHECK_NEAR(s[i], sin(100003 * pow(500000, -i / 32.0)), 1e-7);
  }
}

TEST(rope_linear_scaling_and_factors_divide) {
  ModelConfig config = config_of(8, 10000);
  config.rope_scaling = RopeScaling::kLinear;
  config.rope_scale = 4;
  const float factors[4] = {1, 2, 4, 8};
  RopeTable table;
  rope_table_init(&table, config, factors);
  for (int32_t i = 0; i < 4; ++i) {
    CHECK_NEAR(table.frequency[i] * pow(10000, i / 4.0) * 4 * pow(2, i), 1, 1e-13);
  }
}

// Fast waves keep their frequency, slow ones are stretched by the whole scale, and the ramp between
// goes from the pair that turns beta_fast times in the original window to the one that turns
// beta_slow times (Peng et al. 2023, section 3.2).
TEST(rope_yarn_mixes_by_a_ramp) {
  ModelConfig config = config_of(128, 1000000);
  config.rope_scaling = RopeScaling::kYarn;
  config.rope_scale = 4;
  config.yarn_original_context = 32768;
  config.yarn_attention_factor = 1.25f;
  RopeTable table;
  rope_table_init(&table, config, nullptr);
  const auto pair_of = [](double turns) {
    return 128 * log(32768 / (turns * 2 * M_PI)) / (2 * log(1000000.0));
  };
  const double low = floor(pair_of(32));
  const double high = ceil(pair_of(1));
  CHECK(low > 10 && high < 60);
  int32_t between = 0;
  for (int32_t i = 0; i < 64; ++i) {
    const double full = pow(1000000, -i / 64.0);
    double mix = (i - low) / (high - low);
    mix = mix < 0 ? 0 : mix > 1 ? 1 : mix;
    between += mix > 0 && mix < 1;
    CHECK_NEAR(table.frequency[i] / (full / 4 * mix + full * (1 - mix)), 1, 1e-12);
  }
  CHECK(between > 5);
  float c[64];
  float s[64];
  rope_table_row(table, 0, c, s);
  CHECK_EQ(c[3], 1.25f);
  CHECK_EQ(s[3], 0.0f);
}
