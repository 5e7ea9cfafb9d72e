// Which pages a row reads: their scores.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "leanedge/kernels.h"

namespace leanedge::kernels {

// The query heads of one row that share a KV head, gathered.
struct PageQueries {
  const float* q;  // (heads, stride): the kept channels, filled up to 4 with 0
  size_t stride;   // floats from head to head
  int32_t heads;
  bool lifted;     // q is times simd::kF16Lift; f16 K only
};

// Upper bounds of q.k of each page, the maximum over the query heads: the reference's bits
// (kernels.h, 'Choice of pages'). The head's width is above 0.
//   pages   (page_count) layer blocks
//   scores  (page_count)
void score_pages(const CachePlan& plan, const PageHead& layout, const PageQueries& queries,
                 const uint8_t* const* pages, int32_t page_count, float* scores);

}  // namespace leanedge::kernels
