// The CUDA engine's host code over a device that is the host (host_device/), against the reference engine:
//   engine_test libleanedge_host.so libleanedge_reference.so
// Prints a line for each case that fails, and `N passed, N failed`.
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vector>

#include "leanedge/engine.h"
#include "leanedge/half.h"
#include "leanedge/native.h"
#include "page_layout.h"

using namespace leanedge;
using std::vector;

namespace {

int passed = 0;
int failed = 0;

void check(bool ok, const char* name, double figure = 0) {
  ++(ok ? passed : failed);
  if (!ok) printf("FAIL %s (%g)\n", name, figure);
}

struct Calls {
  decltype(&le_error) error;
  decltype(&le_engine_create) create;
  decltype(&le_weights_write) write;
  decltype(&le_plan_add) plan_add;
  decltype(&le_engine_start) start;
  decltype(&le_sequence_create) sequence;
  decltype(&le_sequence_free) free;
  decltype(&le_sequence_append) append;
  decltype(&le_sequence_truncate) truncate;
  decltype(&le_sequence_fork) fork;
  decltype(&le_step) step;
  decltype(&le_logits) logits;
  decltype(&le_engine_stats) stats;
  decltype(&le_engine_close) close;
  decltype(&le_observe) observe;
  decltype(&le_observed) observed;
  // Of the host's device alone (host_runtime.cpp).
  size_t (*device_bytes)();
  void (*device_lose)(int error);
  void (*device_shrink)(size_t bytes);
  int32_t (*device_cluster_launches)();
};

template <class T>
void find(void* library, const char* name, T* out) {
  *out = reinterpret_cast<T>(dlsym(library, name));
  if (!*out) abort();
}

Calls load(const char* path) {
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    printf("%s\n", dlerror());
    exit(2);
  }
  Calls c = {};
  find(library, "le_error", &c.error);
  find(library, "le_engine_create", &c.create);
  find(library, "le_weights_write", &c.write);
  find(library, "le_plan_add", &c.plan_add);
  find(library, "le_engine_start", &c.start);
  find(library, "le_sequence_create", &c.sequence);
  find(library, "le_sequence_free", &c.free);
  find(library, "le_sequence_append", &c.append);
  find(library, "le_sequence_truncate", &c.truncate);
  find(library, "le_sequence_fork", &c.fork);
  find(library, "le_step", &c.step);
  find(library, "le_logits", &c.logits);
  find(library, "le_engine_stats", &c.stats);
  find(library, "le_engine_close", &c.close);
  find(library, "le_observe", &c.observe);
  find(library, "le_observed", &c.observed);
  c.device_bytes = reinterpret_cast<size_t (*)()>(dlsym(library, "host_device_bytes"));
  c.device_lose = reinterpret_cast<void (*)(int)>(dlsym(library, "host_device_lose"));
  c.device_shrink = reinterpret_cast<void (*)(size_t)>(dlsym(library, "host_device_shrink"));
  c.device_cluster_launches =
      reinterpret_cast<int32_t (*)()>(dlsym(library, "host_device_cluster_launches"));
  return c;
}

uint32_t random_state = 1;

float random_value() {  // in (-1, 1)
  random_state = random_state * 1664525u + 1013904223u;
  return static_cast<float>(random_state >> 8) / 8388608.0f - 1.0f;
}

constexpr int32_t kLayers = 2;
constexpr int32_t kDim = 64;
constexpr int32_t kHeads = 2;
constexpr int32_t kHeadDim = 64;
constexpr int32_t kFf = 96;
constexpr int32_t kVocab = 96;

ModelConfig config() {
  ModelConfig c = {};
  c.layers = kLayers;
  c.dim = kDim;
  c.ff_dim = kFf;
  c.heads = kHeads;
  c.kv_heads = 1;
  c.head_dim = c.rope_dim = kHeadDim;
  c.vocab_size = kVocab;
  c.context_tokens_max = 2048;
  c.rms_eps = 1e-5f;
  c.rope_base = 10000;
  c.rope_scale = c.yarn_beta_slow = c.yarn_attention_factor = 1;
  c.yarn_beta_fast = 32;
  c.tied_embeddings = 1;
  return c;
}

