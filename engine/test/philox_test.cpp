// Known answers of Random123 (Salmon et al. 2011), philox4x32, 10 rounds.
#include "../src/philox.h"

#include "check.h"

using namespace leanedge;

namespace {

void known(PhiloxWords counter, uint32_t key0, uint32_t key1, PhiloxWords expected) {
  const PhiloxWords words = philox4x32(counter, key0, key1);
  for (int32_t i = 0; i < 4; ++i) CHECK_EQ(words.x[i], expected.x[i]);
}

}  // namespace

TEST(philox_gives_the_published_answers) {
  known({{0, 0, 0, 0}}, 0, 0, {{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}});
  known({{~0u, ~0u, ~0u, ~0u}}, ~0u, ~0u, {{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}});
  known({{0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}}, 0xa4093822u, 0x299f31d0u,
        {{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}});
}

TEST(philox_uniform_is_uniform) {
  int32_t counts[16] = {};
  for (int32_t position = 0; position < 16000; ++position) {
    const double u = philox_uniform(0x123456789abcdefull, position);
    CHECK(u >= 0 && u < 1);
    ++counts[static_cast<int32_t>(u * 16)];
  }
  double chi2 = 0;
  for (const int32_t count : counts) chi2 += (count - 1000.0) * (count - 1000.0) / 1000.0;
  CHECK(chi2 < 37.7);  // 15 degrees of freedom: one in a thousand is above
}
