// Philox4x32-10, a counter-based random number generator (Salmon et al. 2011, "Parallel random
// numbers: as easy as 1, 2, 3"): noise is a function of key and counter, without state.
#pragma once

#include <stdint.h>

namespace leanedge {

struct PhiloxWords {
  uint32_t x[4];
};

// Ten rounds over `counter` under the key (key0, key1).
constexpr PhiloxWords philox4x32(PhiloxWords counter, uint32_t key0, uint32_t key1) {
  PhiloxWords c = counter;
  for (int32_t round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xd2511f53u} * c.x[0];
    const uint64_t product1 = uint64_t{0xcd9e8d57u} * c.x[2];
    c = {{static_cast<uint32_t>(product1 >> 32) ^ c.x[1] ^ key0, static_cast<uint32_t>(product1),
          static_cast<uint32_t>(product0 >> 32) ^ c.x[3] ^ key1, static_cast<uint32_t>(product0)}};
    key0 += 0x9e3779b9u;
    key1 += 0xbb67ae85u;
  }
  return c;
}

// Uniform in [0, 1) with 53 bits, for the token at `position` of a log under `seed`.
constexpr double philox_uniform(uint64_t seed, int32_t position) {
  const PhiloxWords counter = {{static_cast<uint32_t>(position), 0, 0, 0}};
  const PhiloxWords words =
      philox4x32(counter, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  const uint64_t bits = (static_cast<uint64_t>(words.x[0]) << 32 | words.x[1]) >> 11;
  return static_cast<double>(bits) * 0x1p-53;
}

}  // namespace leanedge
