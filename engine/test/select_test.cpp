// The choice of pages: page_choose against sorting, attention against a choice and a softmax in
// double, and what must not depend on it.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <initializer_list>

#include "check.h"
#include "leanedge/half.h"
#include "leanedge/kernels.h"
#include "random.h"
#include "tiny_plan.h"

using namespace leanedge;
using leanedge::test::Random;

namespace {

constexpr int32_t kHeads = 4;
constexpr int32_t kKvHeads = 2;
constexpr int32_t kDim = 32;
constexpr int32_t kPages = 9;
constexpr int32_t kSink = 5;
constexpr int32_t kTail = 7;  // full rows behind the pages, the query rows among them
constexpr int32_t kTokens = kSink + kPages * kPageSlots + kTail;
constexpr int32_t kQueryRows = 3;

// One layer of a log in pages and full rows.
struct Scene {
  CachePlan* plan;
  uint16_t k[kKvHeads * kTokens * kDim];
  uint16_t v[kKvHeads * kTokens * kDim];
  uint8_t* pages;
  float q[kQueryRows * kHeads * kDim];
  float out[kQueryRows * kHeads * kDim];
};

size_t row_at(int32_t head, int32_t token) {
  return static_cast<size_t>(head * kTokens + token) * kDim;
}

// Packs page `page`; under an evicting plan each head keeps its first slots only.
void pack(Scene* scene, int32_t page) {
  uint8_t* bytes = scene->pages + static_cast<size_t>(page) * scene->plan->page_bytes;
  const int32_t first = kSink + page * kPageSlots;
  if (!scene->plan->evicting) {
    kernels::page_flush(nullptr, *scene->plan, 0, kKvHeads, kDim, scene->k, scene->v, kTokens,
                        first, bytes);
    return;
  }
  uint32_t positions[kPageSlots];
  for (int32_t i = 0; i < kPageSlots; ++i) positions[i] = static_cast<uint32_t>(first + i);
  for (int32_t head = 0; head < kKvHeads; ++head) {
    const int32_t count = 1 + (page * 11 + head * 17) % kPageSlots;
    CHECK(page_pack_ref(*scene->plan, 0, head, scene->k + row_at(head, first),
                        scene->v + row_at(head, first), kDim, count, positions, bytes,
                        nullptr) == Status::kOk);
  }
}

void make(Scene* scene, CachePlan* plan, uint64_t seed) {
  Random random = {seed};
  scene->plan = plan;
  for (int32_t head = 0; head < kKvHeads; ++head) {
    for (int32_t t = 0; t < kTokens; ++t) {
      // Pages differ in size, so that their bounds do.
      const float size = 0.3f + 0.4f * static_cast<float>((t / kPageSlots * 5 + head) % 7);
      for (int32_t d = 0; d < kDim; ++d) {
        scene->k[row_at(head, t) + static_cast<size_t>(d)] = f32_to_f16(size * random.uniform());
        scene->v[row_at(head, t) + static_cast<size_t>(d)] = f32_to_f16(random.uniform());
      }
    }
  }
  const size_t bytes = static_cast<size_t>(kPages) * plan->page_bytes;
  scene->pages = static_cast<uint8_t*>(aligned_alloc(64, bytes / 64 * 64 + 64));
  for (int32_t p = 0; p < kPages; ++p) pack(scene, p);
  for (float& q : scene->q) q = random.uniform();
}

void drop(Scene* scene) {
  free(scene->pages);
  free(scene->plan);
}

void attend(Scene* scene, int32_t first_row, int32_t rows, int32_t selects) {
  const uint8_t* addresses[kPages];
  for (int32_t p = 0; p < kPages; ++p)
    addresses[p] = scene->pages + static_cast<size_t>(p) * scene->plan->page_bytes;
  const CachePlan* plans[1] = {scene->plan};
  const kernels::AttentionShape shape = {plans, 0, kHeads, kKvHeads, kDim};
  const int32_t tail = kSink + kPages * kPageSlots;
  const int32_t first = kTokens - kQueryRows + first_row;
  kernels::AttentionTask task = {};
  const size_t offset = static_cast<size_t>(first_row) * kHeads * kDim;
  task.q = scene->q + offset;
  task.out = scene->out + offset;
  task.pages = addresses;
  task.page_count = kPages;
  task.rows = rows;
  task.first_position = first;
  task.selects = selects;
  task.span_count = 2;
  task.spans[0] = {scene->k, scene->v, kTokens, kSink, 0};
  task.spans[1] = {scene->k + row_at(0, tail), scene->v + row_at(0, tail), kTokens,
                   first + rows - tail, tail};
  const size_t bytes = kernels::attention_scratch_bytes(rows, kHeads, kDim, kPages);
  uint8_t* scratch = static_cast<uint8_t*>(aligned_alloc(64, (bytes + 63) / 64 * 64));
  kernels::attention(nullptr, shape, &task, 1, scratch);
  free(scratch);
}

// Pages that a row reads, from scores in double; the choice must not hang on rounding.
void choose_f64(const Scene& scene, int32_t row, int32_t kv_head, bool* reads) {
  const PageHead& head = plan_head(*scene.plan, 0, kv_head);
  const uint16_t* channels = plan_channels(*scene.plan) + head.channels;
  double scores[kPages];
  for (int32_t p = 0; p < kPages; ++p) {
    float lo[kDim];
    float hi[kDim];
    page_bounds_ref(*scene.plan, 0, kv_head,
                    scene.pages + static_cast<size_t>(p) * scene.plan->page_bytes, lo, hi);
    scores[p] = -INFINITY;
    for (int32_t h = kv_head * 2; h < kv_head * 2 + 2; ++h) {
      double sum = 0;
      for (uint32_t j = 0; j < head.width; ++j) {
        const double q = static_cast<double>(scene.q[(row * kHeads + h) * kDim + channels[j]]);
        const double a = q * static_cast<double>(lo[j]);
        const double b = q * static_cast<double>(hi[j]);
        sum += a > b ? a : b;
      }
      if (sum > scores[p]) scores[p] = sum;
    }
  }
  for (int32_t p = 0; p < kPages; ++p) reads[p] = p == kPages - 1;
  for (int32_t i = 1; i < scene.plan->pages_per_step; ++i) {
    int32_t best = -1;
    for (int32_t p = 0; p < kPages - 1; ++p) {
      if (!reads[p] && (best < 0 || scores[p] > scores[best])) best = p;
    }
    reads[best] = true;
  }
}

// One query head of one row in double, over sink, the pages it reads and the tail.
void expected(const Scene& scene, int32_t row, int32_t head, const bool* reads, double* out) {
  const int32_t kv_head = head / 2;
  const PageHead& layout = plan_head(*scene.plan, 0, kv_head);
  const uint16_t* channels = plan_channels(*scene.plan) + layout.channels;
  const float* q = scene.q + (row * kHeads + head) * kDim;
  double sum = 0;
  for (int32_t d = 0; d < kDim; ++d) out[d] = 0;
  const auto fold = [&](double score, const float* v) {
    const double p = exp(score / sqrt(static_cast<double>(kDim)));
    sum += p;
    for (int32_t d = 0; d < kDim; ++d) out[d] += p * static_cast<double>(v[d]);
  };
  for (int32_t t = 0; t <= kTokens - kQueryRows + row; ++t) {
    if (t >= kSink && t < kSink + kPages * kPageSlots) continue;
    double score = 0;
    float v[kDim];
    for (int32_t d = 0; d < kDim; ++d) {
      const size_t at = row_at(kv_head, t) + static_cast<size_t>(d);
      score += static_cast<double>(q[d]) * static_cast<double>(f16_to_f32(scene.k[at]));
      v[d] = f16_to_f32(scene.v[at]);
    }
    fold(score, v);
  }
  for (int32_t p = 0; p < kPages && layout.width; ++p) {
    if (!reads[p]) continue;
    static float k[kPageSlots * kDim];
    static float v[kPageSlots * kDim];
    const int32_t used =
        page_unpack_ref(*scene.plan, 0, kv_head,
                        scene.pages + static_cast<size_t>(p) * scene.plan->page_bytes, k, v);
    for (int32_t s = 0; s < used; ++s) {
      double score = 0;
      for (uint32_t j = 0; j < layout.width; ++j) {
        score += static_cast<double>(q[channels[j]]) *
                 static_cast<double>(k[static_cast<uint32_t>(s) * layout.width + j]);
      }
      fold(score, v + s * kDim);
    }
  }
  for (int32_t d = 0; d < kDim; ++d) out[d] /= sum;
}

CachePlan* plan_of(uint32_t first, uint32_t second, PageStorage k, PageStorage v, int32_t per_step,
                   int32_t floor) {
  const uint32_t widths[2] = {first, second};
  return test::tiny_plan(1, kKvHeads, kDim, kSink, 4, widths, k, v, {per_step, floor});
}

}  // namespace

