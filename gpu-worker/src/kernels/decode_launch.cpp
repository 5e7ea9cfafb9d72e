// Host side of decode attention: what a layer needs, and the launch.
#include <cuda_runtime.h>
#include <math.h>
#include <string.h>

#include <initializer_list>

#include "../cuda_status.h"
#include "../launch.h"
#include "cluster_split.h"
#include "decode_kernels.h"
#include "leanedge_cuda/decode_attention.h"
#include "variants.h"
#ifdef LEANEDGE_CLOCK_MARKS
#include "clock_marks.h"
#endif

namespace leanedge::cuda {
namespace {

constexpr int32_t kAlign = 128;             // bytes: sections of a page in shared memory
constexpr int32_t kSharedReserve = 1024;    // bytes a block that the system takes
constexpr int32_t kBlocksPerSmMax = kDecodeThreadsPerSm / 64;
constexpr int32_t kClusterStagesMax = 4;    // one more group is in flight: copy_async_wait() knows 7

int32_t align(int32_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

DecodeKernel kernel_of(PageStorage k, PageStorage v, int32_t head_dim) {
  switch (k) {
    case PageStorage::kF16: return decode_kernel_f16(v, head_dim);
    case PageStorage::kInt8: return decode_kernel_int8(v, head_dim);
    case PageStorage::kInt4: return decode_kernel_int4(v, head_dim);
    case PageStorage::kInt2: return decode_kernel_int2(v, head_dim);
  }
  return nullptr;
}

// The kernel for clusters, or null.
DecodeKernel cluster_kernel_of(const DecodeLayer& layer) {
  if (layer.k_storage != layer.v_storage || layer.head_dim != kOwnHeadDim) return nullptr;
  switch (layer.k_storage) {
    case PageStorage::kF16: return decode_cluster_kernel_f16();
    case PageStorage::kInt8: return decode_cluster_kernel_int8();
    case PageStorage::kInt4: return decode_cluster_kernel_int4();
    case PageStorage::kInt2: return decode_cluster_kernel_int2();
  }
  return nullptr;
}

// The kernel for blocks that have a multiprocessor each, or null.
DecodeKernel wide_kernel_of(const DecodeLayer& layer) {
  const bool f16 = layer.k_storage == PageStorage::kF16 && layer.v_storage == PageStorage::kF16;
  return f16 && layer.head_dim == kOwnHeadDim ? decode_wide_kernel() : nullptr;
}

// Whether the kernel that takes each query head twice serves a layer.
bool both_serves(const DecodeLayer& layer, int32_t group) {
  return layer.k_storage == PageStorage::kInt2 && layer.v_storage == PageStorage::kInt2 &&
         layer.head_dim == kOwnHeadDim && group <= kBothGroupMax;
}

// Bytes of K or V of a head's page that attention reads: values, and scales and minima where there
// are any (`min` is their last section, kNoSection for f16).
uint16_t section_bytes(uint32_t values, uint32_t min, uint32_t value_bytes, uint32_t min_bytes) {
  const uint32_t end = min == kNoSection ? values + value_bytes : min + min_bytes;
  return static_cast<uint16_t>(end - values);
}

// Parts of two a block: outputs, maximum and sum of every query head.
size_t parts_floats(int32_t blocks, int32_t group, int32_t head_dim) {
  return static_cast<size_t>(2 * blocks) * static_cast<size_t>(group) *
         static_cast<size_t>(head_dim + 2);
}

// Bytes that a multiprocessor reads while a block changes from one pair to the next: about 7 us of
// latencies in a row, at the rate that each storage reaches. Found by trying 48 to 400 KiB on an
// H100.
int32_t start_bytes(PageStorage k, PageStorage v) {
  const int32_t bits = storage_bits(k) + storage_bits(v);
  return (bits >= 16 ? 320 : bits >= 8 ? 224 : 112) * 1024;
}

// Chunks of a share at least.
int32_t share_min(PageStorage k, PageStorage v) {
  const bool wide = k == PageStorage::kF16 && v == PageStorage::kF16;
  return wide ? variants().share_wide : variants().share_min;
}

// Shared memory of a warp: its stages, and room for its results and up to three tiles of full rows, of which two are
// needed; 0: `room` is too small.
int32_t ring_bytes(PageStorage k, PageStorage v, int32_t stage_bytes, int32_t tile, int32_t results,
                   int32_t room) {
  int32_t needed = decode_stages(k, v) * stage_bytes;
  if (room < needed || room < results || room < 2 * tile) return 0;
  for (const int32_t least : {align(results), 2 * tile, 3 * tile}) {
    if (needed < least && least <= room) needed = least;
  }
  return needed;
}

int32_t tile_stages(int32_t bytes, int32_t tile) {
  return bytes / tile < kDecodeStagesMax ? bytes / tile : kDecodeStagesMax;
}

// Room in shared memory for blocks that have a multiprocessor each.
cudaError_t prepare_wide(int32_t tile, int32_t results, int32_t shared_block, DecodeLayer* layer) {
  const DecodeKernel kernel = wide_kernel_of(*layer);
  const int32_t room = (shared_block - kWideSharedStatic) / kWideWarps / kAlign * kAlign;
  const int32_t bytes =
      ring_bytes(layer->k_storage, layer->v_storage, layer->stage_bytes, tile, results, room);
  if (!kernel || bytes == 0) return cudaSuccess;
  layer->wide_warp_bytes = bytes;
  layer->wide_tile_stages = tile_stages(bytes, tile);
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                              shared_block - kWideSharedStatic);
}

// Room in shared memory for a warp's pages and one tile of full rows where the layer's pairs can have clusters.
cudaError_t prepare_cluster(int32_t device, int32_t group, int32_t shared_block, DecodeLayer* layer) {
  int major = 0;
  cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error != cudaSuccess) return error;
  const DecodeKernel kernel = cluster_kernel_of(*layer);
  if (major < 9 || !kernel) return cudaSuccess;
  const int32_t room = (shared_block - kClusterSharedStatic) / kClusterWarps / kAlign * kAlign;
  const int32_t tile = decode_tile_rows(layer->k_storage, layer->v_storage) * layer->head_dim * 4;
  const int32_t results = align(group * layer->head_dim * static_cast<int32_t>(sizeof(float)));
  int32_t stages = (room - tile) / layer->stage_bytes;
  if (stages > kClusterStagesMax) stages = kClusterStagesMax;
  int32_t bytes = stages * layer->stage_bytes + tile;
  if (bytes < results) bytes = results;
  if (stages < 1 || bytes > room) return cudaSuccess;
  const void* function = reinterpret_cast<const void*>(kernel);
  error = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               shared_block - kClusterSharedStatic);
  if (error == cudaSuccess) {
    // What runs before and behind has this division of the first-level cache: others would wait for its end.
    error = cudaFuncSetAttribute(function, cudaFuncAttributePreferredSharedMemoryCarveout,
                                 cudaSharedmemCarveoutMaxShared);
  }
  if (error != cudaSuccess) return error;
  layer->cluster_stages = stages;
  layer->cluster_warp_bytes = bytes;
  return cudaSuccess;
}

