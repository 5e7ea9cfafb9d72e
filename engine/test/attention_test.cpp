// Attention over zones against softmax in double; a page changes no bit under the identity plan;
// other plans against the values that page_unpack_ref gives.
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

constexpr int32_t kHeads = 6;
constexpr int32_t kKvHeads = 2;
constexpr int32_t kTokens = 140;
constexpr int32_t kDimMax2 = 48;

// K and V of a sequence, (kKvHeads, kTokens, head_dim), as f16 and as the values that kernels see.
struct Rows {
  int32_t head_dim;
  uint16_t k[kKvHeads * kTokens * kDimMax2];
  uint16_t v[kKvHeads * kTokens * kDimMax2];
  float k_seen[kKvHeads * kTokens * kDimMax2];  // NaN where the plan drops the channel
  float v_seen[kKvHeads * kTokens * kDimMax2];

  size_t at(int32_t head, int32_t token) const {
    return static_cast<size_t>(head * kTokens + token) * static_cast<size_t>(head_dim);
  }
};

void fill(Rows* rows, int32_t head_dim, Random* random) {
  rows->head_dim = head_dim;
  for (int32_t i = 0; i < kKvHeads * kTokens * head_dim; ++i) {
    rows->k[i] = f32_to_f16(3 * random->uniform());
    rows->v[i] = f32_to_f16(random->uniform());
    rows->k_seen[i] = f16_to_f32(rows->k[i]);
    rows->v_seen[i] = f16_to_f32(rows->v[i]);
  }
}

CachePlan* make_plan(int32_t head_dim, int32_t sink, const uint32_t* widths, PageStorage k,
                     PageStorage v) {
  return test::tiny_plan(1, kKvHeads, head_dim, sink, 8, widths, k, v);
}

// Rounds what pages hold to what they give back.
void see_pages(Rows* rows, const CachePlan& plan, int32_t page_count, uint8_t* pages) {
  float k[kPageSlots * kDimMax2];
  float v[kPageSlots * kDimMax2];
  for (int32_t p = 0; p < page_count; ++p) {
    uint8_t* page = pages + static_cast<size_t>(p) * plan.page_bytes;
    const int32_t first = plan.sink + p * kPageSlots;
    kernels::page_flush(nullptr, plan, 0, kKvHeads, rows->head_dim, rows->k, rows->v, kTokens,
                        first, page);
    for (int32_t h = 0; h < kKvHeads; ++h) {
      const PageHead& head = plan_head(plan, 0, h);
      page_unpack_ref(plan, 0, h, page, k, v);
      for (int32_t s = 0; s < kPageSlots; ++s) {
        const size_t at = rows->at(h, first + s);
        for (int32_t d = 0; d < rows->head_dim; ++d) {
          rows->k_seen[at + static_cast<size_t>(d)] = NAN;
          rows->v_seen[at + static_cast<size_t>(d)] = head.width ? v[s * rows->head_dim + d] : NAN;
        }
        for (uint32_t j = 0; j < head.width; ++j) {
          rows->k_seen[at + plan_channels(plan)[head.channels + j]] =
              k[static_cast<uint32_t>(s) * head.width + j];
        }
      }
    }
  }
}

// One query row and head in double.
void expected(const Rows& rows, const float* q, int32_t head, int32_t position, double* out) {
  double scores[kTokens];
  double max = -1e300;
  const int32_t dim = rows.head_dim;
  for (int32_t t = 0; t <= position; ++t) {
    double score = 0;
    int32_t kept = 0;
    for (int32_t d = 0; d < dim; ++d) {
      const double k = static_cast<double>(rows.k_seen[rows.at(head, t) + static_cast<size_t>(d)]);
      if (!(k == k)) continue;
      score += k * static_cast<double>(q[d]);
      ++kept;
    }
    scores[t] = kept ? score / sqrt(static_cast<double>(dim)) : -1e300;
    if (scores[t] > max) max = scores[t];
  }
  double sum = 0;
  for (int32_t d = 0; d < dim; ++d) out[d] = 0;
  for (int32_t t = 0; t <= position; ++t) {
    if (scores[t] == -1e300) continue;
    const double p = exp(scores[t] - max);
    sum += p;
    for (int32_t d = 0; d < dim; ++d) {
      out[d] += p * static_cast<double>(rows.v_seen[rows.at(head, t) + static_cast<size_t>(d)]);
    }
  }
  for (int32_t d = 0; d < dim; ++d) out[d] /= sum;
}

struct Query {
  float q[8 * kHeads * kDimMax2];
  float out[8 * kHeads * kDimMax2];
};

