// Which form of decode attention serves a launch. Needs no device: tests without one link it as it is.
#include "cluster_split.h"
#include "leanedge_cuda/decode_attention.h"
#include "variants.h"

namespace leanedge::cuda {

DecodeForm decode_form(const DecodeLayer& layer, int32_t rows, int32_t pages) {
  const int32_t pairs = rows * layer.kv_heads;
  const int32_t blocks = cluster_size(pairs, layer.processors);
  if (variants().cluster_pages > 0 && layer.cluster_stages > 0 && blocks > 0 &&
      cluster_units(pages, 0, blocks * kClusterWarps) <= variants().cluster_pages) {
    return DecodeForm::kClusters;
  }
  const bool wide = layer.wide_warp_bytes > 0 && pairs <= variants().wide_pairs;
  return wide ? DecodeForm::kWide : DecodeForm::kShares;
}

}  // namespace leanedge::cuda
