// Snapshots: a restored sequence goes on as the saved one would; anything broken is refused.
#include "leanedge/snapshot.h"

#include <initializer_list>

#include "plan_matrix.h"
#include "random.h"
#include "shadow.h"
#include "tiny_model.h"
#include "tiny_plan.h"

using namespace leanedge;
using leanedge::test::Random;
using leanedge::test::Shadow;

namespace {

constexpr int32_t kVocab = 61;

struct Saved {
  uint8_t* data;  // without the checksum
  uint64_t bytes;
};

// Starts an engine whose plan 1 prunes and quantises.
int32_t started() {
  ModelConfig config = test::tiny_config(Architecture::kQwen3);
  config.head_dim = 32;
  config.rope_dim = 32;
  const uint32_t widths[4] = {16, 32, 0, 16};
  CachePlan* plan = test::tiny_plan(2, 2, 32, 4, 8, widths, PageStorage::kInt8, PageStorage::kInt2);
  test::TinyOptions options;
  options.plan = plan;
  const int32_t status = test::tiny_start(test::tiny_model(config, Dtype::kQ8_0, 3), options);
  free(plan);
  return status;
}

// A sequence of a prompt, `generated` drawn tokens, and a prompt of `last` ids of which `rows` are
// computed.
int32_t make(Shadow* shadow, int32_t plan, int32_t generated, int32_t last, int32_t rows) {
  Random random = {17};
  int32_t ids[64];
  for (int32_t& id : ids) id = random.below(kVocab);
  *shadow = {};
  shadow->sampling = {0.8f, 0, 1, 0, 1, 64, 99};
  const int32_t sequence = le_sequence_create(plan);
  CHECK_EQ(le_sequence_sampling(sequence, &shadow->sampling), 0);
  CHECK_EQ(le_sequence_append(sequence, 1, ids, 30), 0);
  shadow->append(1, ids, 30);
  for (int32_t i = 0; i < generated; ++i) {
    const StepEntry entry = {sequence, 1000, 1, 0};
    StepResult result = {};
    CHECK_EQ(le_step(&entry, 1, &result), 0);
    CHECK_EQ(result.status, 0);
    shadow->append(2, &result.token, 1);
  }
  if (last) {
    CHECK_EQ(le_sequence_append(sequence, 1, ids, last), 0);
    shadow->append(1, ids, last);
    const StepEntry entry = {sequence, rows * 2, 0, 0};
    StepResult result = {};
    CHECK_EQ(le_step(&entry, 1, &result), 0);
    CHECK_EQ(result.status, 0);
  }
  return sequence;
}

Saved save(int32_t sequence, int32_t chunk) {
  Saved saved = {nullptr, le_snapshot_bytes(sequence)};
  saved.data = static_cast<uint8_t*>(malloc(saved.bytes));
  for (uint64_t at = 0; at < saved.bytes; at += static_cast<uint64_t>(chunk)) {
    const uint64_t rest = saved.bytes - at;
    const int32_t bytes = rest < static_cast<uint64_t>(chunk) ? static_cast<int32_t>(rest) : chunk;
    CHECK_EQ(le_snapshot_read(sequence, at, saved.data + at, bytes), 0);
  }
  return saved;
}

// The restored sequence, or the first error.
int32_t restore(const Saved& saved, int32_t chunk, int32_t plan = 0) {
  const int32_t sequence = le_snapshot_begin(plan, saved.bytes);
  if (sequence < 0) return sequence;
  for (uint64_t at = 0; at < saved.bytes; at += static_cast<uint64_t>(chunk)) {
    const uint64_t rest = saved.bytes - at;
    const int32_t bytes = rest < static_cast<uint64_t>(chunk) ? static_cast<int32_t>(rest) : chunk;
    const int32_t status = le_snapshot_write(sequence, at, saved.data + at, bytes);
    if (status != 0) return status;
  }
  return sequence;
}

uint64_t bytes_free() {
  EngineStats stats = {};
  CHECK_EQ(le_engine_stats(&stats), 0);
  return stats.cache_bytes_free;
}

}  // namespace

