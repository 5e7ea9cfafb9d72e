/**
 * leanedge.worker.v1.WorkerService over one engine: the same code in a Durable Object of the
 * gateway and in a worker process. It knows no HTTP, no storage and no gateway.
 */
import { Code, ConnectError, type HandlerContext, type ServiceImpl } from "@connectrpc/connect";
import type {
  ForkRequest,
  GenerateRequest,
  ReleaseRequest,
  RestoreRequest,
  SnapshotRequest,
  WorkerService,
} from "../gen/leanedge/worker/v1/worker_pb.js";
import { checkSequenceId } from "./check-request.js";
import { EngineGate } from "./engine-gate.js";
import { EngineLoop } from "./engine-loop.js";
import { toConnectError } from "./errors.js";
import { generate, holdsPrefix, type GenerateContext } from "./generate.js";
import { restoreSnapshot } from "./restore-snapshot.js";
import { saveSnapshot } from "./save-snapshot.js";
import { deviceStepPromptRowsMax, keepCacheMsMax, stepPromptRowsMax } from "./limits.js";
import { Scheduler } from "./scheduler.js";
import { SequenceTable, type KeepCache } from "./sequence-table.js";
import { ServedPlans } from "./served-plans.js";
import type { WorkerConfig } from "./worker-config.js";
import { newCounters, workerStatus } from "./worker-status.js";

/** A worker that runs. */
export interface RunningWorker {
  /** Handlers of its calls. */
  readonly service: ServiceImpl<typeof WorkerService>;
  /** Ends every call and frees every sequence; the engine itself stays. */
  close(): void;
  /**
   * Drops the idle cache that was used least recently, for others on the same engine; where there is none, that of the
   * last call that waits.
   */
  dropOldestIdleCache(): boolean;
  /** Frees the idle sequence whose loss costs least, for others on the same engine; false if there is none. */
  releaseOldestIdle(): boolean;
}

/** Starts a worker: the handlers of leanedge.worker.v1 over an engine. */
export function startWorker(config: WorkerConfig): RunningWorker {
  const { engine } = config;
  const table = new SequenceTable(engine, config.relieveTable);
  const scheduler = new Scheduler({
    layers: engine.layers,
    cacheBytes: engine.stats().cacheBytes,
    promptRowsMax: engine.backend === "cuda" ? deviceStepPromptRowsMax : stepPromptRowsMax,
  });
  const gate = new EngineGate();
  const { yieldToHost, relieve } = config;
  const keep = config.keepCache;
  const keepCache: KeepCache | undefined = keep && ((id) => atMost(keep(id), keepCacheMsMax));
  const loop = new EngineLoop({ engine, scheduler, table, gate, yieldToHost, relieve, keepCache });
  const context: GenerateContext = {
    config,
    table,
    scheduler,
    loop,
    gate,
    keepCache,
    plans: new ServedPlans(engine, config.geometry, config.plans),
    fingerprints: {
      model: config.modelFingerprint,
      template: config.codec.templateFingerprint,
    },
    restores: new Set(),
    counters: newCounters(),
  };
  const checkSnapshots = (): void => {
    if (!engine.snapshots) {
      throw new ConnectError("this worker keeps no snapshots", Code.Unimplemented);
    }
  };

  const service: ServiceImpl<typeof WorkerService> = {
    generate(request: GenerateRequest, handler: HandlerContext) {
      checkSequenceId(request.sequenceId);
      if (request.model !== config.model) {
        throw new ConnectError(
          `model "${request.model}" is not served here, "${config.model}" is`,
          Code.NotFound,
        );
      }
      return generate(context, request, handler.signal);
    },

    async release(request: ReleaseRequest) {
      checkSequenceId(request.sequenceId);
      await gate.quiet();
      const held = table.get(request.sequenceId);
      if (held === undefined || request.generation < held.generation) return { released: false };
      held.abort?.(new ConnectError("the sequence was released", Code.Aborted));
      table.release(held);
      return { released: true };
    },

    async fork(request: ForkRequest) {
      checkSequenceId(request.sequenceId);
      checkSequenceId(request.newSequenceId);
      await gate.quiet();
      const source = table.get(request.sequenceId);
      const prefix = request.prefix;
      if (source === undefined || prefix === undefined || !holdsPrefix(context, source, prefix)) {
        throw new ConnectError("the worker does not have that prefix", Code.NotFound);
      }
      if (table.get(request.newSequenceId) !== undefined) {
        throw new ConnectError(
          `sequence "${request.newSequenceId}" exists already`,
          Code.AlreadyExists,
        );
      }
      try {
        const copy = table.fork(source, prefix.tokens, request.newSequenceId);
        return { cachedTokens: engine.sequenceStats(copy.handle).computed };
      } catch (error) {
        throw toConnectError(error);
      }
    },

    snapshot(request: SnapshotRequest, handler: HandlerContext) {
      checkSnapshots();
      checkSequenceId(request.sequenceId);
      return saveSnapshot(context, request, handler.signal);
    },

    restore(messages: AsyncIterable<RestoreRequest>, handler: HandlerContext) {
      checkSnapshots();
      return restoreSnapshot(context, messages, handler.signal);
    },

    async getStatus() {
      await gate.quiet();
      return workerStatus(context);
    },
  };
  return {
    service,
    close: () => {
      gate.whenQuiet(() => {
        const reason = new ConnectError("the worker has ended", Code.Unavailable);
        for (const restore of [...context.restores]) restore.end(reason);
        table.releaseAll(reason);
      });
    },
    dropOldestIdleCache: () => table.dropOneIdleCache() || loop.dropQueuedCache(),
    releaseOldestIdle: () => table.releaseOldestIdle(),
  };
}

/** Settles with the promise, or after `ms`. */
async function atMost(promise: Promise<void>, ms: number): Promise<void> {
  const late = Promise.withResolvers<undefined>();
  const timer = setTimeout(() => {
    late.resolve(undefined);
  }, ms);
  try {
    await Promise.race([promise, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}
