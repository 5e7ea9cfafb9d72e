// Host side of page selection.
#include <cuda_runtime.h>
#include <string.h>

#include "selection_params.h"

namespace leanedge::cuda {
namespace {

// Blocks of a launch, about: a few of every multiprocessor.
constexpr int32_t kBlocks = 4 * 132;

}  // namespace

size_t page_selection_scratch_bytes(int32_t rows_max, int32_t kv_heads, int32_t pages_max) {
  return (kSelectionCounters + static_cast<size_t>(rows_max) * static_cast<size_t>(kv_heads) *
                                   static_cast<size_t>(pages_max)) *
         sizeof(uint32_t);
}

cudaError_t page_selection_launch(const DecodeLayer& layer, const PageSelection& call,
                                  cudaStream_t stream) {
  const int32_t group = layer.kv_heads > 0 ? call.heads / layer.kv_heads : 0;
  if (group < 1 || group > kDecodeGroupMax || group * layer.kv_heads != call.heads ||
      call.row_count < 1 || call.row_count > kSequencesMax || call.pages_max < 1 ||
      call.pages_max > kPagesPerStepMax || layer.pages_per_step < 1 ||
      call.chosen_pitch < layer.pages_per_step || call.chosen_pitch < layer.pages_floor) {
    return cudaErrorInvalidValue;
  }
  SelectionParams params;
  memcpy(params.head, layer.head, sizeof params.head);
  params.rows = call.rows;
  params.channels = call.channels;
  params.arena = call.arena;
  params.q = call.q;
  params.chosen = call.chosen;
  params.arrivals = reinterpret_cast<uint32_t*>(call.scratch);
  params.scores = reinterpret_cast<float*>(params.arrivals + kSelectionCounters);
  params.block_bytes = layer.block_bytes;
  params.k_channel_bytes = static_cast<uint32_t>(4 * storage_bits(layer.k_storage));
  params.kv_heads = layer.kv_heads;
  params.group = group;
  params.head_dim = layer.head_dim;
  params.chosen_pitch = call.chosen_pitch;
  params.pages_max = call.pages_max;
  params.pages_per_step = layer.pages_per_step;
  params.pages_floor = layer.pages_floor;
  params.levels = layer.k_storage == PageStorage::kF16
                      ? 0.0f
                      : static_cast<float>(storage_levels(layer.k_storage));

  const int32_t pairs = call.row_count * layer.kv_heads;
  const int32_t useful = (call.pages_max + kSelectionPagesAtOnce - 1) / kSelectionPagesAtOnce;
  int32_t blocks = (kBlocks + pairs - 1) / pairs;
  if (blocks > useful) blocks = useful;
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(pairs));
  config.blockDim = dim3(kSelectionThreads);
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = call.overlap ? 1 : 0;
  const SelectionKernel kernel = selection_kernel(group);
  void* arguments[] = {&params};
  return cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(kernel), arguments);
}

}  // namespace leanedge::cuda
