// Archive pages as tiles of f16 rows in shared memory: two pages, copied as they lie in the arena,
// become 64 rows of K (kept channels only) and 64 rows of V, slot-major. A value is min + scale
// code in one fused multiply-add of f16, rounded once.
//
// Codes become numbers by their place in the mantissa of 1024: (1024 + code 2^P) 2^-P - 1024 2^-P
// is exact for every plane P. Which lane takes which word is chosen so that the lanes of one store
// lie in different banks.
#pragma once

#include "../kernels/warp_ops.cuh"
#include "leanedge/plan.h"
#include "prefill_params.h"

namespace leanedge::cuda {

// Bytes of a slice: 64 channels of kRows rows.
template <int kRows>
inline constexpr int kTileSlice = kRows * 128;

// Byte at which chunk `chunk` (16 bytes, 8 channels) of row `row` lies in a tile of kRows rows:
// slices of 64 channels, in each of them rows of 128 bytes whose chunks are permuted by the row's
// number. It is the layout that matrix loads read without conflicts, and that wgmma calls a swizzle
// of 128 bytes.
template <int kRows>
__device__ __forceinline__ uint32_t tile_place(int row, int chunk) {
  return static_cast<uint32_t>((chunk >> 3) * kTileSlice<kRows> + row * 128 +
                               (((chunk ^ row) & 7) << 4));
}

// Bytes of shared memory for one page as it lies in the arena: half for K, half for V.
template <int D>
inline constexpr int kPageRoom = kPrefillKeys * D * 2;

// Place of 16-byte chunk `i` of K values in f16, (width, 4 chunks): the channels of a store's lanes
// lie in different banks.
__device__ __forceinline__ int f16_place(int i) { return i ^ ((i >> 3) & 3); }

// Starts the copies of a page of a head.
template <int D>
__device__ __forceinline__ void page_copy(const DecodeHead& head, const uint8_t* block,
                                          bool f16_keys, uint32_t room) {
  const uint8_t* k = block + head.k_values;
  for (int i = threadIdx.x; i < head.k_bytes >> 4; i += kPrefillThreads) {
    copy_async_16(room + static_cast<uint32_t>((f16_keys ? f16_place(i) : i) << 4), k + 16 * i);
  }
  const uint8_t* v = block + head.v_values;
  const uint32_t room_v = room + kPageRoom<D> / 2;
  for (int i = threadIdx.x; i < head.v_bytes >> 4; i += kPrefillThreads) {
    copy_async_16(room_v + static_cast<uint32_t>(i << 4), v + 16 * i);
  }
}

__device__ __forceinline__ uint32_t multiply_add_half2(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t y;
  asm("fma.rn.f16x2 %0, %1, %2, %3;\n" : "=r"(y) : "r"(a), "r"(b), "r"(c));
  return y;
}

// The same f16 number twice: 2^-shift, and -1024 2^-shift.
__device__ __forceinline__ constexpr uint32_t plane_factor(int shift) {
  return (static_cast<uint32_t>(15 - shift) << 10) * 0x00010001u;
}
__device__ __forceinline__ constexpr uint32_t plane_offset(int shift) {
  return (0x8000u | (static_cast<uint32_t>(25 - shift) << 10)) * 0x00010001u;
}

// Values of two codes: `pair` has them in bytes 0 and 2, at bits shift .. shift + kBits - 1.
template <int kBits>
__device__ __forceinline__ uint32_t code_values(uint32_t pair, int shift, uint32_t scale,
                                                uint32_t min) {
  constexpr uint32_t kMask = ((1u << kBits) - 1) * 0x00010001u;
  const uint32_t biased = (pair & (kMask << shift)) | 0x64006400u;
  const uint32_t code = multiply_add_half2(biased, plane_factor(shift), plane_offset(shift));
  return multiply_add_half2(code, scale, min);
}

// One warp's unit of the K of a page: `raw` as copied, `tile` the K tile, slots from row `first`
// on.
template <int kBits, int D>
__device__ __forceinline__ void k_unit(const uint8_t* raw, int width, uint8_t* tile, int first,
                                       int unit, int lane) {
  const int pair = lane & 3;
  if constexpr (kBits == 16) {
    const int slot = lane >> 2;
    const uint16_t* values = reinterpret_cast<const uint16_t*>(raw);
#pragma unroll
    for (int part = 0; part < 4; ++part) {
      const int at = 8 * (4 * (8 * unit + 2 * pair) + (part ^ pair)) + slot;
      const uint32_t x = values[at] | static_cast<uint32_t>(values[at + 32]) << 16;
      const uint32_t place = tile_place<kPrefillKeys>(first + 8 * part + slot, unit);
      *reinterpret_cast<uint32_t*>(tile + place + 4 * pair) = x;
    }
  } else {
    // Four chunks and two words: their places in a store differ in all banks.
    const int chunk = 4 * (unit / (kBits / 2)) + (lane >> 3);
    const int word = 2 * (unit % (kBits / 2)) + ((lane >> 2) & 1);
    if (8 * chunk >= width) return;
    const int c = 8 * chunk + 2 * pair;
    const uint32_t* codes = reinterpret_cast<const uint32_t*>(raw);
    const uint32_t a = codes[c * kBits + word];
    const uint32_t b = codes[(c + 1) * kBits + word];
    const uint32_t* folds = reinterpret_cast<const uint32_t*>(raw + width * 4 * kBits);
    const uint32_t scale = folds[c / 2];
    const uint32_t min = folds[(width + c) / 2];
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      const uint32_t x = __byte_perm(a, b, 0x4400u + 0x1111u * static_cast<uint32_t>(m));
#pragma unroll
      for (int plane = 0; plane < 8 / kBits; ++plane) {
        const int row = first + plane * 4 * kBits + 4 * word + m;
        *reinterpret_cast<uint32_t*>(tile + tile_place<kPrefillKeys>(row, chunk) + 4 * pair) =
            code_values<kBits>(x, kBits * plane, scale, min);
      }
    }
  }
}

