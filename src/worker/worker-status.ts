/** What a worker says of itself: GetStatus. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { BackendName } from "../engine/engine.js";
import { Backend } from "../gen/leanedge/v1/session_pb.js";
import type { Fingerprints, GetStatusResponseSchema } from "../gen/leanedge/worker/v1/worker_pb.js";
import type { Scheduler } from "./scheduler.js";
import type { SequenceTable } from "./sequence-table.js";
import type { WorkerConfig } from "./worker-config.js";

/** Counted since start. */
export interface WorkerCounters {
  promptTokens: bigint;
  generatedTokens: bigint;
  cachedTokens: bigint;
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

/** Makes the answer of GetStatus. */
export function workerStatus(
  config: WorkerConfig,
  fingerprints: Fingerprints,
  scheduler: Scheduler,
  table: SequenceTable,
  counters: WorkerCounters,
): MessageInitShape<typeof GetStatusResponseSchema> {
  const { engine } = config;
  const stats = engine.stats();
  const plan = engine.plans[config.plan];
  const pageBytes = plan?.pageBytes ?? 0;
  const pages = (bytes: number): bigint =>
    BigInt(pageBytes === 0 ? 0 : Math.floor(bytes / pageBytes));
  return {
    worker: config.name,
    backend: wireBackend(engine.backend),
    models: [
      {
        model: config.model,
        fingerprints,
        contextTokensMax: engine.contextTokensMax,
        pageBytes: BigInt(pageBytes),
        sequenceBytes: BigInt(plan?.sequenceBytes ?? 0),
        info: { ...config.info, model: config.model },
      },
    ],
    draining: false,
    snapshots: false,
    running: scheduler.running,
    queued: scheduler.queued,
    sequences: table.size,
    pages: pages(stats.cacheBytes),
    pagesFree: pages(stats.cacheBytesFree + table.idleBytes()),
    memoryBytesMax: BigInt(stats.memoryBytesMax),
    memoryBytes: BigInt(stats.memoryBytes),
    steps: BigInt(stats.steps),
    promptTokens: counters.promptTokens,
    generatedTokens: counters.generatedTokens,
    cachedTokens: counters.cachedTokens,
  };
}
