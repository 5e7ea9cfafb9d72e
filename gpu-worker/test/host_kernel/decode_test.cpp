// Decode attention's kernels on the host, launched as the launcher launches them, against the scalar reference: both forms,
// every storage, groups and widths of heads, zones of every length, clusters of every size. What the kernel before them
// writes comes when they wait for it and not before; copies come at once, or as late as they may.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <initializer_list>
#include <vector>

#include "decode_attention.cuh"
#include "decode_cluster.cuh"
#include "host_threads.h"
#include "leanedge/kernels.h"
#include "leanedge/page.h"
#include "random.h"
#include "variants.h"
#undef gridDim  // a field below

namespace leanedge::cuda {

template <PageStorage K>
DecodeKernel one(PageStorage v, int32_t head_dim) {
  return v == K && head_dim == 128 ? kernel_decode_attention<K, K, 128, decode_warps(K, K)> : nullptr;
}
DecodeKernel decode_kernel_f16(PageStorage v, int32_t dim) { return one<PageStorage::kF16>(v, dim); }
DecodeKernel decode_kernel_int8(PageStorage v, int32_t dim) { return one<PageStorage::kInt8>(v, dim); }
DecodeKernel decode_kernel_int4(PageStorage v, int32_t dim) { return one<PageStorage::kInt4>(v, dim); }
DecodeKernel decode_kernel_int2(PageStorage v, int32_t dim) { return one<PageStorage::kInt2>(v, dim); }
DecodeKernel decode_cluster_kernel_f16() {
  return kernel_decode_cluster<PageStorage::kF16, PageStorage::kF16, 128>;
}
DecodeKernel decode_cluster_kernel_int8() {
  return kernel_decode_cluster<PageStorage::kInt8, PageStorage::kInt8, 128>;
}
DecodeKernel decode_cluster_kernel_int4() {
  return kernel_decode_cluster<PageStorage::kInt4, PageStorage::kInt4, 128>;
}
DecodeKernel decode_cluster_kernel_int2() {
  return kernel_decode_cluster<PageStorage::kInt2, PageStorage::kInt2, 128>;
}

DecodeKernel decode_wide_kernel() {
  return kernel_decode_attention<PageStorage::kF16, PageStorage::kF16, 128, kWideWarps>;
}

DecodeKernel decode_both_kernel() {
  return kernel_decode_attention<PageStorage::kInt2, PageStorage::kInt2, 128,
                                 decode_warps(PageStorage::kInt2, PageStorage::kInt2), true>;
}

}  // namespace leanedge::cuda

using namespace leanedge;
using namespace leanedge::cuda;
using std::vector;

