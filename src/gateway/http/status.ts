/**
 * GET /v1/status: the workers that this gateway knows and what each says of itself. For operators, and for whoever
 * counts what an engine does. Needs a key, as all of `/v1` does.
 *
 * `{"object": "status", "workers": [...]}`, one entry a worker in the order of the configuration. A worker that does not
 * answer within workerUnaryTimeoutMs has an `error` instead of figures, and the answer is 200 all the same: one lost
 * worker must not hide the others. An engine that was not used yet loads its model first.
 *
 * Fields of a worker are those of leanedge.worker.v1.GetStatusResponse under their names there. Counters
 * (`steps`, `*_tokens`) run from the worker's start. All figures are JSON numbers; none comes near 2^53.
 */
import type { Hono } from "hono";
import type { GetStatusResponse } from "../../gen/leanedge/worker/v1/worker_pb.js";
import { workerUnaryTimeoutMs } from "../limits.js";
import { authenticate } from "../services/authenticate.js";
import { engineDirectory } from "../worker-client/directory.js";
import type { WorkerDirectory } from "../worker-client/directory.js";
import { backendName } from "./backend-name.js";
import type { GatewayHonoEnv } from "./frame.js";

/** A model of a worker. */
export interface ModelStatus {
  /** Id that requests name it by. */
  readonly model: string;
  /** Longest context, tokens. */
  readonly context_tokens_max: number;
  /** Bytes of one page, all layers together. */
  readonly page_bytes: number;
  /** Bytes that a sequence takes before its first page. */
  readonly sequence_bytes: number;
  /** Cache plans that it may be served with, in the order in which they are looked at. */
  readonly plans: readonly PlanStatus[];
}

/** A cache plan of a model, with the sizes that follow from it. */
export interface PlanStatus {
  /** Name of the plan. */
  readonly plan: string;
  /** Archive bytes of one token, all layers together. */
  readonly archive_bytes_per_token: number;
  /** Bytes of one page, all layers together. */
  readonly page_bytes: number;
  /** Bytes that a sequence takes before its first page. */
  readonly sequence_bytes: number;
  /** Pages of a session at the longest context. */
  readonly pages_max: number;
  /** Bytes of cache of a session at the longest context. */
  readonly session_bytes_max: number;
  /** Longest context of one session in the engine's cache memory, tokens. */
  readonly context_tokens_budget: number;
}

/** A worker that answers. */
export interface WorkerStatus {
  /** Name of the worker, as `x-served-by` and the `started` event give it. */
  readonly worker: string;
  /** reference, wasm or cuda. */
  readonly backend: string;
  /** Refuses new sequences because it shuts down. */
  readonly draining: boolean;
  /** Models that it serves. */
  readonly models: readonly ModelStatus[];
  /** Sequences that generate or read a prompt now. */
  readonly running: number;
  /** Requests that wait. */
  readonly queued: number;
  /** Sequences that it holds. */
  readonly sequences: number;
  /** Pages of cache in all. */
  readonly pages: number;
  /** Pages that are free, or that an idle cache could give back at once. */
  readonly pages_free: number;
  /** Bytes of engine memory in use: weights, cache and scratch. */
  readonly memory_bytes: number;
  /** Bytes of engine memory that may be used. */
  readonly memory_bytes_max: number;
  /** Calls into the engine since start. */
  readonly steps: number;
  /** Tokens computed for prompts since start. */
  readonly prompt_tokens: number;
  /** Tokens generated since start. */
  readonly generated_tokens: number;
  /** Prompt tokens found in the cache since start. */
  readonly cached_tokens: number;
  /** Rows that the engine computed since its start. */
  readonly rows: number;
  /** Bytes of cache memory. */
  readonly cache_bytes: number;
  /** Bytes of it that no sequence holds. */
  readonly cache_bytes_free: number;
  /** Caches that were saved since start. */
  readonly snapshots_saved: number;
  /** Caches that were put back since start. */
  readonly snapshots_restored: number;
  /** Saved caches since start that were of another log, model, template, plan or engine version. */
  readonly snapshots_stale: number;
  /** Saved caches since start that were damaged. */
  readonly snapshots_broken: number;
  /** Bytes of saved and of restored caches since start. */
  readonly snapshot_bytes_saved: number;
  readonly snapshot_bytes_restored: number;
}

/** A worker that does not answer. */
export interface LostWorker {
  /** Name of the worker. */
  readonly worker: string;
  /** For people; without internals. */
  readonly error: string;
}

/** The whole answer. */
export interface GatewayStatus {
  readonly object: "status";
  readonly workers: readonly (WorkerStatus | LostWorker)[];
}

/** Mounts the route. */
export function mountStatus(app: Hono<GatewayHonoEnv>): void {
  app.get("/v1/status", async (c) => {
    await authenticate(c.req.raw.headers, c.env);
    c.header("cache-control", "no-store");
    return c.json(await gatewayStatus(engineDirectory(c.env)));
  });
}

/** Asks all workers at once. */
export async function gatewayStatus(directory: WorkerDirectory): Promise<GatewayStatus> {
  const workers = directory.workers().map((worker) => askWorker(directory, worker));
  return { object: "status", workers: await Promise.all(workers) };
}

async function askWorker(
  directory: WorkerDirectory,
  worker: string,
): Promise<WorkerStatus | LostWorker> {
  try {
    const client = directory.open(worker);
    if (client === undefined) {
      return { worker, error: "the worker is not known any more" };
    }
    return workerStatus(await client.getStatus({}, { timeoutMs: workerUnaryTimeoutMs }));
  } catch (error) {
    console.warn(`worker ${worker} does not say its status:`, error);
    return { worker, error: "the worker does not answer" };
  }
}

function workerStatus(status: GetStatusResponse): WorkerStatus {
  return {
    worker: status.worker,
    backend: backendName(status.backend),
    draining: status.draining,
    models: status.models.map((model) => ({
      model: model.model,
      context_tokens_max: model.contextTokensMax,
      page_bytes: Number(model.pageBytes),
      sequence_bytes: Number(model.sequenceBytes),
      plans: (model.info?.plans ?? []).map((plan) => ({
        plan: plan.name,
        archive_bytes_per_token: plan.archiveBytesPerToken,
        page_bytes: Number(plan.pageBytes),
        sequence_bytes: Number(plan.sequenceBytes),
        pages_max: plan.pagesMax,
        session_bytes_max: Number(plan.sessionBytesMax),
        context_tokens_budget: plan.contextTokensBudget,
      })),
    })),
    running: status.running,
    queued: status.queued,
    sequences: status.sequences,
    pages: Number(status.pages),
    pages_free: Number(status.pagesFree),
    memory_bytes: Number(status.memoryBytes),
    memory_bytes_max: Number(status.memoryBytesMax),
    steps: Number(status.steps),
    prompt_tokens: Number(status.promptTokens),
    generated_tokens: Number(status.generatedTokens),
    cached_tokens: Number(status.cachedTokens),
    rows: Number(status.rows),
    cache_bytes: Number(status.cacheBytes),
    cache_bytes_free: Number(status.cacheBytesFree),
    snapshots_saved: Number(status.snapshotsSaved),
    snapshots_restored: Number(status.snapshotsRestored),
    snapshots_stale: Number(status.snapshotsStale),
    snapshots_broken: Number(status.snapshotsBroken),
    snapshot_bytes_saved: Number(status.snapshotBytesSaved),
    snapshot_bytes_restored: Number(status.snapshotBytesRestored),
  };
}