// Runs one task of `count` rows from `first` on, with pages of the plan between sink and
// `archived`.
void attend(const Rows& rows, const CachePlan& plan, int32_t page_count, const uint8_t* pages,
            int32_t first, int32_t count, Query* query) {
  const uint8_t* addresses[8];
  for (int32_t p = 0; p < page_count; ++p)
    addresses[p] = pages + static_cast<size_t>(p) * plan.page_bytes;
  const CachePlan* plans[1] = {&plan};
  const kernels::AttentionShape shape = {plans, 0, kHeads, kKvHeads, rows.head_dim};
  kernels::AttentionTask task = {};
  task.q = query->q;
  task.out = query->out;
  task.pages = addresses;
  task.page_count = page_count;
  task.rows = count;
  task.first_position = first;
  const int32_t archived = plan.sink + page_count * kPageSlots;
  const auto add = [&](int32_t begin, int32_t end) {
    if (begin >= end) return;
    task.spans[task.span_count++] = {rows.k + rows.at(0, begin), rows.v + rows.at(0, begin),
                                     kTokens, end - begin, begin};
  };
  // The recent rows in two pieces, the query's own rows in a third, as the graph gives them.
  add(0, plan.sink < first ? plan.sink : first);
  const int32_t from = archived < first ? archived : first;
  const int32_t middle = from + (first - from) / 3;
  if (first > plan.sink) {
    add(from, middle);
    add(middle, first);
  }
  add(first, first + count);
  uint8_t* scratch = static_cast<uint8_t*>(aligned_alloc(
      64, (kernels::attention_scratch_bytes(count, kHeads, rows.head_dim, 8) + 63) / 64 * 64));
  kernels::attention(nullptr, shape, &task, 1, scratch);
  free(scratch);
}

void compare(const Rows& rows, int32_t first, int32_t count, const Query& query, double bound) {
  double out[kDimMax2];
  for (int32_t r = 0; r < count; ++r) {
    for (int32_t h = 0; h < kHeads; ++h) {
      const size_t at = static_cast<size_t>(r * kHeads + h) * static_cast<size_t>(rows.head_dim);
      expected(rows, query.q + at, h / (kHeads / kKvHeads), first + r, out);
      for (int32_t d = 0; d < rows.head_dim; ++d)
        CHECK_NEAR(query.out[at + static_cast<size_t>(d)], out[d], bound);
    }
  }
}

}  // namespace

TEST(attention_equals_softmax_and_pages_change_no_bit) {
  Random random = {6};
  static Rows rows;
  static Query query;
  static Query paged;
  for (const int32_t head_dim : {2, 6, 8, 16, 48}) {
    for (const int32_t sink : {0, 5, 32, 40}) {
      fill(&rows, head_dim, &random);
      const uint32_t widths[2] = {static_cast<uint32_t>(head_dim), static_cast<uint32_t>(head_dim)};
      CachePlan* plan = make_plan(head_dim, sink, widths, PageStorage::kF16, PageStorage::kF16);
      uint8_t* pages = static_cast<uint8_t*>(
          aligned_alloc(64, 4 * static_cast<size_t>(plan->page_bytes) / 64 * 64 + 64));
      see_pages(&rows, *plan, 3, pages);
      for (const int32_t first : {0, 1, 31, 100, 137}) {
        const int32_t count = 1 + random.below(3);
        for (int32_t i = 0; i < count * kHeads * head_dim; ++i)
          query.q[i] = paged.q[i] = random.uniform();
        attend(rows, *plan, 0, nullptr, first, count, &query);
        compare(rows, first, count, query, 2e-6);
        const int32_t full = (first - sink) / kPageSlots;
        if (first <= sink || full < 1) continue;
        attend(rows, *plan, full < 3 ? full : 3, pages, first, count, &paged);
        CHECK(memcmp(query.out, paged.out, static_cast<size_t>(count * kHeads * head_dim) * 4) ==
              0);
        // Row invariance: the last row alone.
        Query single;
        const size_t last = static_cast<size_t>((count - 1) * kHeads * head_dim);
        memcpy(single.q, query.q + last, static_cast<size_t>(kHeads * head_dim) * 4);
        attend(rows, *plan, full < 3 ? full : 3, pages, first + count - 1, 1, &single);
        CHECK(memcmp(single.out, paged.out + last, static_cast<size_t>(kHeads * head_dim) * 4) ==
              0);
      }
      free(pages);
      free(plan);
    }
  }
}

TEST(attention_over_pruned_and_quantised_pages) {
  Random random = {7};
  static Rows rows;
  static Query query;
  const uint32_t all_widths[][2] = {{16, 32}, {48, 0}, {0, 0}, {32, 48}};
  const PageStorage storages[] = {PageStorage::kF16, PageStorage::kInt8, PageStorage::kInt4,
                                  PageStorage::kInt2};
  for (const auto& widths : all_widths) {
    for (const PageStorage k : storages) {
      const PageStorage v = storages[random.below(4)];
      fill(&rows, 48, &random);
      CachePlan* plan = make_plan(48, 8, widths, k, v);
      uint8_t* pages = static_cast<uint8_t*>(
          aligned_alloc(64, 4 * static_cast<size_t>(plan->page_bytes) / 64 * 64 + 64));
      see_pages(&rows, *plan, 3, pages);
      for (int32_t i = 0; i < 2 * kHeads * 48; ++i) query.q[i] = random.uniform();
      attend(rows, *plan, 3, pages, 120, 2, &query);
      compare(rows, 120, 2, query, 5e-6);
      free(pages);
      free(plan);
    }
  }
}
