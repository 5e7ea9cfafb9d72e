// Own elementary functions against libm.
#include "../src/numeric.h"

#include <math.h>

#include "check.h"
#include "random.h"

using namespace leanedge;

TEST(numeric_functions_agree_with_libm) {
  test::Random random = {8};
  for (int32_t i = 0; i < 20000; ++i) {
    const double x = static_cast<double>(random.uniform());
    const double e = exp(x * 700);
    CHECK_NEAR(exp_f64(x * 700) / e, 1, 1e-13);
    CHECK_NEAR(exp_f32(static_cast<float>(x * 80)) /
                   static_cast<float>(exp(static_cast<double>(static_cast<float>(x * 80)))),
               1, 1.2e-7);
    const float weight = 43.5f * random.uniform() - 43.5f;
    CHECK_NEAR(exp_weight(weight) / exp(static_cast<double>(weight)), 1, 4e-7);
    const double positive = exp(x * 30);
    CHECK_NEAR(log_f64(positive), log(positive), 1e-13);
    double s = 0;
    double c = 0;
    const double angle = x * (i % 2 ? 10 : 1048576);
    sincos_f64(angle, &s, &c);
    CHECK_NEAR(s, sin(angle), 1e-14);
    CHECK_NEAR(c, cos(angle), 1e-14);
  }
}

TEST(numeric_functions_at_the_edges) {
  CHECK_EQ(exp_f64(0), 1.0);
  CHECK_EQ(exp_f64(-INFINITY), 0.0);
  CHECK_EQ(exp_f64(INFINITY), static_cast<double>(INFINITY));
  CHECK_EQ(exp_f64(710), static_cast<double>(INFINITY));
  CHECK_EQ(exp_f64(-746), 0.0);
  CHECK(exp_f64(-744) > 0);
  CHECK(!(exp_f64(NAN) == exp_f64(NAN)));
  CHECK_EQ(exp_f32(200), INFINITY);
  CHECK_EQ(exp_f32(-200), 0.0f);
  CHECK_EQ(exp_weight(0), 1.0f);
  CHECK_EQ(exp_weight(-88), 0.0f);
  CHECK_EQ(exp_weight(-INFINITY), 0.0f);
  CHECK_EQ(log_f64(1), 0.0);
  CHECK(f32_finite(3.4e38f));
  CHECK(!f32_finite(INFINITY));
  CHECK(!f32_finite(NAN));
}