TEST(snapshot_goes_on_as_the_saved_sequence) {
  CHECK_EQ(started(), 0);
  const int32_t cases[][5] = {{0, 0, 0, 0, 1000},  {1, 0, 0, 0, 7},      {0, 70, 0, 0, 333},
                              {0, 90, 20, 21, 64}, {0, 90, 20, 8, 4096}, {0, 3, 20, 8, 1},
                              {1, 70, 0, 0, 333},  {1, 90, 20, 8, 4096}, {1, 90, 20, 21, 1}};
  for (const auto& c : cases) {
    Shadow shadow;
    const int32_t sequence = make(&shadow, c[0], c[1], c[2], c[3]);
    const Saved saved = save(sequence, c[4]);
    const int32_t restored = restore(saved, c[4] + 5, c[0]);
    CHECK(restored >= 0);
    SequenceStats a = {};
    SequenceStats b = {};
    CHECK_EQ(le_sequence_stats(sequence, &a), 0);
    CHECK_EQ(le_sequence_stats(restored, &b), 0);
    CHECK(a.log_hash == b.log_hash);
    CHECK_EQ(a.segments, b.segments);
    // Inside a prompt segment nothing can go on: those rows are computed again.
    CHECK_EQ(b.computed, c[2] > c[3] ? a.tokens - c[2] : a.computed);
    CHECK_EQ(b.cache_bytes, le_plan_sequence_bytes(c[0], b.computed));
    CHECK_EQ(le_sequence_sampling(restored, &shadow.sampling), 0);
    float fresh[kVocab];
    const StepResult expected = test::replay(shadow, c[0], kVocab, fresh);
    const StepEntry entry = {restored, 1000, 1, 0};
    StepResult result = {};
    CHECK_EQ(le_step(&entry, 1, &result), 0);
    CHECK_EQ(result.status, 0);
    CHECK_EQ(result.token, expected.token);
    CHECK(test::same_bits(le_logits(restored), fresh, kVocab));
    CHECK_EQ(le_sequence_free(sequence), 0);
    CHECK_EQ(le_sequence_free(restored), 0);
    free(saved.data);
  }
}

// A row that is not finite would stop the quantiser later; a page that is not is dropped when it is
// needed as rows again.
TEST(snapshot_with_values_that_are_not_finite) {
  CHECK_EQ(started(), 0);
  Shadow shadow;
  const int32_t sequence = make(&shadow, 0, 90, 0, 0);
  const Saved saved = save(sequence, 1 << 20);
  SnapshotHeader header;
  memcpy(&header, saved.data, sizeof(header));
  const uint16_t infinite = 0x7c00;
  uint16_t good;
  for (const uint64_t at :
       {header.rows_offset, header.rows_offset + 1000, header.pages_offset - 66}) {
    memcpy(&good, saved.data + at, 2);
    memcpy(saved.data + at, &infinite, 2);
    CHECK_EQ(restore(saved, 5000), static_cast<int32_t>(Status::kInvalidSnapshot));
    memcpy(saved.data + at, &good, 2);
  }
  memcpy(saved.data + header.pages_offset + 64, &infinite, 2);
  const int32_t restored = restore(saved, 5000);
  CHECK(restored >= 0);
  CHECK_EQ(le_sequence_truncate(restored, 40), 0);
  SequenceStats stats = {};
  CHECK_EQ(le_sequence_stats(restored, &stats), 0);
  CHECK_EQ(stats.computed, 0);
  free(saved.data);
}

TEST(snapshot_of_an_empty_sequence) {
  CHECK_EQ(started(), 0);
  const int32_t sequence = le_sequence_create(0);
  const Saved saved = save(sequence, 100);
  CHECK_EQ(saved.bytes, uint64_t{192});
  const int32_t restored = restore(saved, 100);
  CHECK(restored >= 0);
  SequenceStats stats = {};
  CHECK_EQ(le_sequence_stats(restored, &stats), 0);
  CHECK_EQ(stats.tokens, 0);
  free(saved.data);
}

// Every single broken byte of header and log is refused or harmless; nothing is kept either way.
TEST(snapshot_with_broken_bytes) {
  CHECK_EQ(started(), 0);
  Shadow shadow;
  const int32_t sequence = make(&shadow, 0, 40, 20, 21);
  const Saved saved = save(sequence, 1 << 20);
  const uint64_t before = bytes_free();
  SnapshotHeader header;
  memcpy(&header, saved.data, sizeof(header));
  int32_t refused = 0;
  Random random = {5};
  for (uint64_t at = 0; at < header.rows_offset; ++at) {
    const uint8_t good = saved.data[at];
    saved.data[at] = static_cast<uint8_t>(good ^ (1 + random.below(255)));
    const int32_t result = restore(saved, 1 << 20);
    saved.data[at] = good;
    if (result < 0) {
      ++refused;
      CHECK_EQ(result, static_cast<int32_t>(Status::kInvalidSnapshot));
    } else {
      CHECK_EQ(le_sequence_free(result), 0);
    }
    CHECK_EQ(bytes_free(), before);
  }
  CHECK(refused > 200);
  free(saved.data);
}

// Flushing a page relies on finite rows, so a snapshot must not bring others in.
TEST(snapshot_with_rows_that_are_not_finite) {
  CHECK_EQ(started(), 0);
  Shadow shadow;
  const Saved saved = save(make(&shadow, 0, 40, 0, 0), 1 << 20);
  const uint64_t before = bytes_free();
  SnapshotHeader header;
  memcpy(&header, saved.data, sizeof(header));
  const uint64_t rows =
      2ull * (header.sink_rows + header.recent_rows) * header.layers * header.kv_heads;
  const uint16_t bad[] = {0x7c00, 0xfc00, 0x7e00};
  for (uint64_t i = 0; i < 3; ++i) {
    // The first, the last, and one value in between.
    uint8_t* at = saved.data + header.rows_offset + i * (rows * header.head_dim - 1) / 2 * 2;
    uint16_t good;
    memcpy(&good, at, 2);
    memcpy(at, &bad[i], 2);
    CHECK_EQ(restore(saved, 1 << 20), static_cast<int32_t>(Status::kInvalidSnapshot));
    CHECK_EQ(restore(saved, 333), static_cast<int32_t>(Status::kInvalidSnapshot));
    memcpy(at, &good, 2);
  }
  CHECK_EQ(bytes_free(), before);
  CHECK(restore(saved, 333) >= 0);
  free(saved.data);
}