// Units of k_unit() in a page.
template <int kBits>
__device__ __forceinline__ int k_units(int width) {
  if constexpr (kBits < 16) return (width + 31) / 32 * (kBits / 2);
  return width >> 3;
}

// One warp's unit of the V of a page.
template <int kBits, int D>
__device__ __forceinline__ void v_unit(const uint8_t* raw, uint8_t* tile, int first, int unit,
                                       int lane) {
  if constexpr (kBits == 16) {
    const int i = 32 * unit + lane;
    const int slot = i / (D / 8);
    *reinterpret_cast<uint4*>(tile + tile_place<kPrefillKeys>(first + slot, i % (D / 8))) =
        reinterpret_cast<const uint4*>(raw)[i];
  } else {
    constexpr int kGroups = D / 32;
    const int high = unit % (kGroups / 2);
    const int part = unit / (kGroups / 2);
    int word, group, slot;
    if constexpr (kBits == 8) {
      word = lane & 7;
      group = (lane >> 3) & 1;
      slot = 2 * part + (lane >> 4);
    } else if constexpr (kBits == 4) {
      word = lane & 3;
      group = (lane >> 2) & 1;
      slot = 4 * part + 2 * ((lane >> 3) & 1) + (lane >> 4);
    } else {
      word = lane & 1;
      group = (lane >> 1) & 1;
      slot = 8 * part + ((lane >> 2) & 7);
    }
    group += 2 * high;
    const uint32_t codes =
        reinterpret_cast<const uint32_t*>(raw)[(slot * kGroups + group) * kBits + word];
    const uint16_t* folds = reinterpret_cast<const uint16_t*>(raw + 4 * D * kBits);
    const uint32_t scale = folds[32 * group + slot] * 0x00010001u;
    const uint32_t min = folds[32 * (kGroups + group) + slot] * 0x00010001u;
    const uint32_t low = __byte_perm(codes, 0, 0x1100);
    const uint32_t high_pair = __byte_perm(codes, 0, 0x3322);
#pragma unroll
    for (int plane = 0; plane < 8 / kBits; ++plane) {
      const int chunk = 4 * group + plane * kBits / 2 + (word >> 1);
      const uint32_t place = tile_place<kPrefillKeys>(first + slot, chunk) + 8 * (word & 1);
      *reinterpret_cast<uint2*>(tile + place) =
          make_uint2(code_values<kBits>(low, kBits * plane, scale, min),
                     code_values<kBits>(high_pair, kBits * plane, scale, min));
    }
  }
}

// Converts K of two pages: `rooms` as page_copy() left them, `tile` the K tile.
template <int kBits, int D>
__device__ __forceinline__ void keys_convert(const uint8_t* rooms, int width, uint8_t* tile) {
  const int lane = threadIdx.x & 31;
  const int units = k_units<kBits>(width);
  for (int i = threadIdx.x >> 5; i < 2 * units; i += kPrefillWarps) {
    const int page = i >= units;
    k_unit<kBits, D>(rooms + page * kPageRoom<D>, width, tile, 32 * page, i - page * units, lane);
  }
}

template <int kBits, int D>
__device__ __forceinline__ void values_convert(const uint8_t* rooms, uint8_t* tile) {
  constexpr int kUnits = kBits == 16 ? D / 8 : D * kBits / 32;  // of a page
  const int lane = threadIdx.x & 31;
#pragma unroll 2
  for (int i = threadIdx.x >> 5; i < 2 * kUnits; i += kPrefillWarps) {
    const int page = i / kUnits;
    v_unit<kBits, D>(rooms + page * kPageRoom<D> + kPageRoom<D> / 2, tile, 32 * page, i % kUnits,
                     lane);
  }
}

// Two pages to a tile of K and one of V.
template <int D>
__device__ __forceinline__ void pages_convert(PageStorage k, PageStorage v, const uint8_t* rooms,
                                              int width, uint8_t* k_tile, uint8_t* v_tile) {
  switch (k) {
    case PageStorage::kF16: keys_convert<16, D>(rooms, width, k_tile); break;
    case PageStorage::kInt8: keys_convert<8, D>(rooms, width, k_tile); break;
    case PageStorage::kInt4: keys_convert<4, D>(rooms, width, k_tile); break;
    case PageStorage::kInt2: keys_convert<2, D>(rooms, width, k_tile); break;
  }
  switch (v) {
    case PageStorage::kF16: values_convert<16, D>(rooms, v_tile); break;
    case PageStorage::kInt8: values_convert<8, D>(rooms, v_tile); break;
    case PageStorage::kInt4: values_convert<4, D>(rooms, v_tile); break;
    case PageStorage::kInt2: values_convert<2, D>(rooms, v_tile); break;
  }
}

}  // namespace leanedge::cuda