namespace {

constexpr int32_t kDim = 128;
constexpr int32_t kSink = 16;
constexpr int32_t kRecent = 48;
constexpr int32_t kRing = kRecent + kPageSlots;
constexpr double kBound = 4e-3;  // relative error of a head's output, in the Euclidean norm
constexpr uint16_t kPoison = 0x7e00;

int32_t processors = 132;
int32_t last_cluster;  // blocks of a cluster of the last launch
int passed = 0;
int failed = 0;

struct Case {
  PageStorage storage;
  int32_t group;
  vector<int32_t> widths;   // of the KV heads
  vector<int32_t> tokens;   // of the rows
  int32_t multiprocessors;
  DecodeForm form;
  host::Copies copies;
  int32_t blocks;  // of a cluster, as it should be; 0: no clusters
};

// A row's zones in one allocation: layer 0 is never read, layer 1 is.
struct Zones {
  vector<uint16_t> values;
  size_t layer;
  vector<uint16_t> newest;  // K, then V of all heads' newest rows
  vector<uint32_t> table;
  DecodeRow row;
};

// What the kernel before attention writes.
struct Previous {
  vector<float> q;
  vector<float>* q_target;
  vector<Zones>* zones;
  int32_t kv_heads;
};

// Where row `position` of a KV head lies in its zones (K; V lies `v_from` further), both in elements.
size_t zone_place(int32_t kv_heads, int32_t head, int32_t position) {
  if (position < kSink) return static_cast<size_t>((head * kSink + position) * kDim);
  const int32_t ring = (position - kSink) % kRing;
  return static_cast<size_t>((2 * kv_heads * kSink + head * kRing + ring) * kDim);
}
size_t v_from(int32_t kv_heads, int32_t position) {
  return static_cast<size_t>(kv_heads * (position < kSink ? kSink : kRing) * kDim);
}

int32_t newest_of(const Zones& zones) {
  return static_cast<int32_t>(zones.newest.back());
}

void write_previous(void* context) {
  Previous& previous = *static_cast<Previous*>(context);
  *previous.q_target = previous.q;
  for (Zones& zones : *previous.zones) {
    const int32_t position = newest_of(zones);
    for (int32_t h = 0; h < previous.kv_heads; ++h) {
      uint16_t* to = &zones.values[zones.layer + zone_place(previous.kv_heads, h, position)];
      memcpy(to, &zones.newest[static_cast<size_t>(2 * h * kDim)], kDim * 2);
      memcpy(to + v_from(previous.kv_heads, position),
             &zones.newest[static_cast<size_t>((2 * h + 1) * kDim)], kDim * 2);
    }
  }
}

vector<uint8_t> plan_of(const Case& c) {
  const int32_t kv_heads = static_cast<int32_t>(c.widths.size());
  size_t channels = 0;
  for (int32_t width : c.widths) channels += static_cast<size_t>(width);
  vector<uint8_t> bytes(plan_bytes(1, kv_heads, channels));
  CachePlan* plan = reinterpret_cast<CachePlan*>(bytes.data());
  plan->magic = kPlanMagic;
  plan->version = kPlanVersion;
  plan->layers = 1;
  plan->kv_heads = kv_heads;
  plan->head_dim = kDim;
  plan->sink = kSink;
  plan->recent = kRecent;
  plan->k_storage = plan->v_storage = c.storage;
  plan->context_tokens_max = 1 << 20;
  plan->channel_count = static_cast<uint32_t>(channels);
  for (int32_t h = 0; h < kv_heads; ++h) {
    const_cast<PageHead&>(plan_head(*plan, 0, h)).width =
        static_cast<uint32_t>(c.widths[static_cast<size_t>(h)]);
  }
  plan_layout_write(plan);
  uint16_t* to = const_cast<uint16_t*>(plan_channels(*plan));
  for (int32_t width : c.widths) {
    // Every 128 / width-th channel and those behind the last of them, ascending.
    for (int32_t i = 0; i < width; ++i) *to++ = static_cast<uint16_t>(i * kDim / width);
  }
  ErrorDetail detail = {};
  if (plan_check(plan, bytes.size(), &detail) != Status::kOk) {
    printf("FAIL plan: %s\n", detail.message);
    exit(1);
  }
  return bytes;
}

void run(const Case& c) {
  const vector<uint8_t> plan_bytes_ = plan_of(c);
  const CachePlan& plan = *reinterpret_cast<const CachePlan*>(plan_bytes_.data());
  const int32_t kv_heads = plan.kv_heads;
  const int32_t heads = kv_heads * c.group;
  const int32_t row_count = static_cast<int32_t>(c.tokens.size());
  const size_t block_bytes = plan_layer(plan, 0).bytes;
  test::Random random = {static_cast<uint64_t>(c.group * 1000 + row_count * 10 + static_cast<int>(c.storage))};

  int32_t pages_all = 0;
  for (int32_t tokens : c.tokens) {
    if (tokens > kSink + kRecent) pages_all += (tokens - kSink - kRecent) / kPageSlots;
  }
  // Blocks lie in the arena in no order.
  vector<uint8_t> arena_bytes(static_cast<size_t>(pages_all) * block_bytes + 64, 0xff);
  uint8_t* arena = arena_bytes.data() + (64 - reinterpret_cast<uintptr_t>(arena_bytes.data()) % 64) % 64;
  vector<Zones> all(static_cast<size_t>(row_count));
  vector<DecodeRow> rows;
  vector<int32_t> tiles = {0}, pages_before = {0};
  const size_t head_count = static_cast<size_t>(row_count * heads);
  Previous previous = {vector<float>(head_count * kDim), nullptr, &all, kv_heads};
  for (float& x : previous.q) x = 2 * random.normal();
  vector<float> want(head_count * kDim);
  uint32_t number = 0;
  for (int32_t i = 0; i < row_count; ++i) {
    const int32_t tokens = c.tokens[static_cast<size_t>(i)];
    const int32_t pages =
        tokens > kSink + kRecent ? (tokens - kSink - kRecent) / kPageSlots : 0;
    Zones& zones = all[static_cast<size_t>(i)];
    zones.layer = static_cast<size_t>(2 * kv_heads * (kSink + kRing) * kDim);
    zones.values.assign(2 * zones.layer, kPoison);
    zones.newest.assign(static_cast<size_t>(2 * kv_heads * kDim), 0);
    for (int32_t p = 0; p < pages; ++p) {
      zones.table.push_back((number++ * 7 + 3) % static_cast<uint32_t>(pages_all % 7 ? pages_all : 1));
    }
    if (pages_all % 7 == 0) {
      for (int32_t p = 0; p < pages; ++p) {
        zones.table[static_cast<size_t>(p)] = static_cast<uint32_t>(pages_before.back() + pages - 1 - p);
      }
    }
    vector<uint16_t> page_k(kPageSlots * kDim), page_v(kPageSlots * kDim);
    for (int32_t h = 0; h < kv_heads; ++h) {
      for (int32_t at = 0; at < tokens; ++at) {
        uint16_t k[kDim], v[kDim];
        for (int32_t d = 0; d < kDim; ++d) {
          k[d] = f32_to_f16(random.normal());
          v[d] = f32_to_f16(random.normal());
        }
        const int32_t in = at - kSink;
        if (in >= 0 && in < pages * kPageSlots) {
          memcpy(&page_k[static_cast<size_t>(in % kPageSlots * kDim)], k, sizeof k);
          memcpy(&page_v[static_cast<size_t>(in % kPageSlots * kDim)], v, sizeof v);
          if (in % kPageSlots == kPageSlots - 1) {
            uint8_t* block = arena + zones.table[static_cast<size_t>(in / kPageSlots)] * block_bytes;
            if (page_pack_ref(plan, 0, h, page_k.data(), page_v.data(), kDim, kPageSlots, nullptr,
                              block, nullptr) != Status::kOk) {
              printf("FAIL page_pack_ref\n");
              exit(1);
            }
          }
          continue;
        }
        const size_t place = zones.layer + zone_place(kv_heads, h, at);
        memcpy(&zones.values[place], k, sizeof k);
        memcpy(&zones.values[place + v_from(kv_heads, at)], v, sizeof v);
        if (at == tokens - 1) {
          memcpy(&zones.newest[static_cast<size_t>(2 * h * kDim)], k, sizeof k);
          memcpy(&zones.newest[static_cast<size_t>((2 * h + 1) * kDim)], v, sizeof v);
        }
      }
    }
    // Spans as an engine has them: sink, and the ring in one or two parts.
    DecodeRow& row = zones.row;
    row = {};
    kernels::AttentionTask task = {};
    auto span = [&](int32_t position, int32_t count) {
      const size_t place = zone_place(kv_heads, 0, position);
      const int32_t stride = position < kSink ? kSink : kRing;
      const uint16_t* k = &zones.values[place];
      row.spans[row.span_count] = {k, k + v_from(kv_heads, position), stride, count};
      task.spans[row.span_count] = {k + zones.layer, k + zones.layer + v_from(kv_heads, position),
                                    stride, count, position};
      ++row.span_count;
    };
    span(0, tokens < kSink ? tokens : kSink);
    for (int32_t at = kSink + kPageSlots * pages; at < tokens;) {
      const int32_t ring = (at - kSink) % kRing;
      const int32_t count = tokens - at < kRing - ring ? tokens - at : kRing - ring;
      span(at, count);
      at += count;
    }
    row.pages = zones.table.data();
    row.page_count = pages;
    rows.push_back(row);
    int32_t full = 0;
    for (int32_t s = 0; s < row.span_count; ++s) full += row.spans[s].rows;
    tiles.push_back(tiles.back() + (full + kDecodeTileRows - 1) / kDecodeTileRows);
    pages_before.push_back(pages_before.back() + pages);

    vector<const uint8_t*> blocks;
    for (uint32_t block : zones.table) blocks.push_back(arena + block * block_bytes);
    const CachePlan* plans[] = {&plan};
    const kernels::AttentionShape shape = {plans, 0, heads, kv_heads, kDim};
    task.q = &previous.q[static_cast<size_t>(i * heads * kDim)];
    task.out = &want[static_cast<size_t>(i * heads * kDim)];
    task.pages = blocks.data();
    task.page_count = pages;
    task.span_count = row.span_count;
    task.rows = 1;
    task.first_position = tokens - 1;
    vector<uint8_t> scratch(kernels::attention_scratch_bytes(1, heads, kDim, pages) + 64);
    kernels::attention(nullptr, shape, &task, 1, scratch.data());
    // From here on the newest row is what the kernel before will have written.
    zones.newest.push_back(static_cast<uint16_t>(tokens - 1));
    for (int32_t h = 0; h < kv_heads; ++h) {
      const size_t place = zones.layer + zone_place(kv_heads, h, tokens - 1);
      for (size_t d = 0; d < kDim; ++d) {
        zones.values[place + d] = zones.values[place + v_from(kv_heads, tokens - 1) + d] = kPoison;
      }
    }
  }

  processors = c.multiprocessors;
  vector<float> q(head_count * kDim, NAN);
  vector<float> out(head_count * kDim, NAN);
  previous.q_target = &q;
  host::launches_set(c.copies, write_previous, &previous);
  DecodeLayer layer = {};
  ErrorDetail detail = {};
  if (decode_layer(plan, 0, heads, &layer, &detail) != Status::kOk) {
    printf("FAIL decode_layer: %s\n", detail.message);
    ++failed;
    return;
  }
  vector<uint8_t> scratch(decode_scratch_bytes(row_count, kv_heads, kDim), 0);
  DecodeAttention call = {};
  call.step = {rows.data(), tiles.data(), pages_before.data(), row_count};
  call.channels = plan_channels(plan);
  call.arena = arena;
  call.q = q.data();
  call.out = out.data();
  call.scratch = scratch.data();
  call.zone_layer = all[0].layer;
  call.layer = 1;
  call.heads = heads;
  call.overlap = 1;
  call.form = c.form;
  last_cluster = 0;
  cudaError_t error = decode_attention_launch(layer, call, nullptr);
  // Once more: what a launch leaves in the scratch is what it found there.
  if (error == cudaSuccess) error = decode_attention_launch(layer, call, nullptr);
  double worst = 0;
  for (size_t h = 0; h < head_count; ++h) {
    double off = 0, all_of = 0;
    for (size_t d = 0; d < kDim; ++d) {
      const double difference = out[h * kDim + d] - want[h * kDim + d];
      off += difference * difference;
      all_of += static_cast<double>(want[h * kDim + d]) * want[h * kDim + d];
    }
    const double distance = sqrt(off / all_of);
    worst = distance <= worst ? worst : distance;  // NaN counts
  }
  const bool ok = error == cudaSuccess && worst < kBound && last_cluster == c.blocks;
  ++(ok ? passed : failed);
  printf("%s storage %d group %d widths %d %d rows %d tokens %d %s copies %s: cluster %d, error %.1e\n",
         ok ? "ok  " : "FAIL", static_cast<int>(c.storage), c.group, c.widths[0], c.widths.back(),
         row_count, c.tokens[0],
         c.form == DecodeForm::kClusters ? "clusters" : c.form == DecodeForm::kWide ? "wide" : "shares",
         c.copies == host::Copies::kLate ? "late" : "early", last_cluster, worst);
}

}  // namespace

