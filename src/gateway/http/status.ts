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
import { errorFields } from "../../log/log-line.js";
import { log } from "../log.js";
import type { GetStatusResponse } from "../../gen/leanedge/worker/v1/worker_pb.js";
import { workerUnaryTimeoutMs } from "../limits.js";
import { authenticate } from "../services/authenticate.js";
import { engineDirectory } from "../worker-client/directory.js";
import type { WorkerDirectory, WorkerPlace } from "../worker-client/directory.js";
import { backendName } from "../objects/backend-name.js";
import type { GatewayHonoEnv } from "./frame.js";
import type { GatewayStatus, LostWorker, WorkerStatus } from "./status-figures.js";

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
  await directory.refresh();
  const workers = directory.workers().map((place) => askWorker(directory, place));
  return { object: "status", workers: await Promise.all(workers) };
}

async function askWorker(
  directory: WorkerDirectory,
  { worker, address }: WorkerPlace,
): Promise<WorkerStatus | LostWorker> {
  try {
    const client = directory.open(worker, address);
    if (client === undefined) {
      return { worker, error: "the worker is not known any more" };
    }
    return workerStatus(await client.getStatus({}, { timeoutMs: workerUnaryTimeoutMs }));
  } catch (error) {
    log("warn", "worker.silent", { worker, ...errorFields(error) });
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