// Launches with the kernel's one argument, clusters of `blocks` blocks.
cudaError_t launch_clusters(DecodeKernel kernel, int32_t pairs, int32_t blocks, size_t shared_bytes,
                            bool overlap, DecodeParams& params, cudaStream_t stream) {
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim.x = static_cast<unsigned>(blocks);
  attributes[0].val.clusterDim.y = 1;
  attributes[0].val.clusterDim.z = 1;
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(pairs * blocks));
  config.blockDim = dim3(32 * kClusterWarps);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = overlap ? 2 : 1;
  void* values[] = {&params};
  return cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(kernel), values);
}

}  // namespace

Status decode_layer(const CachePlan& plan, int32_t layer, int32_t heads, DecodeLayer* out,
                    ErrorDetail* detail) {
  if (plan.evicting) {
    return refuse(detail, "decode: plan is evicting (#); the device kernels read full pages only",
                  plan.evicting, 0);
  }
  if (plan.head_dim != 64 && plan.head_dim != 128) {
    return refuse(detail, "decode: head_dim is #, must be 64 or 128", plan.head_dim, 128);
  }
  if (plan.kv_heads > kDecodeKvHeadsMax) {
    return refuse(detail, "decode: # KV heads, at most #", plan.kv_heads, kDecodeKvHeadsMax);
  }
  const int32_t group = heads / plan.kv_heads;
  if (group < 1 || group > kDecodeGroupMax || group * plan.kv_heads != heads) {
    return refuse(detail, "decode: # query heads a KV head, at most #", group, kDecodeGroupMax);
  }
  memset(out, 0, sizeof *out);
  const bool k_quantised = plan.k_storage != PageStorage::kF16;
  const bool v_quantised = plan.v_storage != PageStorage::kF16;
  for (int32_t h = 0; h < plan.kv_heads; ++h) {
    const PageHead& head = plan_head(plan, layer, h);
    if (head.width == 0) continue;
    if (head.width % 16 != 0) {
      return refuse(detail, "decode: width is #, must be a multiple of #",
                    static_cast<int64_t>(head.width), 16);
    }
    DecodeHead& to = out->head[h];
    to.k_values = head.k_values;
    to.v_values = head.v_values;
    to.width = static_cast<uint16_t>(head.width);
    to.channels = head.channels;
    to.k_bytes = section_bytes(head.k_values, k_quantised ? head.k_min : kNoSection,
                               head.width * plan.k_channel_bytes, head.width * 2);
    to.v_bytes = section_bytes(head.v_values, v_quantised ? head.v_min : kNoSection,
                               kPageSlots * plan.v_row_bytes,
                               static_cast<uint32_t>(plan.v_groups) * kPageSlots * 2);
    const int32_t stage = align(to.k_bytes) + align(to.v_bytes);
    if (stage > out->stage_bytes) out->stage_bytes = stage;
  }
  out->k_storage = plan.k_storage;
  out->v_storage = plan.v_storage;
  out->kv_heads = plan.kv_heads;
  out->head_dim = plan.head_dim;
  out->block_bytes = plan_layer(plan, layer).bytes;
  out->pages_per_step = plan.pages_per_step;
  out->pages_floor = plan.pages_floor;

  int device = 0;
  int processors = 0;
  int shared_sm = 0;
  int shared_block = 0;
  LEANEDGE_CUDA_TRY(cudaGetDevice(&device), detail);
  LEANEDGE_CUDA_TRY(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device),
                    detail);
  LEANEDGE_CUDA_TRY(
      cudaDeviceGetAttribute(&shared_sm, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device),
      detail);
  LEANEDGE_CUDA_TRY(
      cudaDeviceGetAttribute(&shared_block, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
      detail);
  // As many blocks as leave each warp its stages, and two tiles of full rows.
  const int32_t warps = decode_warps(plan.k_storage, plan.v_storage);
  const int32_t results = group * plan.head_dim * static_cast<int32_t>(sizeof(float));
  const int32_t tile = decode_tile_rows(plan.k_storage, plan.v_storage) * plan.head_dim * 4;
  if (out->stage_bytes == 0) out->stage_bytes = kAlign;
  for (int32_t blocks = kDecodeThreadsPerSm / 32 / warps; blocks >= 1; --blocks) {
    int32_t room = shared_sm / blocks - kSharedReserve;
    if (room > shared_block) room = shared_block;
    room = (room - kDecodeSharedStatic) / warps / kAlign * kAlign;
    const int32_t bytes =
        ring_bytes(plan.k_storage, plan.v_storage, out->stage_bytes, tile, results, room);
    if (bytes == 0) continue;
    out->blocks_per_sm = blocks;
    out->warp_bytes = bytes;
    out->tile_stages = tile_stages(bytes, tile);
    out->warps = warps;
    out->grid = processors * blocks;
    out->processors = processors;
    const DecodeKernel kernel = kernel_of(plan.k_storage, plan.v_storage, plan.head_dim);
    LEANEDGE_CUDA_TRY(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                           cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           shared_block - kDecodeSharedStatic),
                      detail);
    if (both_serves(*out, group)) {
      LEANEDGE_CUDA_TRY(cudaFuncSetAttribute(reinterpret_cast<const void*>(decode_both_kernel()),
                                             cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             shared_block - kDecodeSharedStatic),
                        detail);
    }
    LEANEDGE_CUDA_TRY(prepare_wide(tile, results, shared_block, out), detail);
    LEANEDGE_CUDA_TRY(prepare_cluster(device, group, shared_block, out), detail);
    return Status::kOk;
  }
  return refuse(detail,
                "decode: a page of # bytes does not fit shared memory of # bytes often enough",
                out->stage_bytes, shared_block);
}

