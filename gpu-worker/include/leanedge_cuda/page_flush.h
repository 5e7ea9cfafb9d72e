// Page flush on a device: the oldest 32 rows of each sequence whose ring is full become a page
// (kept channels gathered, quantised, summarised) in every layer, in one launch. Writes exactly the
// bytes of docs/page-format.md, as page_pack_ref does.
#pragma once

#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>

#include "leanedge/plan.h"

namespace leanedge::cuda {

// One page of one sequence, of layer 0; other layers lie at the pitch `zone_layer`.
struct PageFlushJob {
  const uint16_t* k;  // (kv_heads, stride, head_dim) f16: a ring of full rows
  const uint16_t* v;  // (kv_heads, stride, head_dim) f16
  int32_t stride;     // rows of the ring: at least 32
  int32_t row;        // of the ring where the page's slot 0 lies; the slots wrap at `stride`
  uint32_t page;      // block number, the same in every layer's arena
  int32_t reserved;
};

struct PageFlush {
  const CachePlan* plan;      // the whole block, in device memory
  const PageFlushJob* jobs;   // (job_count) in device memory
  uint8_t* const* arenas;     // (layers) in device memory: each layer's blocks
  uint32_t* not_finite;       // counts head blocks with NaN or infinity: their bytes are undefined
  size_t zone_layer;          // f16 elements from one layer of a ring to the next
  int32_t job_count;
};

// `plan` is the host's copy of call.plan; not evicting.
cudaError_t page_flush_launch(const CachePlan& plan, const PageFlush& call, cudaStream_t stream);

}  // namespace leanedge::cuda