struct Model {
  vector<TensorDesc> table;
  vector<vector<uint8_t>> data;

  void matrix(TensorRole role, int32_t layer, int32_t rows, int32_t cols, float size) {
    table.push_back({role, layer, Dtype::kF16, rows, cols, 0});
    vector<uint8_t> bytes;
    for (int32_t i = 0; i < rows * cols; ++i) {
      const uint16_t half = f32_to_f16(random_value() * size);
      bytes.push_back(static_cast<uint8_t>(half));
      bytes.push_back(static_cast<uint8_t>(half >> 8));
    }
    data.push_back(bytes);
  }
  void ones(TensorRole role, int32_t layer) {
    table.push_back({role, layer, Dtype::kF32, 1, kDim, 0});
    vector<float> values(kDim, 1.0f);
    vector<uint8_t> bytes(kDim * sizeof(float));
    memcpy(bytes.data(), values.data(), bytes.size());
    data.push_back(bytes);
  }
};

Model model() {
  Model m;
  random_state = 7;
  const float size = 2.0f / sqrtf(static_cast<float>(kDim));
  m.matrix(TensorRole::kTokenEmbedding, -1, kVocab, kDim, 1.5f);
  for (int32_t l = 0; l < kLayers; ++l) {
    m.ones(TensorRole::kAttnNorm, l);
    m.matrix(TensorRole::kAttnQ, l, kHeads * kHeadDim, kDim, size);
    m.matrix(TensorRole::kAttnK, l, kHeadDim, kDim, size);
    m.matrix(TensorRole::kAttnV, l, kHeadDim, kDim, size);
    m.matrix(TensorRole::kAttnOutput, l, kDim, kHeads * kHeadDim, size);
    m.ones(TensorRole::kFfnNorm, l);
    m.matrix(TensorRole::kFfnGate, l, kFf, kDim, size);
    m.matrix(TensorRole::kFfnUp, l, kFf, kDim, size);
    m.matrix(TensorRole::kFfnDown, l, kDim, kFf, size);
  }
  m.ones(TensorRole::kOutputNorm, -1);
  return m;
}

// A plan that keeps every channel, in `storage`.
vector<uint32_t> plan(PageStorage storage, int32_t sink, int32_t recent) {
  const size_t channels = kLayers * kHeadDim;
  vector<uint32_t> block(plan_bytes(kLayers, 1, channels) / 4);
  plan_identity_write(block.data(), kLayers, 1, kHeadDim, sink, recent);
  CachePlan* p = reinterpret_cast<CachePlan*>(block.data());
  p->k_storage = p->v_storage = storage;
  plan_layout_write(p);
  return block;
}

// Plans: 0 identity of (4, 32), 1 the same in int8, 2 int8 with a long `recent`.
bool open(const Calls& c, uint64_t memory) {
  const ModelConfig cfg = config();
  const Model m = model();
  const EngineOptions options = {memory, 12, 96, 2048, 0};
  if (c.create(&options, &cfg, m.table.data(), static_cast<int32_t>(m.table.size())) != 0) {
    return false;
  }
  for (size_t i = 0; i < m.data.size(); ++i) {
    // In pieces that cut rows.
    for (size_t at = 0; at < m.data[i].size(); at += 1000) {
      const size_t rest = m.data[i].size() - at;
      const int32_t bytes = static_cast<int32_t>(rest < 1000 ? rest : 1000);
      if (c.write(static_cast<int32_t>(i), at, m.data[i].data() + at, bytes) != 0) return false;
    }
  }
  const vector<uint32_t> short_recent = plan(PageStorage::kInt8, 4, 32);
  const vector<uint32_t> long_recent = plan(PageStorage::kInt8, 4, 200);
  return c.plan_add(nullptr, 4, 32) == 0 &&
         c.plan_add(reinterpret_cast<const CachePlan*>(short_recent.data()), 0, 0) == 1 &&
         c.plan_add(reinterpret_cast<const CachePlan*>(long_recent.data()), 0, 0) == 2 &&
         c.start() == 0;
}

