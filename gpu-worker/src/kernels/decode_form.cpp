// Which form of decode attention serves a launch. Needs no device: tests without one link it as it is.
#include "cluster_split.h"
#include "leanedge_cuda/decode_attention.h"
#include "variants.h"

namespace leanedge::cuda {

DecodeForm decode_form(const DecodeLayer& layer, int32_t rows, int32_t pages) {
  const int32_t blocks = cluster_size(rows * layer.kv_heads, layer.processors);
  if (layer.cluster_stages == 0 || blocks == 0) return DecodeForm::kShares;
  const int32_t of_warp = cluster_units(pages, 0, blocks * kClusterWarps);
  // Where there are no pages at all, a cluster has less to begin with, too.
  const bool few = variants().cluster_pages > 0 && of_warp <= variants().cluster_pages;
  return few ? DecodeForm::kClusters : DecodeForm::kShares;
}

}  // namespace leanedge::cuda
