// Logits and drawing on a device: final norm, output matrix and sampling in one go, then the one wait of
// a step (engine/src/draw.h). What nobody waits for comes behind: logits are put aside for le_logits, and
// pages that the step has filled are packed.
#include "draw.h"

#include "device.h"
#include "draw_tables.h"
#include "pass.h"

namespace leanedge {

using cuda::device;
using cuda::device_check;
using cuda::SampleOut;
using cuda::SampleRow;

namespace {

// What pass_logits was asked for: draw_tokens computes it together with the drawing.
struct Asked {
  int32_t rows[cuda::kSampleRowsMax];
  int32_t count;
  int32_t first;  // row that the first one's logits are kept in
};

Asked asked;

cuda::DrawTables tables_at(uint8_t* base, int32_t bucket) {
  cuda::DrawTables at = {};
  at.rows = reinterpret_cast<const SampleRow*>(base);
  at.gather = reinterpret_cast<const int32_t*>(at.rows + bucket);
  at.recent = at.gather + bucket;
  return at;
}

struct DrawLaunch {
  const Engine* engine;
  const float* x;
  int32_t bucket;
};

void launch_draw(void* context) {
  const DrawLaunch& launch = *static_cast<const DrawLaunch*>(context);
  const ModelConfig& c = launch.engine->config;
  const cuda::DeviceScratch& s = device.scratch;
  const cuda::DrawTables tables = tables_at(device.graphs.draw_tables, launch.bucket);
  cuda::RmsNorm norm = {};
  norm.x = const_cast<float*>(launch.x);
  norm.weight = device.weights.output_norm;
  norm.gather = tables.gather;
  norm.y = s.normed;
  norm.y_type = Dtype::kBF16;
  norm.eps = c.rms_eps;
  norm.rows = launch.bucket;
  norm.dim = c.dim;
  device_check(cuda::rmsnorm_launch(norm, device.stream));
  cuda::MatrixProduct product = {};
  product.x = s.normed;
  product.inputs = launch.bucket;
  product.out = s.logits;
  product.output = cuda::MatrixOutput::kF32;
  product.overlap = 1;
  device_check(cuda::matrix_product_launch(device.matrix, device.weights.output, product,
                                           device.stream, &device.error));
  cuda::Sampling sampling = {};
  sampling.logits = s.logits;
  sampling.rows = tables.rows;
  sampling.recent = tables.recent;
  sampling.out = s.drawn;
  sampling.logits_stride = static_cast<size_t>(c.vocab_size);
  sampling.vocab_size = c.vocab_size;
  sampling.row_count = launch.bucket;
  device_check(cuda::sampling_launch(sampling, device.stream));
  device_check(cudaMemcpyAsync(device.drawn_host, s.drawn,
                               static_cast<size_t>(launch.bucket) * sizeof(SampleOut),
                               cudaMemcpyDeviceToHost, device.stream));
  cuda::flags_read(*launch.engine);
}

// Writes the tables of a drawing and sends them to their fixed place.
void send_draws(const Engine& engine, const Draw* draws, int32_t count, int32_t bucket) {
  uint64_t recent_max = 0;
  for (int32_t i = 0; i < count; ++i) {
    const SamplingParams& params = draws[i].sequence->sampling;
    if (params.repetition_penalty != 1.0f) {
      recent_max += static_cast<uint64_t>(params.repetition_window);
    }
  }
  const uint64_t row_bytes = sizeof(SampleRow) + sizeof(int32_t);
  const uint64_t bytes = static_cast<uint64_t>(bucket) * row_bytes + recent_max * sizeof(int32_t);
  uint8_t* image = nullptr;
  uint8_t* host = cuda::upload_room(&device.ring, bytes, &image, device.stream);
  const cuda::DrawTables at = tables_at(host, bucket);
  SampleRow* rows = const_cast<SampleRow*>(at.rows);
  int32_t* gather = const_cast<int32_t*>(at.gather);
  int32_t* recent = const_cast<int32_t*>(at.recent);
  int32_t used = 0;
  for (int32_t i = 0; i < bucket; ++i) {
    rows[i] = {};
    rows[i].position = -1;
    gather[i] = asked.rows[i < count ? i : 0];
    if (i >= count) continue;
    const Sequence& sequence = *draws[i].sequence;
    const bool looks_back = sequence.sampling.repetition_penalty != 1.0f;
    const int32_t ids = looks_back ? recent_ids(engine, sequence, recent + used) : 0;
    rows[i] = cuda::sample_row(sequence.sampling, sequence.log.tokens, i, used, ids);
    used += ids;
  }
  const uint64_t sent = static_cast<uint64_t>(bucket) * row_bytes +
                        static_cast<uint64_t>(used) * sizeof(int32_t);
  device_check(cudaMemcpyAsync(device.graphs.draw_tables, host, sent, cudaMemcpyHostToDevice,
                               device.stream));
}

}  // namespace

void pass_logits(Engine* engine, const int32_t* rows, int32_t count, int32_t first) {
  ENGINE_ASSERT(first + count <= engine->logits_rows && count <= cuda::kSampleRowsMax);
  asked.count = count;
  asked.first = first;
  for (int32_t i = 0; i < count; ++i) asked.rows[i] = rows[i];
}

void draw_tokens(Engine* engine, Draw* draws, int32_t count) {
  ENGINE_ASSERT(count == asked.count);
  const int32_t index = cuda::bucket_of(count);
  send_draws(*engine, draws, count, cuda::kBuckets[index]);
  DrawLaunch launch = {engine, device.drawn_from, cuda::kBuckets[index]};
  if (launch.x == device.scratch.x) {
    device_check(cuda::captured_run(&device.graphs.draws[index], launch_draw, &launch,
                                    device.stream));
  } else {
    launch_draw(&launch);
  }
  device_check(cudaEventRecord(device.drawn, device.stream));
  const size_t vocab = static_cast<size_t>(engine->config.vocab_size);
  device_check(cudaMemcpyAsync(device.scratch.kept_logits + static_cast<size_t>(asked.first) * vocab,
                               device.scratch.logits,
                               static_cast<size_t>(count) * vocab * sizeof(float),
                               cudaMemcpyDeviceToDevice, device.stream));
  cuda::pages_flush();
  device_check(cudaEventSynchronize(device.drawn));
  device.waiting = 0;
  for (int32_t i = 0; i < count; ++i) {
    const SampleOut& out = device.drawn_host[i];
    draws[i].result = {static_cast<Status>(out.status), out.token, out.logprob};
    if (device.lost != cudaSuccess) draws[i].result = {Status::kDeviceLost, -1, 0};
  }
}

}  // namespace leanedge