TEST(page_choose_equals_sorting) {
  Random random = {3};
  constexpr int32_t kMost = 70;
  for (int32_t round = 0; round < 600; ++round) {
    const int32_t count = 1 + random.below(kMost);
    const int32_t wanted = 1 + random.below(count);
    float scores[kMost];
    // Few different values: many ties; now and then something that is not a number.
    for (int32_t i = 0; i < count; ++i) {
      scores[i] = static_cast<float>(random.below(round % 2 ? 4 : 1000)) - 2;
      if (random.below(20) == 0) scores[i] = random.below(2) ? NAN : -INFINITY;
      if (random.below(20) == 0) scores[i] = random.below(2) ? 0.0f : -0.0f;
    }
    int32_t chosen[kMost];
    page_choose(scores, count, wanted, chosen);
    bool reads[kMost] = {};
    reads[count - 1] = true;
    for (int32_t n = 1; n < wanted; ++n) {
      int32_t best = -1;
      for (int32_t i = 0; i < count - 1; ++i) {
        const float score = scores[i] == scores[i] ? scores[i] : -INFINITY;
        const float so_far = best < 0 || scores[best] != scores[best] ? -INFINITY : scores[best];
        if (!reads[i] && (best < 0 || score > so_far)) best = i;
      }
      reads[best] = true;
    }
    int32_t at = 0;
    for (int32_t i = 0; i < count; ++i) {
      if (reads[i]) CHECK_EQ(chosen[at++], i);
    }
    CHECK_EQ(at, wanted);
  }
}

