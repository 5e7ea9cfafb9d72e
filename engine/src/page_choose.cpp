// The choice of pages, given their scores: a heap of the best so far, the worst of them on top.
#include <math.h>

#include "leanedge/page.h"
#include "leanedge/status.h"

namespace leanedge {
namespace {

float number(float score) { return score == score ? score : -INFINITY; }

// Whether page a goes before page b where only one of them is read.
bool better(const float* scores, int32_t a, int32_t b) {
  const float at_a = number(scores[a]);
  const float at_b = number(scores[b]);
  return at_a > at_b || (at_a == at_b && a < b);
}

// Whether `a` must lie above `b` in a heap: the worse of them while choosing, the later while
// sorting.
bool above(const float* scores, int32_t a, int32_t b) {
  return scores ? better(scores, b, a) : a > b;
}

// Lets heap[at] sink to its place.
void sift(const float* scores, int32_t* heap, int32_t count, int32_t at) {
  for (int32_t child = 2 * at + 1; child < count; child = 2 * at + 1) {
    if (child + 1 < count && above(scores, heap[child + 1], heap[child])) ++child;
    if (!above(scores, heap[child], heap[at])) return;
    const int32_t page = heap[at];
    heap[at] = heap[child];
    heap[child] = page;
    at = child;
  }
}

void make_heap(const float* scores, int32_t* heap, int32_t count) {
  for (int32_t i = count / 2 - 1; i >= 0; --i) sift(scores, heap, count, i);
}

}  // namespace

void page_choose(const float* scores, int32_t page_count, int32_t wanted, int32_t* chosen) {
  ENGINE_ASSERT(wanted >= 1 && wanted <= page_count);
  const int32_t newest = page_count - 1;
  const int32_t others = wanted - 1;
  chosen[others] = newest;
  if (others == 0) return;
  for (int32_t i = 0; i < others; ++i) chosen[i] = i;
  make_heap(scores, chosen, others);
  for (int32_t page = others; page < newest; ++page) {
    if (!better(scores, page, chosen[0])) continue;
    chosen[0] = page;
    sift(scores, chosen, others, 0);
  }
  make_heap(nullptr, chosen, others);
  for (int32_t count = others - 1; count > 0; --count) {
    const int32_t last = chosen[0];
    chosen[0] = chosen[count];
    chosen[count] = last;
    sift(nullptr, chosen, count, 0);
  }
}

}  // namespace leanedge