TEST(snapshot_of_a_wrong_length) {
  CHECK_EQ(started(), 0);
  Shadow shadow;
  const Saved saved = save(make(&shadow, 0, 40, 0, 0), 1 << 20);
  const uint64_t before = bytes_free();
  for (uint64_t bytes = 0; bytes < saved.bytes; bytes += bytes < 800 ? 1 : 997) {
    const Saved cut = {saved.data, bytes};
    CHECK_EQ(restore(cut, 1 << 20), static_cast<int32_t>(Status::kInvalidSnapshot));
  }
  CHECK_EQ(bytes_free(), before);
  free(saved.data);
}

TEST(snapshot_restore_is_one_at_a_time_and_in_order) {
  CHECK_EQ(started(), 0);
  Shadow shadow;
  const Saved saved = save(make(&shadow, 0, 40, 0, 0), 1 << 20);
  const uint64_t before = bytes_free();
  const int32_t wrong = static_cast<int32_t>(Status::kWrongState);
  const int32_t sequence = le_snapshot_begin(0, saved.bytes);
  CHECK_EQ(le_snapshot_begin(0, saved.bytes), wrong);
  CHECK_EQ(le_snapshot_write(sequence, 10, saved.data, 10), wrong);
  CHECK_EQ(le_snapshot_write(sequence, 0, saved.data, 1000), 0);
  CHECK_EQ(le_snapshot_write(sequence, 0, saved.data, 1000), wrong);
  const int32_t id = 1;
  CHECK_EQ(le_sequence_append(sequence, 1, &id, 1), wrong);
  const StepEntry entry = {sequence, 10, 1, 0};
  StepResult result = {};
  CHECK_EQ(le_step(&entry, 1, &result), 0);
  CHECK_EQ(result.status, wrong);
  CHECK_EQ(le_sequence_free(sequence), 0);
  CHECK_EQ(bytes_free(), before);
  const int32_t again = restore(saved, 4096);
  CHECK(again >= 0);
  free(saved.data);
}

// Thousands of broken snapshots, of every plan and restored under any: refused, or a sequence that can
// be stepped. Nothing is kept of what was refused.
TEST(snapshot_fuzz_under_every_plan) {
  ModelConfig config = test::tiny_config(Architecture::kLlama);
  config.dim = 16;
  config.ff_dim = 16;
  config.head_dim = 32;
  config.rope_dim = 32;
  const test::PlanMatrix matrix(2, 4, 8);
  test::TinyOptions options;
  options.plans = matrix.plans;
  options.plan_count = test::kMatrixPlans;
  CHECK_EQ(test::tiny_start(test::tiny_model(config, Dtype::kF16, 3), options), 0);
  Random random = {41};
  int32_t refused = 0;
  int32_t taken = 0;
  for (int32_t plan = 0; plan <= test::kMatrixPlans; ++plan) {
    static Shadow shadow;
    const int32_t sequence = make(&shadow, plan, 75, 20, 21);
    const Saved saved = save(sequence, 5000);
    CHECK_EQ(le_sequence_free(sequence), 0);
    const uint64_t before = bytes_free();
    uint8_t* broken = static_cast<uint8_t*>(malloc(saved.bytes + 64));
    for (int32_t round = 0; round < 90; ++round) {
      memcpy(broken, saved.data, saved.bytes);
      uint64_t bytes = saved.bytes;
      const int32_t changes = random.below(5);
      for (int32_t i = 0; i < changes; ++i) {
        // Half of them in the header and the log, where structure is.
        const uint64_t at = random.next() % (random.below(2) ? 700 : saved.bytes);
        broken[at] = static_cast<uint8_t>(random.next());
      }
      if (random.below(4) == 0) bytes = random.next() % (saved.bytes + 64);
      memset(broken + saved.bytes, 0, 64);
      const int32_t under = random.below(5) ? plan : random.below(test::kMatrixPlans + 1);
      const int32_t result = restore({broken, bytes}, 1 + random.below(9000), under);
      if (result < 0) {
        ++refused;
        CHECK_EQ(result, static_cast<int32_t>(Status::kInvalidSnapshot));
        CHECK_EQ(bytes_free(), before);
        continue;
      }
      ++taken;
      const StepEntry entry = {result, 300, 1, 0};
      StepResult drawn = {};
      CHECK_EQ(le_step(&entry, 1, &drawn), 0);
      // Values of pages may be anything: then K, V or logits are not numbers, and the step says so.
      CHECK(drawn.status == 0 || drawn.status == static_cast<int32_t>(Status::kNotFinite));
      CHECK_EQ(le_sequence_free(result), 0);
      CHECK_EQ(bytes_free(), before);
    }
    free(broken);
    free(saved.data);
  }
  CHECK(refused > 200);
  CHECK(taken > 100);
}
