// What a thread block of decode attention did when: a sheet of clock marks a block, where the kernels are compiled with
// LEANEDGE_CLOCK_MARKS (scripts/build-cuda.sh --marks); else nothing at all. device/decode_marks.py reads them.
#pragma once

#include "clock_marks.h"
#include "warp_ops.cuh"

namespace leanedge::cuda {

#ifdef LEANEDGE_CLOCK_MARKS

struct ClockSheet {
  unsigned long long* sheet;
  int pairs;
  int pages;

  static __device__ __forceinline__ unsigned long long nanoseconds() {
    unsigned long long ns;
    asm volatile("mov.u64 %0, %%globaltimer;\n" : "=l"(ns));
    return ns;
  }
  __device__ __forceinline__ void begin(unsigned long long* sheets) {
    sheet = sheets ? sheets + blockIdx.x * kMarks : nullptr;
    pairs = 0;
    pages = 0;
    if (!sheet || threadIdx.x != 0) return;
    sheet[kMarkStartNs] = nanoseconds();
    sheet[kMarkStart] = static_cast<unsigned long long>(clock64());
    sheet[kMarkCount] = 0;
  }
  __device__ __forceinline__ void put(int mark) {
    if (sheet && threadIdx.x == 0) sheet[mark] = static_cast<unsigned long long>(clock64());
  }
  __device__ __forceinline__ void put_first(int mark) {
    if (pairs == 0) put(mark);
  }
  __device__ __forceinline__ void warp_done() {
    if (sheet && (threadIdx.x & 31) == 0 && threadIdx.x < 128) {
      sheet[kMarkWarp + (threadIdx.x >> 5)] = static_cast<unsigned long long>(clock64());
    }
  }
  __device__ __forceinline__ void pair_done(int pages_done) {
    ++pairs;
    pages += pages_done;
  }
  __device__ __forceinline__ void end(int share) {
    if (!sheet || threadIdx.x != 0) return;
    sheet[kMarkCount] = static_cast<unsigned long long>(pages);
    sheet[kMarkPlace] = static_cast<unsigned long long>(processor_id()) |
                        static_cast<unsigned long long>(warp_slot()) << 16 |
                        static_cast<unsigned long long>(share) << 32;
    sheet[kMarkEndNs] = nanoseconds();
    sheet[kMarkEnd] = static_cast<unsigned long long>(clock64());
  }
};

#else

struct ClockSheet {
  template <typename... Any>
  static __device__ __forceinline__ void put(Any...) {}
  template <typename... Any>
  static __device__ __forceinline__ void put_first(Any...) {}
  static __device__ __forceinline__ void warp_done() {}
  static __device__ __forceinline__ void pair_done(int) {}
  static __device__ __forceinline__ void end(int) {}
};

#endif

}  // namespace leanedge::cuda
