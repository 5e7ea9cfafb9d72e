// Hidden states of a long prompt between two layers, in 10.5 bits a channel: groups of 32 channels
// share a scale, codes are -511 .. 511. A state in bf16, as models are trained, has an error of the
// same size. Rows are packed and unpacked one by one: bits do not depend on how they are batched.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace leanedge {

inline constexpr int32_t kHiddenGroup = 32;
inline constexpr int32_t kHiddenLevels = 511;
// A group: 32 low bytes of codes + 512, 8 bytes of their high bits (4 codes a byte, code i in byte
// i % 8), the upper half of the f32 scale.
inline constexpr size_t kHiddenGroupBytes = 42;

// Bytes of a packed row; the last group may have fewer channels and takes as much.
constexpr size_t hidden_row_bytes(int32_t dim) {
  return static_cast<size_t>((dim + kHiddenGroup - 1) / kHiddenGroup) * kHiddenGroupBytes;
}
// Packs x (dim). Each value comes back within scale / 2, scale at most max|x| / 507 of its group;
// a group with a value that is not finite comes back as NaNs.
void hidden_pack(const float* x, int32_t dim, uint8_t* out);
// The values of a packed row, to `out` (dim).
void hidden_unpack(const uint8_t* packed, int32_t dim, float* out);

}  // namespace leanedge
