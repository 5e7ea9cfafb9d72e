/**
 * leanedge.worker.v1.WorkerService over one engine: the same code in a Durable Object of the
 * gateway and in a worker process. It knows no HTTP, no storage and no gateway.
 */
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError, type HandlerContext, type ServiceImpl } from "@connectrpc/connect";
import {
  FingerprintsSchema,
  type ForkRequest,
  type GenerateRequest,
  type ReleaseRequest,
  type WorkerService,
} from "../gen/leanedge/worker/v1/worker_pb.js";
import { checkSequenceId } from "./check-request.js";
import { EngineLoop } from "./engine-loop.js";
import { toConnectError } from "./errors.js";
import { generate, type GenerateContext } from "./generate.js";
import { Scheduler } from "./scheduler.js";
import { SequenceTable } from "./sequence-table.js";
import type { WorkerConfig } from "./worker-config.js";
import { workerStatus } from "./worker-status.js";

/** A worker that runs. */
export interface RunningWorker {
  /** Handlers of its calls. */
  readonly service: ServiceImpl<typeof WorkerService>;
  /** Ends every call and frees every sequence; the engine itself stays. */
  close(): void;
  /** Drops the idle cache that was used least recently, for others on the same engine. */
  dropOldestIdleCache(): boolean;
}

/** Starts a worker: the handlers of leanedge.worker.v1 over an engine. */
export function startWorker(config: WorkerConfig): RunningWorker {
  const { engine } = config;
  const table = new SequenceTable(engine);
  const scheduler = new Scheduler({
    layers: engine.layers,
    cacheBytes: engine.stats().cacheBytes,
  });
  const { yieldToHost, relieve } = config;
  const loop = new EngineLoop({ engine, scheduler, table, yieldToHost, relieve });
  const fingerprints = create(FingerprintsSchema, {
    model: config.modelFingerprint,
    template: config.codec.templateFingerprint,
    plan: engine.plans[config.plan]?.fingerprint ?? "",
  });
  const context: GenerateContext = {
    config,
    table,
    scheduler,
    loop,
    fingerprints,
    counters: { promptTokens: 0n, generatedTokens: 0n, cachedTokens: 0n },
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

    release(request: ReleaseRequest) {
      checkSequenceId(request.sequenceId);
      const held = table.get(request.sequenceId);
      if (held === undefined || request.generation < held.generation) return { released: false };
      held.abort?.(new ConnectError("the sequence was released", Code.Aborted));
      table.release(held);
      return { released: true };
    },

    fork(request: ForkRequest) {
      checkSequenceId(request.sequenceId);
      checkSequenceId(request.newSequenceId);
      const source = table.get(request.sequenceId);
      const prefix = request.prefix;
      if (source === undefined || prefix === undefined || !table.hasPrefix(source, prefix)) {
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

    // eslint-disable-next-line require-yield -- a stream that always fails
    async *snapshot() {
      throw new ConnectError("this worker keeps no snapshots", Code.Unimplemented);
    },

    restore() {
      throw new ConnectError("this worker keeps no snapshots", Code.Unimplemented);
    },

    getStatus() {
      return workerStatus(config, fingerprints, scheduler, table, context.counters);
    },
  };
  return {
    service,
    close: () => {
      table.releaseAll(new ConnectError("the worker has ended", Code.Unavailable));
    },
    dropOldestIdleCache: () => table.dropOldestIdleCache(),
  };
}
