// The relaxed dot products against answers that are known.
#include "dot.h"

#ifdef __wasm_relaxed_simd__

namespace leanedge::kernels {
namespace {

constexpr int32_t kRounds = 64;

struct Operands {
  int8_t x[16];
  uint8_t w[16];
};

// Values of all sizes, then the extremes, which saturate first. w is at most `greatest`.
Operands operands_of(int32_t round, uint32_t greatest) {
  Operands out;
  uint32_t state = static_cast<uint32_t>(round) * 2654435761u + 12345u;
  for (int32_t i = 0; i < 16; ++i) {
    state = state * 1664525u + 1013904223u;
    const int32_t x = round % 4 == 0 ? 127 : round % 4 == 1 ? -127 : static_cast<int8_t>(state >> 24);
    out.x[i] = static_cast<int8_t>(x == -128 ? -127 : x);
    out.w[i] = static_cast<uint8_t>(round % 2 == 0 ? greatest : (state >> 12) % (greatest + 1));
  }
  return out;
}

// Keeps the compiler from working anything out by itself.
inline v128_t opaque_load(const void* from) {
  __asm__ volatile("" : "+r"(from) : : "memory");
  return wasm_v128_load(from);
}

bool dot_add_is_exact(uint32_t greatest) {
  int32_t sums[4] = {-1000003, 7, 1 << 20, -(1 << 24)};
  v128_t actual = opaque_load(sums);
  for (int32_t round = 0; round < kRounds; ++round) {
    const Operands o = operands_of(round, greatest);
    actual = dot_add_i32(opaque_load(o.x), opaque_load(o.w), actual);
    for (int32_t i = 0; i < 16; ++i) sums[i / 4] += o.x[i] * o.w[i];
    if (!wasm_i32x4_all_true(wasm_i32x4_eq(actual, opaque_load(sums)))) return false;
  }
  return true;
}

bool dot_i16_is_exact() {
  for (int32_t round = 0; round < kRounds; ++round) {
    const Operands o = operands_of(round, 127);
    int16_t sums[8];
    for (int32_t i = 0; i < 8; ++i) {
      sums[i] = static_cast<int16_t>(o.x[2 * i] * o.w[2 * i] + o.x[2 * i + 1] * o.w[2 * i + 1]);
    }
    const v128_t actual = dot_i16(opaque_load(o.x), opaque_load(o.w));
    if (!wasm_i16x8_all_true(wasm_i16x8_eq(actual, opaque_load(sums)))) return false;
  }
  return true;
}

enum : int32_t { kUnknown = 0, kInexact = 1, kExact = 2 };
int32_t bytes_state;

}  // namespace

bool dot_bytes_exact() {
  if (bytes_state == kUnknown) bytes_state = dot_add_is_exact(255) ? kExact : kInexact;
  return bytes_state == kExact;
}

}  // namespace leanedge::kernels

extern "C" {

// Whether this engine's relaxed dot products give the answers that the specification leaves no choice
// about: 1, or 0 and the module must not be used. Plus 2 where dot_bytes_exact().
int32_t lew_probe(void) {
  using namespace leanedge::kernels;
  if (!dot_i16_is_exact() || !dot_add_is_exact(127)) return 0;
  return dot_bytes_exact() ? 3 : 1;
}

}  // extern "C"

#endif
