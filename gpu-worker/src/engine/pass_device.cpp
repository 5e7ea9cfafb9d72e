// Passes on a device (engine/src/pass.h). Launches return before their kernels are done; pass_wait waits.
#include "pass.h"

#include "device.h"
#include "error.h"
#include "layer_device.h"
#include "leanedge_cuda/page_flush.h"
#include "memory_ops.h"
#include "pass_tables.h"
#include "row_kernels.h"

namespace leanedge {

using cuda::device;
using cuda::device_check;
using cuda::PassTables;

namespace {

// Tables of the pass under way; those of a prefill are built by the first call that needs them.
PassTables tables;
bool tables_fresh;

bool is_generated(const Engine& engine, const Run& run) {
  return (log_word(engine.logs, run.sequence->log, run.first) & kWordGenerated) != 0;
}

// Sends what was written for the host's side of the upload ring to `image`.
void send_tables(const cuda::TableWriter& writer) {
  device_check(cudaMemcpyAsync(writer.image, writer.host, writer.used, cudaMemcpyHostToDevice,
                               device.stream));
}

// Builds the tables of runs in the upload ring, or, for a graph, at their fixed place.
void build_tables(const Engine& engine, const Run* runs, int32_t run_count, int32_t padded,
                  uint8_t* fixed) {
  cuda::TableWriter writer = {};
  writer.bytes = cuda::tables_bytes(engine, runs, run_count, padded);
  writer.host = cuda::upload_room(&device.ring, writer.bytes, &writer.image, device.stream);
  if (fixed) writer.image = fixed;
  cuda::tables_build(engine, runs, run_count, padded, &writer, &tables);
  send_tables(writer);
}

void launch_embed(float* x) {
  cuda::MatrixRows call = {};
  call.ids = tables.ids;
  call.out = x;
  call.count = tables.rows;
  device_check(
      cuda::matrix_rows_launch(device.weights.embedding, call, device.stream, &device.error));
}

void launch_angles(const Engine& engine) {
  cuda::RopeAngles call = {};
  call.frequency = device.weights.frequency;
  call.positions = tables.positions;
  call.angles = device.scratch.angles;
  call.magnitude = engine.rope.magnitude;
  call.rows = tables.rows;
  call.pairs = engine.rope.pairs;
  device_check(cuda::rope_angles_launch(call, device.stream));
}

void launch_flags() {
  device_check(cuda::flag_owners_launch(device.scratch.bad_rows, tables.owners,
                                        device.bad_sequences, tables.rows, device.stream));
}

// A decode step from ids to the residual stream, as a graph holds it.
void launch_decode(void* context) {
  const Engine& engine = *static_cast<const Engine*>(context);
  launch_embed(device.scratch.x);
  launch_angles(engine);
  for (int32_t layer = 0; layer < engine.config.layers; ++layer) {
    cuda::layer_launch(engine, tables, layer, device.scratch.x, cuda::Continue::kAll);
  }
  launch_flags();
}

// Rows of several plans, or of prompts: prompt rows enter the zones layer by layer.
void launch_mixed(Engine* engine, Run* runs, int32_t run_count, cuda::Continue end) {
  launch_embed(device.scratch.x);
  launch_angles(*engine);
  for (int32_t layer = 0; layer < engine->config.layers; ++layer) {
    const bool last = layer == engine->config.layers - 1;
    cuda::layer_launch(*engine, tables, layer, device.scratch.x,
                       last ? end : cuda::Continue::kAll);
    for (int32_t i = 0; i < run_count; ++i) {
      const Run& run = runs[i];
      if (run.dense_stride == 0) continue;
      cache_push(&engine->pool, &run.sequence->cache, engine->context, layer, run.dense_k,
                 run.dense_v, run.rows);
    }
  }
  launch_flags();
}

// A page flush that waits for its launch: nothing of the step reads what it writes.
struct PendingFlush {
  cuda::PageFlush call;
  const CachePlan* plan;
};
PendingFlush pending[kPlansMax];
int32_t pending_count;

// Prepares to pack the pages that rows which decode have filled, all layers of a plan in one launch.
void prepare_flush(Engine* engine, const Run* runs, int32_t run_count) {
  const CachePool& pool = engine->pool;
  for (int32_t p = 0; p < pool.plan_count; ++p) {
    uint8_t* image = nullptr;
    cuda::PageFlushJob* jobs = nullptr;
    int32_t count = 0;
    for (int32_t i = 0; i < run_count; ++i) {
      const SequenceCache& cache = runs[i].sequence->cache;
      if (cache.plan != p || runs[i].dense_stride != 0) continue;
      const int32_t page = cache_pages(pool, p, cache.computed);
      if (cache_pages(pool, p, cache.computed + runs[i].rows) == page) continue;
      if (!jobs) {
        jobs = reinterpret_cast<cuda::PageFlushJob*>(cuda::upload_room(
            &device.ring, kStepEntriesMax * sizeof(*jobs), &image, device.stream));
      }
      const LayerRegion region = cache_region(pool, cache, 0);
      const int32_t ring_rows = pool.plans[p].ring_rows;
      jobs[count++] = {region.ring_k, region.ring_v, ring_rows, page * kPageSlots % ring_rows,
                       cuda::block_number(pool.heap, cache.pages[page]), 0};
    }
    if (count == 0) continue;
    device_check(cuda::upload_send(&device.ring, reinterpret_cast<const uint8_t*>(jobs),
                                   static_cast<uint64_t>(count) * sizeof(*jobs), device.stream));
    const cuda::DevicePlan& plan = device.plans[p];
    PendingFlush& flush = pending[pending_count++];
    flush.plan = pool.plans[p].plan;
    flush.call = {};
    flush.call.plan = plan.block;
    flush.call.jobs = reinterpret_cast<const cuda::PageFlushJob*>(image);
    flush.call.arenas = plan.arenas;
    flush.call.not_finite = device.bad_pages;
    flush.call.zone_layer = plan.zone_layer;
    flush.call.job_count = count;
  }
}

// Rows of a run that go through dense rows: those of a prompt, but a single one that may decode.
void place_run(const Engine& engine, Run* run) {
  const size_t at = static_cast<size_t>(run->row) * static_cast<size_t>(engine.config.kv_heads) *
                    static_cast<size_t>(engine.config.head_dim);
  const bool selects = plan_selects(*engine.pool.plans[run->sequence->cache.plan].plan);
  const bool decodes = is_generated(engine, *run) || (run->rows == 1 && !selects);
  run->dense_k = device.scratch.k_dense + at;
  run->dense_v = device.scratch.v_dense + at;
  run->dense_stride = decodes ? 0 : run->rows;
  run->dense_row = 0;
}

}  // namespace

void cuda::pages_flush() {
  for (int32_t i = 0; i < pending_count; ++i) {
    device_check(page_flush_launch(*pending[i].plan, pending[i].call, device.stream));
  }
  pending_count = 0;
}

void cuda::flush_forget() { pending_count = 0; }

void pass_compute(Engine* engine, Run* runs, int32_t run_count) {
  int32_t rows = 0;
  for (int32_t i = 0; i < run_count; ++i) {
    place_run(*engine, &runs[i]);
    rows += runs[i].rows;
  }
  ENGINE_ASSERT(rows > 0 && rows <= engine->options.batch_rows_max);
  cuda::pages_flush();
  device.waiting = 1;
  const bool uniform = cuda::tables_uniform(*engine, runs, run_count, rows);
  // Where all rows are last ones, or most, they all go through to the end.
  const bool gathers = !uniform && rows != run_count;
  if (uniform) {
    const int32_t bucket = cuda::bucket_of(rows);
    const int32_t plan = runs[0].sequence->cache.plan;
    build_tables(*engine, runs, run_count, cuda::kBuckets[bucket], device.graphs.pass_tables);
    if (engine->observation.sequence >= 0) {
      launch_decode(engine);  // with launches that no graph has
    } else {
      const size_t form = static_cast<size_t>(tables.groups[0].form);
      device_check(cuda::captured_run(&device.graphs.layers[plan][form][bucket], launch_decode,
                                      engine, device.stream));
    }
  } else {
    build_tables(*engine, runs, run_count, rows, nullptr);
    launch_mixed(engine, runs, run_count,
                 gathers ? cuda::Continue::kLast : cuda::Continue::kAll);
  }
  device.drawn_from = gathers ? device.scratch.last : device.scratch.x;
  prepare_flush(engine, runs, run_count);
  for (int32_t i = 0; i < run_count; ++i) {
    runs[i].x_row = gathers ? i : runs[i].row + runs[i].rows - 1;
    cache_commit(engine->pool, &runs[i].sequence->cache, runs[i].rows);
    engine->rows += static_cast<uint64_t>(runs[i].rows);
  }
}

void pass_embed(const Pass& pass) {
  build_tables(*pass.engine, pass.runs, pass.run_count, pass.rows, nullptr);
  tables_fresh = true;
  launch_embed(pass.x);
}

void pass_angles(const Pass& pass) {
  cuda::pages_flush();
  device.waiting = 1;
  if (!tables_fresh) build_tables(*pass.engine, pass.runs, pass.run_count, pass.rows, nullptr);
  tables_fresh = false;
  launch_angles(*pass.engine);
}

void pass_layer(const Pass& pass, int32_t layer) {
  cuda::layer_launch(*pass.engine, tables, layer, pass.x, cuda::Continue::kAll);
  launch_flags();
}

void pass_keys(const Pass& pass, int32_t layer) {
  cuda::layer_launch(*pass.engine, tables, layer, pass.x, cuda::Continue::kNone);
  launch_flags();
}

void pass_last_layer(const Pass& pass) {
  cuda::layer_launch(*pass.engine, tables, pass.engine->config.layers - 1, pass.x,
                     cuda::Continue::kLast);
  launch_flags();
  device.drawn_from = device.scratch.last;
  for (int32_t i = 0; i < pass.run_count; ++i) pass.runs[i].x_row = i;
}

Status pass_wait(Engine* engine) {
  cuda::pages_flush();
  if (device.waiting) {
    cuda::flags_read(*engine);
    device_check(cudaStreamSynchronize(device.stream));
    device.waiting = 0;
  }
  if (device.lost == cudaSuccess) return Status::kOk;
  if (device.error.status != Status::kOk) {
    engine->error = device.error;
    return device.error.status;
  }
  return cuda::cuda_failed(&engine->error, device.lost, "a pass");
}

bool pass_failed(const Engine& engine, const Sequence& sequence) {
  const int64_t handle = &sequence - engine.sequences;
  if (device.bad_sequences_host[handle] == 0) return false;
  memory_zero(device.bad_sequences + handle, sizeof(uint32_t));
  device.bad_sequences_host[handle] = 0;
  return true;
}

const float* pass_logits_row(Engine* engine, int32_t row) {
  const size_t vocab = static_cast<size_t>(engine->config.vocab_size);
  memory_read(device.logits_host, device.scratch.kept_logits + static_cast<size_t>(row) * vocab,
              vocab * sizeof(float));
  return device.lost == cudaSuccess ? device.logits_host : nullptr;
}

}  // namespace leanedge