size_t decode_scratch_bytes(int32_t rows_max, int32_t kv_heads, int32_t head_dim) {
  int device = 0;
  int processors = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) {
    return 0;
  }
  const int32_t blocks_max = processors * kBlocksPerSmMax;
  return parts_floats(blocks_max, kDecodeGroupMax, head_dim) * sizeof(float) +
         2 * static_cast<size_t>(blocks_max) * sizeof(uint32_t) +
         static_cast<size_t>(rows_max) * static_cast<size_t>(kv_heads) * sizeof(uint32_t);
}

cudaError_t decode_attention_launch(const DecodeLayer& layer, const DecodeAttention& call,
                                    cudaStream_t stream) {
  DecodeParams params;
  memcpy(params.head, layer.head, sizeof params.head);
  params.step = call.step;
  params.channels = call.channels;
  params.arena = call.arena;
  params.q = call.q;
  params.out = call.out;
  params.out_bf16 = call.out_bf16;
  params.kv_heads = layer.kv_heads;
  params.group = call.heads / layer.kv_heads;
  params.parts = reinterpret_cast<float*>(call.scratch);
  // Behind the parts of the largest grid and group, where decode_scratch_bytes() counts them: every
  // layer finds the same counters.
  const int32_t blocks_max = layer.processors * kBlocksPerSmMax;
  params.group_arrivals = reinterpret_cast<uint32_t*>(
      params.parts + parts_floats(blocks_max, kDecodeGroupMax, layer.head_dim));
  params.arrivals = params.group_arrivals + 2 * blocks_max;
  params.share_min = share_min(layer.k_storage, layer.v_storage);
  params.merge_group = variants().merge_group;
  params.zone_offset = call.zone_layer * static_cast<size_t>(call.layer);
  params.block_bytes = layer.block_bytes;
  params.stage_bytes = layer.stage_bytes;
  params.warp_bytes = layer.warp_bytes;
  params.scale = static_cast<float>(1.4426950408889634 / sqrt(layer.head_dim));
  params.tile_stages = layer.tile_stages;
  params.page_stages = layer.cluster_stages;
  params.table_pitch = call.table_pitch;
  // Tiles of full rows take a quarter longer than pages of as many bytes.
  params.tile_cost = kDecodeTileRows * layer.head_dim / 4 * 5 / 4;
  params.start_cost = start_bytes(layer.k_storage, layer.v_storage) / 16 / layer.blocks_per_sm;

#ifdef LEANEDGE_CLOCK_MARKS
  params.marks = decode_marks;
  if (decode_marks) decode_marks += kMarks * (call.form == DecodeForm::kWide ? layer.processors : layer.grid);
#endif

  if (call.form == DecodeForm::kClusters) {
    const int32_t pairs = call.step.row_count * layer.kv_heads;
    const int32_t blocks = cluster_size(pairs, layer.processors);
    if (layer.cluster_stages == 0 || blocks == 0) return cudaErrorInvalidValue;
    params.warp_bytes = layer.cluster_warp_bytes;
    return launch_clusters(cluster_kernel_of(layer), pairs, blocks,
                           static_cast<size_t>(layer.cluster_warp_bytes) * kClusterWarps,
                           call.overlap != 0, params, stream);
  }
  if (call.form == DecodeForm::kWide) {
    if (layer.wide_warp_bytes == 0) return cudaErrorInvalidValue;
    params.warp_bytes = layer.wide_warp_bytes;
    params.tile_stages = layer.wide_tile_stages;
    params.start_cost = start_bytes(layer.k_storage, layer.v_storage) / 16;
    return launch({reinterpret_cast<const void*>(wide_kernel_of(layer)),
                   layer.processors, 32 * kWideWarps,
                   static_cast<size_t>(layer.wide_warp_bytes) * kWideWarps,
                   call.overlap != 0},
                  params, stream);
  }
  const DecodeKernel kernel = both_serves(layer, params.group)
                                  ? decode_both_kernel()
                                  : kernel_of(layer.k_storage, layer.v_storage, layer.head_dim);
  return launch({reinterpret_cast<const void*>(kernel), layer.grid, 32 * layer.warps,
                 static_cast<size_t>(layer.warp_bytes * layer.warps), call.overlap != 0},
                params, stream);
}

}  // namespace leanedge::cuda
