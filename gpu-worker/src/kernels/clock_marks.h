// The sheets of clock marks that decode attention leaves where it is compiled with LEANEDGE_CLOCK_MARKS (clock_marks.cuh).
#pragma once

#include <stdint.h>

namespace leanedge::cuda {

// Words of 64 bits of a block's sheet. Times are the multiprocessor's clock, but for the two in nanoseconds, which all
// multiprocessors share. Where a block serves several pairs, kQuery is of the first one and what is behind of the last.
enum ClockMark {
  kMarkStart,     // the block begins
  kMarkQuery,     // the kernel before has ended, and q is in shared memory
  kMarkPages,     // all warps are done with pages and full rows
  kMarkPart,      // the warps are merged, and the block's part is left
  kMarkEnd,
  kMarkPlace,     // multiprocessor | slot of its first warp << 16 | its share << 32
  kMarkCount,     // pages of the block
  kMarkStartNs,
  kMarkWarp,      // when warps 0 to 3 are done with their pages
  kMarkEndNs = kMarkWarp + 4,
  kMarkWait,      // the kernel before has ended
  kMarks = 16,
};

// Where the next launch leaves its sheets, (grid, kMarks) words of device memory; each launch moves it on. Null: nowhere.
extern unsigned long long* decode_marks;

}  // namespace leanedge::cuda
