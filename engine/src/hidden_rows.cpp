#include "hidden_rows.h"

#include <math.h>
#include <string.h>

#include "leanedge/half.h"
#include "numeric.h"

namespace leanedge {
namespace {

constexpr int32_t kHighBytes = 8;

// The least number with 16 bits of an f32 that is at least max / 511; NaN where max is not finite.
uint16_t scale_of(float max) {
  if (!f32_finite(max)) return 0x7fc0;
  const uint32_t bits = f32_bits(max / static_cast<float>(kHiddenLevels));
  return static_cast<uint16_t>((bits + 0xffffu) >> 16);
}

void pack_group(const float* x, int32_t count, uint8_t* out) {
  float max = 0;
  for (int32_t i = 0; i < count; ++i) {
    const float size = fabsf(x[i]);
    if (!(size <= max)) max = size;  // a NaN stays: nothing is above it
    if (max != max) break;
  }
  const uint16_t stored = scale_of(max);
  const float scale = f32_from_bits(static_cast<uint32_t>(stored) << 16);
  memset(out, 0, kHiddenGroupBytes);
  memcpy(out + kHiddenGroup + kHighBytes, &stored, 2);
  const bool codes = scale > 0;  // neither zeros alone nor NaN
  for (int32_t i = 0; i < count; ++i) {
    const float steps = codes ? rintf(x[i] / scale) : 0.0f;
    const uint32_t code = static_cast<uint32_t>(static_cast<int32_t>(steps) + kHiddenLevels + 1);
    out[i] = static_cast<uint8_t>(code);
    out[kHiddenGroup + i % kHighBytes] = static_cast<uint8_t>(
        out[kHiddenGroup + i % kHighBytes] | ((code >> 8) << (2 * (i / kHighBytes))));
  }
}

void unpack_group(const uint8_t* packed, int32_t count, float* out) {
  uint16_t stored;
  memcpy(&stored, packed + kHiddenGroup + kHighBytes, 2);
  const float scale = f32_from_bits(static_cast<uint32_t>(stored) << 16);
  for (int32_t i = 0; i < count; ++i) {
    const uint32_t high = packed[kHiddenGroup + i % kHighBytes] >> (2 * (i / kHighBytes));
    const int32_t code = static_cast<int32_t>(packed[i] | ((high & 3u) << 8));
    out[i] = scale * static_cast<float>(code - (kHiddenLevels + 1));
  }
}

}  // namespace

void hidden_pack(const float* x, int32_t dim, uint8_t* out) {
  for (int32_t at = 0; at < dim; at += kHiddenGroup, out += kHiddenGroupBytes) {
    pack_group(x + at, dim - at < kHiddenGroup ? dim - at : kHiddenGroup, out);
  }
}

void hidden_unpack(const uint8_t* packed, int32_t dim, float* out) {
  for (int32_t at = 0; at < dim; at += kHiddenGroup, packed += kHiddenGroupBytes) {
    unpack_group(packed, dim - at < kHiddenGroup ? dim - at : kHiddenGroup, out + at);
  }
}

}  // namespace leanedge