TEST(attention_reads_the_pages_of_the_best_bounds) {
  static Scene scene;
  const PageStorage storages[] = {PageStorage::kF16, PageStorage::kInt8, PageStorage::kInt4,
                                  PageStorage::kInt2};
  uint64_t seed = 1;
  for (const PageStorage k : storages) {
    for (const uint32_t width : {0u, 16u, 32u}) {
      for (const int32_t per_step : {1, 2, 5, 8}) {
        make(&scene, plan_of(width, 32 - width / 32 * 16, k, storages[seed % 4], per_step, per_step),
             seed);
        ++seed;
        attend(&scene, 0, kQueryRows, 1);
        for (int32_t row = 0; row < kQueryRows; ++row) {
          for (int32_t head = 0; head < kHeads; ++head) {
            bool reads[kPages];
            double out[kDim];
            choose_f64(scene, row, head / 2, reads);
            expected(scene, row, head, reads, out);
            for (int32_t d = 0; d < kDim; ++d)
              CHECK_NEAR(scene.out[(row * kHeads + head) * kDim + d], out[d], 3e-6);
          }
        }
        // Row invariance: each row alone chooses and sums alike.
        float together[kQueryRows * kHeads * kDim];
        memcpy(together, scene.out, sizeof(together));
        for (int32_t row = 0; row < kQueryRows; ++row) attend(&scene, row, 1, 1);
        CHECK(memcmp(together, scene.out, sizeof(together)) == 0);
        drop(&scene);
      }
    }
  }
}

// Pages with fewer slots than 32, another number in each head: unused slots are not attended to.
TEST(attention_reads_the_counts_of_evicting_pages) {
  static Scene scene;
  bool all[kPages];
  for (bool& read : all) read = true;
  for (const PageStorage k : {PageStorage::kF16, PageStorage::kInt2}) {
    CachePlan* plan = plan_of(16, 32, k, PageStorage::kInt4, 0, 0);
    plan->evicting = 1;
    plan_layout_write(plan);
    make(&scene, plan, 9);
    static float unpacked[2][kPageSlots * kDim];
    CHECK_EQ(page_unpack_ref(*plan, 0, 1, scene.pages, unpacked[0], unpacked[1]), 18);
    attend(&scene, 0, kQueryRows, 0);
    for (int32_t row = 0; row < kQueryRows; ++row) {
      for (int32_t head = 0; head < kHeads; ++head) {
        double out[kDim];
        expected(scene, row, head, all, out);
        for (int32_t d = 0; d < kDim; ++d)
          CHECK_NEAR(scene.out[(row * kHeads + head) * kDim + d], out[d], 3e-6);
      }
    }
    drop(&scene);
  }
}

// Up to the floor, and in rows of prompts, every page is read: with the bits of a plan that does
// not select.
TEST(selection_changes_no_bit_where_every_page_is_read) {
  static Scene scene;
  float all[kQueryRows * kHeads * kDim];
  for (const PageStorage k : {PageStorage::kF16, PageStorage::kInt4}) {
    make(&scene, plan_of(16, 32, k, PageStorage::kInt8, 0, 0), 77);
    attend(&scene, 0, kQueryRows, 0);
    memcpy(all, scene.out, sizeof(all));
    drop(&scene);
    struct Case {
      int32_t per_step;
      int32_t floor;
      int32_t selects;
      bool same;
    };
    const Case cases[] = {{3, kPages, 1, true},      {kPages, kPages, 1, true},
                          {3, kPages - 1, 1, false}, {3, kPages - 1, 0, true},
                          {3, kPages + 5, 1, true},  {1, 1, 0, true}};
    for (const Case& c : cases) {
      make(&scene, plan_of(16, 32, k, PageStorage::kInt8, c.per_step, c.floor), 77);
      attend(&scene, 0, kQueryRows, c.selects);
      CHECK_EQ(memcmp(all, scene.out, sizeof(all)) == 0, c.same);
      drop(&scene);
    }
  }
}

// A query that is not a number chooses pages all the same.
TEST(selection_takes_any_query) {
  static Scene scene;
  make(&scene, plan_of(16, 32, PageStorage::kInt4, PageStorage::kInt8, 3, 3), 5);
  for (float& q : scene.q) q = NAN;
  attend(&scene, 0, kQueryRows, 1);
  CHECK(scene.out[0] != scene.out[0]);
  for (float& q : scene.q) q = INFINITY;
  attend(&scene, 0, kQueryRows, 1);
  drop(&scene);
}