extern "C" {

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
// What an H100 says, but for the number of its multiprocessors.
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = processors; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = 233472; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 232448; break;
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    default: return cudaErrorInvalidValue;
  }
  return cudaSuccess;
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel,
                                void** arguments) {
  host::LaunchShape shape = {static_cast<int32_t>(config->gridDim.x),
                             static_cast<int32_t>(config->blockDim.x), 1, config->dynamicSmemBytes};
  for (unsigned i = 0; i < config->numAttrs; ++i) {
    if (config->attrs[i].id == cudaLaunchAttributeClusterDimension) {
      shape.cluster = last_cluster = static_cast<int32_t>(config->attrs[i].val.clusterDim.x);
    }
  }
  host::kernel_launch<DecodeParams>(shape, kernel, arguments);
  return cudaSuccess;
}

}  // extern "C"

int main() {
  using host::Copies;
  constexpr DecodeForm kClusters = DecodeForm::kClusters;
  constexpr DecodeForm kShares = DecodeForm::kShares;
  constexpr DecodeForm kWide = DecodeForm::kWide;
  setenv("LEANEDGE_CUDA_VARIANTS", "share_min=64,share_wide=64", 1);
  for (PageStorage storage :
       {PageStorage::kF16, PageStorage::kInt8, PageStorage::kInt4, PageStorage::kInt2}) {
    // Unequal heads; rows of every length; clusters of eight, four, two and one block, the last with several pages a warp.
    run({storage, 4, {48, 128}, {1000}, 132, kClusters, Copies::kLate, 8});
    run({storage, 7, {128, 16}, {500}, 132, kClusters, Copies::kEarly, 8});
    run({storage, 8, {0, 64}, {700, 1, 17, 40, 65, 130, 350, 97}, 132, kClusters, Copies::kLate, 4});
    run({storage, 1, {32}, {620, 15}, 5, kClusters, Copies::kEarly, 2});
    run({storage, 4, {96, 0}, {600}, 3, kClusters, Copies::kLate, 1});
    run({storage, 4, {48, 128}, {700, 33}, 3, kShares, Copies::kLate, 0});
    run({storage, 7, {0, 112}, {300, 64, 2}, 2, kShares, Copies::kEarly, 0});
    if (storage != PageStorage::kF16) continue;
    run({storage, 4, {32, 80}, {900, 70}, 3, kWide, Copies::kLate, 0});
    run({storage, 7, {128}, {500}, 2, kWide, Copies::kEarly, 0});
  }
  // Merges in groups of two; query heads once in a product of int2 (more than four), and twice.
  setenv("LEANEDGE_CUDA_VARIANTS", "share_min=64,merge_group=2", 1);
  variants_read();
  for (PageStorage storage : {PageStorage::kInt8, PageStorage::kInt4, PageStorage::kInt2}) {
    run({storage, 4, {48, 128}, {700, 33}, 3, kShares, Copies::kLate, 0});
    run({storage, 3, {0, 112}, {300, 64, 2}, 2, kShares, Copies::kEarly, 0});
    run({storage, 1, {64, 16, 96}, {900}, 4, kShares, Copies::kEarly, 0});
    run({storage, 7, {32}, {600}, 3, kShares, Copies::kLate, 0});
  }
  printf("%d passed, %d failed   gpu-worker/test/host_kernel/decode_test.cpp\n", passed, failed);
  return failed != 0;
}
