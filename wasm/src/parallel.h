// How a kernel of this backend splits its work over the engine's threads.
//
//   struct Work { ... };
//   void piece(void* arg, int32_t begin, int32_t end, int32_t thread);
//   Work work = {...};
//   parallel_for(context, count, piece, &work);
//
// `piece` gets ranges of 0 .. count - 1, every index exactly once, in any order, on several threads
// at a time; parallel_for returns when all are done. Indices must not depend on each other, and what
// is computed for an index must depend on that index alone: then no bit depends on how many threads
// there are or on who did what. Scratch that cannot be shared is indexed by `thread`, which is in
// 0 .. parallel_threads() - 1 (0 is the calling thread). A piece calls no parallel_for itself.
//
// With one thread (always, where the module was built without threads: kThreadsMax is 1; and where
// `context` is null) it is one direct call of the whole range.
#pragma once

#include <stdint.h>

#include "leanedge/kernels.h"

namespace leanedge::kernels {

using ParallelPiece = void (*)(void* arg, int32_t begin, int32_t end, int32_t thread);

#ifdef LEANEDGE_THREADS

inline constexpr int32_t kThreadsMax = 8;

void parallel_for(Context* context, int32_t count, ParallelPiece piece, void* arg);

// Threads of this module, the calling one included, from before an engine is created on.
int32_t parallel_threads();

#else

inline constexpr int32_t kThreadsMax = 1;

inline void parallel_for(Context*, int32_t count, ParallelPiece piece, void* arg) {
  if (count > 0) piece(arg, 0, count, 0);
}

constexpr int32_t parallel_threads() { return 1; }

#endif

}  // namespace leanedge::kernels
