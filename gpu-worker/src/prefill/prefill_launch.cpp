// Host side of prefill attention: the list of tiles, and the launch.
#include <cuda_runtime.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "leanedge_cuda/prefill_attention.h"
#include "prefill_params.h"

namespace leanedge::cuda {
namespace {

// Tiles of one section at least: enough for every multiprocessor to run a few, so that the last
// ones, which are light, even out.
constexpr int32_t kSectionTiles = 4 * 132;

// Heaviest first; equal ones in the order of runs and rows, so that the list is always the same.
int compare(const void* a, const void* b) {
  const PrefillTile& x = *static_cast<const PrefillTile*>(a);
  const PrefillTile& y = *static_cast<const PrefillTile*>(b);
  if (x.units != y.units) return x.units > y.units ? -1 : 1;
  if (x.run != y.run) return x.run < y.run ? -1 : 1;
  return x.row < y.row ? -1 : x.row > y.row;
}

int32_t tiles_of(const PrefillRun& run, int32_t group) {
  return (run.rows * group + kPrefillTileRows - 1) / kPrefillTileRows;
}

size_t row_bytes(RowType type) { return type == RowType::kF32 ? 4 : 2; }

bool aligned(const void* pointer, size_t pitch, RowType type) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && pitch * row_bytes(type) % 16 == 0;
}

}  // namespace

size_t prefill_scratch_bytes(int32_t head_dim) {
  return static_cast<size_t>(kPrefillSharedBlocks) * kPrefillTileRows *
         static_cast<size_t>(head_dim + 2) * sizeof(float);
}

int32_t prefill_tile_count(const PrefillRun* runs, int32_t run_count, int32_t group) {
  int32_t count = 0;
  for (int32_t i = 0; i < run_count; ++i) count += tiles_of(runs[i], group);
  return count;
}

void prefill_tiles(const PrefillRun* runs, int32_t run_count, int32_t group, PrefillTile* out) {
  int32_t count = 0;
  for (int32_t i = 0; i < run_count; ++i) {
    const PrefillRun& run = runs[i];
    int32_t before = 0;
    for (int32_t s = 0; s < run.span_count; ++s) before += run.before[s].rows;
    for (int32_t row = 0; row < run.rows * group; row += kPrefillTileRows) {
      int32_t last = row + kPrefillTileRows;
      if (last > run.rows * group) last = run.rows * group;
      const int32_t full = before + run.first + (last - 1) / group + 1;
      out[count++] = {i, row, run.page_count + (full + kPageSlots - 1) / kPageSlots, 0};
    }
  }
  qsort(out, static_cast<size_t>(count), sizeof *out, compare);
}

cudaError_t prefill_attention_launch(const DecodeLayer& layer, const PrefillAttention& call,
                                     cudaStream_t stream) {
  if (call.tile_count == 0) return cudaSuccess;
  const int32_t group = layer.kv_heads > 0 ? call.heads / layer.kv_heads : 0;
  if (call.tile_count < 0 || group < 1 || group > kDecodeGroupMax ||
      group * layer.kv_heads != call.heads ||
      (layer.head_dim != 64 && layer.head_dim != 128) ||
      !aligned(call.q, call.q_pitch, call.q_type) ||
      !aligned(call.out, call.out_pitch, call.out_type) ||
      static_cast<int64_t>(call.tile_count) * layer.kv_heads > 0x7fffffff) {
    return cudaErrorInvalidValue;
  }
  PrefillParams params;
  memcpy(params.head, layer.head, sizeof params.head);
  params.runs = call.runs;
  params.tiles = call.tiles;
  params.channels = call.channels;
  params.arena = call.arena;
  params.q = call.q;
  params.out = call.out;
  params.q_pitch = call.q_pitch;
  params.out_pitch = call.out_pitch;
  params.zone_offset = call.zone_layer * static_cast<size_t>(call.layer);
  params.block_bytes = layer.block_bytes;
  params.group = group;
  params.group_magic =
      static_cast<uint32_t>((uint64_t{1} << 32) / static_cast<uint64_t>(group) + 1);
  params.kv_heads = layer.kv_heads;
  params.tile_count = call.tile_count;
  params.section_heads = (kSectionTiles + call.tile_count - 1) / call.tile_count;
  if (params.section_heads > layer.kv_heads) params.section_heads = layer.kv_heads;
  params.k_storage = layer.k_storage;
  params.v_storage = layer.v_storage;
  params.q_type = call.q_type;
  params.out_type = call.out_type;
  params.scale = static_cast<float>(1.4426950408889634 / sqrt(layer.head_dim));

  const int32_t tiles = call.tile_count * layer.kv_heads;
  params.parts = 1;
  if (call.scratch && tiles < kPrefillSharedBlocks / 2) {
    params.parts = kPrefillSharedBlocks / tiles;
    const int32_t useful = call.slots_max / kPrefillPartSlots;
    if (params.parts > useful) params.parts = useful > 1 ? useful : 1;
  }
  params.part_outs = reinterpret_cast<float*>(call.scratch);
  params.part_sums = params.part_outs + static_cast<size_t>(kPrefillSharedBlocks) *
                                            kPrefillTileRows *
                                            static_cast<size_t>(layer.head_dim);

  const bool pages = call.has_pages != 0;
  const PrefillKernel kernel =
      layer.head_dim == 64 ? prefill_kernel_64(pages) : prefill_kernel_128(pages);
  const int shared = prefill_shared_bytes(layer.head_dim);
  cudaError_t error =
      cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                           cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(tiles * params.parts));
  config.blockDim = dim3(kPrefillThreads);
  config.dynamicSmemBytes = static_cast<size_t>(shared);
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = call.overlap ? 1 : 0;
  void* arguments[] = {&params};
  error = cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(kernel), arguments);
  if (error != cudaSuccess || params.parts == 1) return error;
  const PrefillKernel merge =
      layer.head_dim == 64 ? prefill_merge_kernel_64() : prefill_merge_kernel_128();
  config.gridDim = dim3(static_cast<unsigned>(tiles), kPrefillMergeBlocks);
  config.dynamicSmemBytes = 0;
  config.numAttrs = 1;
  return cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(merge), arguments);
}

}  // namespace leanedge::cuda
