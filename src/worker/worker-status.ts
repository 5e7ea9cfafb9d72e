/** What a worker says of itself: GetStatus. */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import type { BackendName } from "../engine/engine.js";
import { ModelInfoSchema } from "../gen/leanedge/v1/model_pb.js";
import { Backend } from "../gen/leanedge/v1/session_pb.js";
import type { GetStatusResponseSchema } from "../gen/leanedge/worker/v1/worker_pb.js";
import { fingerprintsOf, type GenerateContext } from "./generate.js";

/** Counted since start. */
export interface WorkerCounters {
  promptTokens: bigint;
  generatedTokens: bigint;
  cachedTokens: bigint;
  snapshotsSaved: bigint;
  snapshotsRestored: bigint;
  snapshotsStale: bigint;
  snapshotsBroken: bigint;
  snapshotBytesSaved: bigint;
  snapshotBytesRestored: bigint;
}

/** Counters of a worker that starts. */
export function newCounters(): WorkerCounters {
  return {
    promptTokens: 0n,
    generatedTokens: 0n,
    cachedTokens: 0n,
    snapshotsSaved: 0n,
    snapshotsRestored: 0n,
    snapshotsStale: 0n,
    snapshotsBroken: 0n,
    snapshotBytesSaved: 0n,
    snapshotBytesRestored: 0n,
  };
}

const backends: Record<BackendName, Backend> = {
  reference: Backend.REFERENCE,
  wasm: Backend.WASM,
  cuda: Backend.CUDA,
};

/** A backend's value on the wire. */
export function wireBackend(backend: BackendName): Backend {
  return backends[backend];
}

/** Makes the answer of GetStatus. Pages are counted in those of the preferred plan. */
export function workerStatus(
  context: GenerateContext,
): MessageInitShape<typeof GetStatusResponseSchema> {
  const { config, counters, plans, scheduler, table } = context;
  const { engine } = config;
  const stats = engine.stats();
  const preferred = plans.info(plans.preferred);
  const pageBytes = Number(preferred.pageBytes);
  const pages = (bytes: number): bigint =>
    BigInt(pageBytes === 0 ? 0 : Math.floor(bytes / pageBytes));
  return {
    worker: config.name,
    backend: wireBackend(engine.backend),
    models: [
      {
        model: config.model,
        fingerprints: fingerprintsOf(context, plans.preferred),
        contextTokensMax: engine.contextTokensMax,
        pageBytes: preferred.pageBytes,
        sequenceBytes: preferred.sequenceBytes,
        info: create(ModelInfoSchema, {
          ...config.info,
          model: config.model,
          plans: plans.all.map((served) => plans.info(served)),
        }),
      },
    ],
    draining: false,
    snapshots: engine.snapshots,
    running: scheduler.running,
    queued: scheduler.queued,
    sequences: table.size,
    pages: pages(stats.cacheBytes),
    pagesFree: pages(stats.cacheBytesFree + table.idleBytes()),
    pagesIdle: pages(table.idleBytes()),
    memoryBytesMax: BigInt(stats.memoryBytesMax),
    memoryBytes: BigInt(stats.memoryBytes),
    steps: BigInt(stats.steps),
    rows: BigInt(stats.rows),
    cacheBytes: BigInt(stats.cacheBytes),
    cacheBytesFree: BigInt(stats.cacheBytesFree),
    ...counters,
  };
}