int32_t begin(const Calls& c, int32_t plan_index, int32_t tokens, uint32_t seed) {
  const int32_t sequence = c.sequence(plan_index);
  vector<int32_t> ids;
  random_state = seed;
  for (int32_t i = 0; i < tokens; ++i) {
    random_value();
    ids.push_back(static_cast<int32_t>((random_state >> 8) % kVocab));
  }
  c.append(sequence, 1, ids.data(), tokens);
  return sequence;
}

using Rows = vector<vector<float>>;

// One step of all sequences; their logits where a token was drawn. Empty where an entry failed.
Rows step(const Calls& c, const vector<int32_t>& sequences, int32_t work) {
  vector<StepEntry> entries;
  for (int32_t s : sequences) entries.push_back({s, work, 1, 0});
  vector<StepResult> results(entries.size());
  if (c.step(entries.data(), static_cast<int32_t>(entries.size()), results.data()) != 0) return {};
  Rows rows;
  for (size_t i = 0; i < entries.size(); ++i) {
    if (results[i].status != 0) return {};
    if (results[i].token < 0) continue;
    const float* logits = c.logits(sequences[i]);
    if (!logits) return {};
    rows.emplace_back(logits, logits + kVocab);
  }
  return rows;
}

// Logits of the next token of one sequence, read in steps of any size.
vector<float> next(const Calls& c, int32_t sequence, int32_t work = 1 << 20) {
  for (;;) {
    const Rows rows = step(c, {sequence}, work);
    if (!rows.empty()) return rows[0];
    if (c.error()->status != Status::kOk) return {};
  }
}

double distance(const vector<float>& a, const vector<float>& b) {
  if (a.size() != b.size() || a.empty()) return 1e9;
  double apart = 0;
  double size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    apart += pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    size += pow(static_cast<double>(b[i]), 2);
  }
  return sqrt(apart / size);
}

constexpr uint64_t kMemory = uint64_t{512} << 20;

// Prompts under every plan, some cut into steps, then decoding together.
void against_reference(const Calls& device, const Calls& reference) {
  for (int32_t p = 0; p < 3; ++p) {
    const double bound = p == 0 ? 0.02 : 0.06;
    vector<vector<float>> found[2];
    for (int32_t side = 0; side < 2; ++side) {
      const Calls& c = side ? reference : device;
      check(open(c, kMemory), "open");
      vector<int32_t> sequences;
      for (int32_t i = 0; i < 5; ++i) {
        sequences.push_back(begin(c, p, 1 + 67 * i, static_cast<uint32_t>(i + 1)));
        found[side].push_back(next(c, sequences.back(), i % 2 ? 50 : 1 << 20));
      }
      // Both go on with the same tokens, whatever they would have drawn.
      for (int32_t round = 0; round < 40; ++round) {
        for (int32_t s : sequences) {
          const int32_t id = (17 * round + s) % kVocab;
          c.truncate(s, 1 + 67 * (s - sequences[0]) + round);
          c.append(s, 2, &id, 1);
        }
        for (const vector<float>& row : step(c, sequences, 1 << 20)) found[side].push_back(row);
      }
    }
    double worst = 0;
    for (size_t i = 0; i < found[0].size() && i < found[1].size(); ++i) {
      worst = fmax(worst, distance(found[0][i], found[1][i]));
    }
    check(found[0].size() == 205 && found[1].size() == 205, "rows of logits",
          static_cast<double>(found[0].size()));
    check(worst < bound, "distance from the reference", worst);
  }
}

