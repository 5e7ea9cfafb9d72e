// Packed hidden states: how far values move, and what is not a number stays so.
#include <math.h>

#include <initializer_list>

#include "../src/hidden_rows.h"
#include "check.h"
#include "random.h"

using namespace leanedge;
using leanedge::test::Random;

namespace {

constexpr int32_t kDimMax = 100;

struct Row {
  float x[kDimMax];
  float back[kDimMax];
  uint8_t packed[4 * kHiddenGroupBytes];
};

void round_trip(Row* row, int32_t dim) {
  hidden_pack(row->x, dim, row->packed);
  hidden_unpack(row->packed, dim, row->back);
}

float group_max(const Row& row, int32_t dim, int32_t i) {
  float max = 0;
  for (int32_t j = i / 32 * 32; j < dim && j < i / 32 * 32 + 32; ++j) {
    if (fabsf(row.x[j]) > max) max = fabsf(row.x[j]);
  }
  return max;
}

}  // namespace

TEST(hidden_rows_come_back_within_half_a_step) {
  Random random = {4};
  Row row;
  for (const int32_t dim : {1, 31, 32, 33, 64, 100}) {
    CHECK_EQ(hidden_row_bytes(dim), static_cast<size_t>((dim + 31) / 32 * 42));
    for (int32_t round = 0; round < 200; ++round) {
      const float size = ldexpf(1.0f, random.below(200) - 100);
      for (int32_t i = 0; i < dim; ++i) row.x[i] = size * random.uniform();
      if (round % 5 == 0) row.x[random.below(dim)] = 1000 * size;
      round_trip(&row, dim);
      for (int32_t i = 0; i < dim; ++i) {
        CHECK_NEAR(row.back[i], row.x[i], group_max(row, dim, i) / 507 / 2);
      }
      // What was packed once comes back the same when it is packed again, but for a finer scale.
      const Row once = row;
      for (int32_t i = 0; i < dim; ++i) row.x[i] = once.back[i];
      round_trip(&row, dim);
      for (int32_t i = 0; i < dim; ++i) {
        CHECK_NEAR(row.back[i], once.back[i], group_max(row, dim, i) / 507 / 2);
      }
    }
  }
}

TEST(hidden_rows_of_zeros_and_of_the_largest_numbers) {
  Row row = {};
  round_trip(&row, 40);
  for (int32_t i = 0; i < 40; ++i) CHECK_EQ(row.back[i], 0.0f);
  row.x[3] = 3.4e38f;
  row.x[4] = -3.4e38f;
  row.x[35] = 1e-45f;
  round_trip(&row, 40);
  CHECK_NEAR(row.back[3], 3.4e38, 3.4e35);
  CHECK_NEAR(row.back[4], -3.4e38, 3.4e35);
  CHECK_NEAR(row.back[35], 0, 1e-40);
}

TEST(hidden_rows_that_are_not_finite_stay_so) {
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    Row row = {};
    for (int32_t i = 0; i < 64; ++i) row.x[i] = 1;
    row.x[7] = bad;
    round_trip(&row, 64);
    for (int32_t i = 0; i < 64; ++i) CHECK_EQ(row.back[i] != row.back[i], i < 32);
  }
}
