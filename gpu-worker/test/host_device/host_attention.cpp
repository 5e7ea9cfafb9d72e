// Attention, choice of pages and page flush, from the pages' bytes as the scalar reference reads them.
#include <math.h>
#include <string.h>

#include <vector>

#include "../../src/cuda_status.h"
#include "host_device.h"
#include "leanedge/half.h"
#include "leanedge/page.h"
#include "leanedge_cuda/page_flush.h"
#include "leanedge_cuda/page_selection.h"
#include "leanedge_cuda/prefill_attention.h"

namespace leanedge::cuda {
namespace {

using std::vector;

// So few multiprocessors that one pair has a cluster, of one block, and only while it has few pages.
constexpr int32_t kProcessors = 2;
int32_t cluster_launches;

// What a DecodeLayer stands for: `grid` is an index into these.
struct Known {
  const CachePlan* plan;
  int32_t layer;
};
vector<Known> known;

// What one query row of one KV head's group sees.
struct View {
  const Known* of;
  const uint8_t* arena;
  const uint32_t* pages;
  int32_t page_count;
  uint32_t block_bytes;
  vector<DecodeSpan> spans;  // of the layer
};

struct Slots {
  vector<vector<float>> k;  // head_dim, or the kept channels of a page
  vector<vector<float>> v;
  vector<int> from_page;
};

Slots slots_of(const View& view, int32_t head) {
  const CachePlan& plan = *view.of->plan;
  const size_t dim = static_cast<size_t>(plan.head_dim);
  Slots out;
  const PageHead& layout = plan_head(plan, view.of->layer, head);
  const uint16_t* kept = plan_channels(plan) + layout.channels;
  for (int32_t p = 0; p < view.page_count && layout.width; ++p) {
    vector<float> k(kPageSlots * layout.width), v(kPageSlots * dim);
    const uint8_t* block = view.arena + static_cast<size_t>(view.pages[p]) * view.block_bytes;
    page_unpack_ref(plan, view.of->layer, head, block, k.data(), v.data());
    for (size_t s = 0; s < kPageSlots; ++s) {
      vector<float> row(dim, 0.0f);
      for (size_t c = 0; c < layout.width; ++c) row[kept[c]] = k[s * layout.width + c];
      out.k.push_back(row);
      out.v.emplace_back(v.begin() + static_cast<ptrdiff_t>(s * dim),
                         v.begin() + static_cast<ptrdiff_t>((s + 1) * dim));
    }
  }
  for (const DecodeSpan& span : view.spans) {
    for (int32_t r = 0; r < span.rows; ++r) {
      const size_t from = static_cast<size_t>(head * span.stride + r) * dim;
      vector<float> k(dim), v(dim);
      for (size_t d = 0; d < dim; ++d) {
        k[d] = f16_to_f32(span.k[from + d]);
        v[d] = f16_to_f32(span.v[from + d]);
      }
      out.k.push_back(k);
      out.v.push_back(v);
    }
  }
  return out;
}

// Attention of one query head over slots.
vector<float> attend(const Slots& slots, const vector<float>& q) {
  const size_t dim = q.size();
  vector<double> scores;
  double max = -1e300;
  for (const vector<float>& k : slots.k) {
    double sum = 0;
    for (size_t d = 0; d < dim; ++d) sum += static_cast<double>(q[d]) * static_cast<double>(k[d]);
    scores.push_back(sum / sqrt(static_cast<double>(dim)));
    max = scores.back() > max ? scores.back() : max;
  }
  vector<double> out(dim, 0.0);
  double all = 0;
  for (size_t s = 0; s < scores.size(); ++s) {
    const double p = exp(scores[s] - max);
    all += p;
    for (size_t d = 0; d < dim; ++d) out[d] += p * static_cast<double>(slots.v[s][d]);
  }
  vector<float> result;
  for (double x : out) result.push_back(static_cast<float>(x / all));
  return result;
}

DecodeSpan moved(const DecodeSpan& span, size_t values) {
  return {span.k + values, span.v + values, span.stride, span.rows};
}

void decode(const DecodeLayer& layer, const DecodeAttention& call) {
  const Known& of = known[static_cast<size_t>(layer.grid)];
  const size_t dim = static_cast<size_t>(layer.head_dim);
  const int32_t group = call.heads / layer.kv_heads;
  int32_t most = 0;
  for (int32_t r = 0; r < call.step.row_count; ++r) {
    if (call.step.rows[r].page_count > most) most = call.step.rows[r].page_count;
  }
  // A graph of another form would serve these rows slowly.
  if (call.form != decode_form(layer, call.step.row_count, most)) abort();
  if (call.form == DecodeForm::kClusters) ++cluster_launches;
  for (int32_t r = 0; r < call.step.row_count; ++r) {
    const DecodeRow& row = call.step.rows[r];
    int32_t full = 0;
    for (int32_t i = 0; i < row.span_count; ++i) full += row.spans[i].rows;
    if (call.step.tiles_before[r + 1] - call.step.tiles_before[r] !=
            (full + kDecodeTileRows - 1) / kDecodeTileRows ||
        call.step.pages_before[r + 1] - call.step.pages_before[r] != row.page_count) {
      abort();
    }
    View view = {&of, call.arena, row.pages, row.page_count, layer.block_bytes, {}};
    for (int32_t i = 0; i < row.span_count; ++i) {
      view.spans.push_back(moved(row.spans[i], call.zone_layer * static_cast<size_t>(call.layer)));
    }
    for (int32_t h = 0; h < call.heads; ++h) {
      view.pages = row.pages + static_cast<ptrdiff_t>(h / group) * call.table_pitch;
      const Slots slots = slots_of(view, h / group);
      const float* q = call.q + static_cast<size_t>(r * call.heads + h) * dim;
      const vector<float> out = attend(slots, vector<float>(q, q + dim));
      for (size_t d = 0; d < dim; ++d) {
        call.out_bf16[static_cast<size_t>(r * call.heads + h) * dim + d] =
            static_cast<uint16_t>((f32_bits(out[d]) + 0x8000u) >> 16);
      }
    }
  }
}

void prefill(const DecodeLayer& layer, const PrefillAttention& call) {
  const Known& of = known[static_cast<size_t>(layer.grid)];
  const size_t dim = static_cast<size_t>(layer.head_dim);
  const int32_t group = call.heads / layer.kv_heads;
  for (int32_t t = 0; t < call.tile_count; ++t) {
    const PrefillRun& run = call.runs[call.tiles[t].run];
    if (run.page_count && !call.has_pages) abort();
    int32_t seen = run.page_count * kPageSlots + run.first + run.rows;
    for (int32_t i = 0; i < run.span_count; ++i) seen += run.before[i].rows;
    if (!call.scratch || seen > call.slots_max) abort();
    for (int32_t h = 0; h < layer.kv_heads; ++h) {
      for (int32_t r = 0; r < run.rows; ++r) {
        View view = {&of, call.arena, run.pages, run.page_count, layer.block_bytes, {}};
        for (int32_t i = 0; i < run.span_count; ++i) {
          view.spans.push_back(
              moved(run.before[i], call.zone_layer * static_cast<size_t>(call.layer)));
        }
        view.spans.push_back({run.k, run.v, run.stride, run.first + r + 1});
        const Slots slots = slots_of(view, h);
        for (int32_t g = 0; g < group; ++g) {
          const size_t head = static_cast<size_t>(h * group + g) * dim;
          const uint16_t* q = static_cast<const uint16_t*>(call.q) +
                              static_cast<size_t>(run.q_first + r) * call.q_pitch + head;
          vector<float> query;
          for (size_t d = 0; d < dim; ++d) query.push_back(f16_to_f32(q[d]));
          const vector<float> out = attend(slots, query);
          uint16_t* to = static_cast<uint16_t*>(call.out) +
                         static_cast<size_t>(run.q_first + r) * call.out_pitch + head;
          for (size_t d = 0; d < dim; ++d) {
            to[d] = static_cast<uint16_t>((f32_bits(out[d]) + 0x8000u) >> 16);
          }
        }
      }
    }
  }
}

void choose(const DecodeLayer& layer, const PageSelection& call) {
  const Known& of = known[static_cast<size_t>(layer.grid)];
  const CachePlan& plan = *of.plan;
  const int32_t group = call.heads / layer.kv_heads;
  for (int32_t r = 0; r < call.row_count; ++r) {
    const DecodeRow& row = call.rows[r];
    const int32_t wanted = selected_pages(plan, row.page_count);
    for (int32_t h = 0; h < layer.kv_heads && row.page_count; ++h) {
      const PageHead& layout = plan_head(plan, of.layer, h);
      const uint16_t* kept = plan_channels(plan) + layout.channels;
      vector<float> scores(static_cast<size_t>(row.page_count));
      for (int32_t p = 0; p < row.page_count; ++p) {
        vector<float> lo(layout.width), hi(layout.width);
        page_bounds_ref(plan, of.layer, h, call.arena + static_cast<size_t>(row.pages[p]) * layer.block_bytes,
                        lo.data(), hi.data());
        float best = -INFINITY;
        for (int32_t g = 0; g < group; ++g) {
          const float* q = call.q + static_cast<size_t>((r * call.heads + h * group + g) * plan.head_dim);
          float sum = 0;
          for (size_t c = 0; c < layout.width; ++c) {
            sum += fmaxf(q[kept[c]] * lo[c], q[kept[c]] * hi[c]);
          }
          best = sum > best ? sum : best;
        }
        scores[static_cast<size_t>(p)] = best;
      }
      vector<int32_t> chosen(static_cast<size_t>(row.page_count));
      page_choose(scores.data(), row.page_count, wanted, chosen.data());
      for (int32_t i = 0; i < wanted; ++i) {
        call.chosen[(r * layer.kv_heads + h) * call.chosen_pitch + i] =
            row.pages[chosen[static_cast<size_t>(i)]];
      }
    }
  }
}

void flush(const CachePlan& header, const PageFlush& call) {
  const CachePlan& plan = *call.plan;
  const size_t dim = static_cast<size_t>(plan.head_dim);
  for (int32_t j = 0; j < call.job_count; ++j) {
    const PageFlushJob& job = call.jobs[j];
    for (int32_t l = 0; l < header.layers; ++l) {
      uint8_t* block = call.arenas[l] + static_cast<size_t>(job.page) * plan_layer(plan, l).bytes;
      for (int32_t h = 0; h < header.kv_heads; ++h) {
        vector<uint16_t> k(kPageSlots * dim), v(kPageSlots * dim);
        for (int32_t s = 0; s < kPageSlots; ++s) {
          const size_t row = static_cast<size_t>(h * job.stride + (job.row + s) % job.stride);
          const size_t from = call.zone_layer * static_cast<size_t>(l) + row * dim;
          memcpy(&k[static_cast<size_t>(s) * dim], job.k + from, dim * 2);
          memcpy(&v[static_cast<size_t>(s) * dim], job.v + from, dim * 2);
        }
        if (page_pack_ref(plan, l, h, k.data(), v.data(), dim, kPageSlots, nullptr, block, nullptr) !=
            Status::kOk) {
          ++*call.not_finite;
        }
      }
    }
  }
}

}  // namespace

Status decode_layer(const CachePlan& plan, int32_t layer, int32_t heads, DecodeLayer* out,
                    ErrorDetail* detail) {
  if (plan.head_dim != 64 && plan.head_dim != 128) {
    return refuse(detail, "decode: head_dim is #, must be 64 or 128", plan.head_dim, 128);
  }
  if (heads / plan.kv_heads > kDecodeGroupMax) abort();
  *out = {};
  out->kv_heads = plan.kv_heads;
  out->head_dim = plan.head_dim;
  out->grid = static_cast<int32_t>(known.size());
  out->block_bytes = plan_layer(plan, layer).bytes;
  out->processors = kProcessors;
  out->cluster_stages = 1;
  known.push_back({&plan, layer});
  return Status::kOk;
}
// Launches of attention whose pairs had clusters, so far.
extern "C" int32_t host_device_cluster_launches(void) { return cluster_launches; }
size_t decode_scratch_bytes(int32_t, int32_t, int32_t) { return 256; }
cudaError_t decode_attention_launch(const DecodeLayer& layer, const DecodeAttention& call,
                                    cudaStream_t) {
  return host_launch([=] { decode(layer, call); });
}

size_t prefill_scratch_bytes(int32_t) { return 256; }
int32_t prefill_tile_count(const PrefillRun*, int32_t run_count, int32_t) { return run_count; }
void prefill_tiles(const PrefillRun*, int32_t run_count, int32_t, PrefillTile* out) {
  for (int32_t i = 0; i < run_count; ++i) out[i] = {i, 0, 0, 0};
}
cudaError_t prefill_attention_launch(const DecodeLayer& layer, const PrefillAttention& call,
                                     cudaStream_t) {
  return host_launch([=] { prefill(layer, call); });
}

size_t page_selection_scratch_bytes(int32_t, int32_t, int32_t) { return 256; }
cudaError_t page_selection_launch(const DecodeLayer& layer, const PageSelection& call,
                                  cudaStream_t) {
  return host_launch([=] { choose(layer, call); });
}

cudaError_t page_flush_launch(const CachePlan& plan, const PageFlush& call, cudaStream_t) {
  const CachePlan header = plan;
  return host_launch([=] { flush(header, call); });
}

}  // namespace leanedge::cuda