// Sums of squared channels over a prompt and what is generated behind it.
void observes(const Calls& device, const Calls& reference) {
  for (int32_t p = 0; p < 2; ++p) {
    vector<float> found[2];
    for (int32_t side = 0; side < 2; ++side) {
      const Calls& c = side ? reference : device;
      check(open(c, kMemory), "open");
      const int32_t other = begin(c, p, 30, 5);
      const int32_t sequence = begin(c, p, 150, 4);
      check(c.observe(sequence, 100) == 0, "le_observe");
      next(c, other);
      next(c, sequence);
      for (int32_t i = 0; i < 3; ++i) {
        const int32_t id = 11 + i;
        c.truncate(sequence, 150 + i);
        c.append(sequence, 2, &id, 1);
        step(c, {other, sequence}, 1 << 20);
      }
      for (int32_t layer = 0; layer < kLayers; ++layer) {
        double sums[(1 + kHeads) * kHeadDim];
        check(c.observed(layer, sums) == 0, "le_observed");
        for (double sum : sums) found[side].push_back(static_cast<float>(sum));
      }
    }
    const double apart = distance(found[0], found[1]);
    check(apart < 0.02, "sums of squares", apart);
  }
}

// The second time, passes come out of graphs.
void twice(const Calls& device) {
  Rows found[2];
  check(open(device, kMemory), "open");
  for (Rows& rows : found) {
    const int32_t a = begin(device, 0, 100, 1);
    const int32_t b = begin(device, 1, 210, 2);
    for (int32_t i = 0; i < 40; ++i) {
      for (const vector<float>& row : step(device, {a, b}, 130)) rows.push_back(row);
    }
    device.free(a);
    device.free(b);
  }
  check(found[0].size() > 60 && found[0] == found[1], "the same schedule twice",
        static_cast<double>(found[0].size()));
}

// Whoever draws in a step has its logits behind it, however many passes the step takes and wherever the ring of rows stands:
// those that its token was drawn from.
void keeps_logits(const Calls& c, const char* what) {
  constexpr int32_t kAll = 12;  // as many as there are rows of logits
  check(open(c, kMemory), "open");
  vector<int32_t> sequences;
  for (int32_t i = 0; i < kAll; ++i) sequences.push_back(begin(c, i % 3 == 2 ? 1 : 0, 20 + 9 * i, static_cast<uint32_t>(i + 1)));
  int32_t wrong = 0;
  for (int32_t round = 0; round < 12; ++round) {
    // So many draw by themselves first, and leave the ring somewhere.
    const vector<int32_t> some(sequences.begin(), sequences.begin() + round % 7);
    if (!some.empty()) step(c, some, 1 << 20);
    for (int32_t i = 0; i < kAll; ++i) {
      const vector<int32_t> more(static_cast<size_t>(1 + (7 * i + round) % 40), 3 + i);
      c.append(sequences[static_cast<size_t>(i)], 1, more.data(), static_cast<int32_t>(more.size()));
    }
    vector<StepEntry> entries;
    for (int32_t s : sequences) entries.push_back({s, 1 << 20, 1, 0});
    vector<StepResult> results(entries.size());
    if (c.step(entries.data(), kAll, results.data()) != 0) ++wrong;
    for (size_t i = 0; i < entries.size(); ++i) {
      const float* logits = c.logits(sequences[i]);
      int32_t best = 0;
      for (int32_t id = 1; logits && id < kVocab; ++id) best = logits[id] > logits[best] ? id : best;
      if (!logits || results[i].token != best) ++wrong;
    }
  }
  check(wrong == 0, what, wrong);
}

// A sequence that grows beyond what clusters of thread blocks serve goes on in shares, with graphs of its own.
void changes_form(const Calls& device) {
  constexpr int32_t kSteps = 30;
  Rows found[2];
  int32_t launches[2];
  for (int32_t side = 0; side < 2; ++side) {
    setenv("LEANEDGE_CUDA_VARIANTS", side ? "cluster_pages=1" : "cluster_pages=0", 1);
    check(open(device, kMemory), "open");
    const int32_t before = device.device_cluster_launches();
    const int32_t sequence = begin(device, 1, 310, 6);
    for (int32_t i = 0; i < kSteps; ++i) found[side].push_back(next(device, sequence));
    launches[side] = device.device_cluster_launches() - before;
  }
  unsetenv("LEANEDGE_CUDA_VARIANTS");
  check(launches[0] == 0, "clusters that nobody asked for", launches[0]);
  check(launches[1] > 0, "launches with clusters", launches[1]);
  check(launches[1] < kSteps * kLayers, "launches behind what clusters serve", launches[1]);
  check(found[0].size() == kSteps && found[0] == found[1], "rows in either form");
}

// A region that fits between no two blocks makes them slide; nobody notices.
void slides(const Calls& device) {
  Rows found[2];
  for (int32_t side = 0; side < 2; ++side) {
    check(open(device, kMemory), "open");
    EngineStats stats = {};
    device.stats(&stats);
    if (side == 1) {
      // As much cache as six short sequences take.
      const int32_t s = begin(device, 1, 200, 9);
      next(device, s);
      EngineStats used = {};
      device.stats(&used);
      const uint64_t short_bytes = stats.cache_bytes_free - used.cache_bytes_free;
      const uint64_t rest = stats.memory_bytes - stats.cache_bytes;
      check(open(device, rest + 6 * short_bytes + (104 << 10)), "open in little memory");
    }
    vector<int32_t> all;
    for (uint32_t i = 0; i < 6; ++i) {
      all.push_back(begin(device, 1, 200, i + 1));
      check(!next(device, all.back()).empty(), "a short sequence");
    }
    for (size_t i = 0; i < 6; i += 2) device.free(all[i]);
    const int32_t large = begin(device, 2, 20, 30);
    found[side].push_back(next(device, large));
    for (size_t i = 1; i < 6; i += 2) found[side].push_back(next(device, all[i]));
  }
  check(found[0] == found[1], "sequences behind a slide");
}

// An engine that is closed leaves nothing behind, and another one begins.
void closes(const Calls& device) {
  Rows found[2];
  for (Rows& rows : found) {
    check(open(device, kMemory), "open");
    const int32_t a = begin(device, 1, 150, 3);
    for (int32_t i = 0; i < 8; ++i) {
      for (const vector<float>& row : step(device, {a}, 1 << 20)) rows.push_back(row);
    }
    check(device.close() == 0, "le_engine_close");
    check(device.device_bytes() == 0, "memory behind a closed engine",
          static_cast<double>(device.device_bytes()));
    check(device.sequence(0) == static_cast<int32_t>(Status::kWrongState), "no sequence after it");
  }
  check(found[0].size() == 8 && found[0] == found[1], "the engine behind a closed one");
  check(device.close() == 0, "le_engine_close of no engine");
}

// What a device cannot give is a status; the process goes on, and so does the next engine.
void fails(const Calls& device) {
  constexpr int kIllegalAddress = 700;
  constexpr int kNoDevice = 100;
  device.device_shrink(1 << 20);
  check(!open(device, kMemory) && device.error()->status == Status::kOutOfMemory,
        "memory that others have taken", static_cast<double>(device.error()->status));
  device.device_shrink(size_t{8} << 30);
  device.device_lose(kNoDevice);
  check(!open(device, kMemory) && device.error()->status == Status::kDeviceLost, "no device",
        static_cast<double>(device.error()->status));
  device.device_lose(0);
  check(!open(device, 4 << 20) && device.error()->status == Status::kOutOfMemory,
        "memory too small for scratch", static_cast<double>(device.error()->status));
  check(open(device, kMemory), "open");
  const int32_t sequence = begin(device, 0, 40, 3);
  check(!next(device, sequence).empty(), "a sequence");
  device.device_lose(kIllegalAddress);
  const StepEntry entry = {sequence, 1 << 20, 1, 0};
  StepResult result = {};
  const int32_t status = device.step(&entry, 1, &result);
  const int32_t lost = static_cast<int32_t>(Status::kDeviceLost);
  check(status == lost || result.status == lost, "a step on a lost device", status);
  check(device.close() == 0 && device.device_bytes() == 0, "le_engine_close on a lost device");
  device.device_lose(0);
  check(open(device, kMemory) && !next(device, begin(device, 0, 40, 3)).empty(),
        "an engine behind a lost one");
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) return 2;
  const Calls device = load(arguments[1]);
  const Calls reference = load(arguments[2]);
  against_reference(device, reference);
  observes(device, reference);
  twice(device);
  keeps_logits(device, "logits behind a step, on the device");
  keeps_logits(reference, "logits behind a step, by the reference");
  changes_form(device);
  slides(device);
  closes(device);
  fails(device);
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
