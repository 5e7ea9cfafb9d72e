/**
 * A worker process: serves a model, and ends in order when it is told to. Everything that `leanedge worker` does after its
 * options are read.
 */
import { createClient, createRouterTransport } from "@connectrpc/connect";
import { WorkerService, type GetStatusResponse } from "../../gen/leanedge/worker/v1/worker_pb.js";
import { WorkerMetrics, type WorkerLevels } from "../metrics.js";
import { startWorker } from "../worker-service.js";
import { EngineHost, type LoadedModel } from "./engine-host.js";
import { HostedService } from "./hosted-service.js";
import type { CallLog } from "./hosted-service.js";
import { startHttpServer, type HttpServer, type Page } from "./http-server.js";
import { hostRounds, readerStallMsMax, snapshotGraceMs } from "./limits.js";
import type { ListenAddress } from "./listen-address.js";
import type { PromptTexts } from "./prompt-texts.js";

/** What to serve, and where. */
export interface WorkerProcessOptions {
  /** Id that requests name the model by. */
  readonly model: string;
  /** Name of the worker, shown to clients. */
  readonly name: string;
  /** Loads the model; again after its engine was lost. */
  readonly load: () => Promise<LoadedModel>;
  /** Tokenizes long prompts; closed with the process. */
  readonly texts: Pick<PromptTexts, "encode" | "close">;
  readonly address: ListenAddress;
  /** Token that callers must show; undefined: none, and the address must be this machine's own. */
  readonly token: string | undefined;
  /** Time that running answers have to end when it is told to stop, in milliseconds. */
  readonly drainMs: number;
  /** Longest that a reader may take nothing, in milliseconds. */
  readonly readerStallMs?: number;
  /** One line for those who run it. */
  readonly log: (line: string) => void;
  /** Told of every call of Generate that has ended. */
  readonly logCall?: CallLog;
}

/** A worker process that serves. */
export interface WorkerProcess {
  readonly url: string;
  readonly port: number;
  /** Rejects if the engine is given up; never resolves. */
  readonly givenUp: Promise<never>;
  /** What the worker says of itself; rejects while its engine starts again. */
  status(): Promise<GetStatusResponse>;
  /** Refuses new work, lets running answers end, hands out snapshots, closes. Takes a bounded time. */
  drain(): Promise<void>;
  /** Closes at once. */
  close(): Promise<void>;
}

/**
 * Starts to serve.
 *
 * @throws ModelFileError, PlanError, EngineError and others, whoever refuses first; nothing is left running then
 */
export async function startWorkerProcess(options: WorkerProcessOptions): Promise<WorkerProcess> {
  const { load, log, logCall, model, name, texts } = options;
  const nowSeconds = (): number => performance.now() / 1000;
  const metrics = new WorkerMetrics(model);
  const host = await EngineHost.open({
    load,
    start: (loaded) =>
      startWorker({
        ...loaded,
        name,
        model,
        // Where steps are computed elsewhere, the event loop goes round all the time.
        yieldToHost: loaded.engine.stepSync === undefined ? nextRound : yieldToHost,
        nowUs: () => performance.now() * 1000,
      }),
    metrics,
    nowSeconds,
    log,
  });
  const service = new HostedService({ host, texts, metrics, nowSeconds, logCall });
  const health = (): Page => {
    const state = service.draining ? "draining" : host.ready ? "serving" : "restarting";
    return {
      status: state === "serving" ? 200 : 503,
      contentType: "application/json",
      body: `${JSON.stringify({ status: state, worker: name, model })}\n`,
    };
  };
  let server: HttpServer;
  try {
    server = await startHttpServer(options.address, {
      handlers: service.handlers,
      token: options.token,
      pages: new Map<string, () => Page | Promise<Page>>([
        ["/health", health],
        [
          "/metrics",
          async () => ({
            status: 200,
            contentType: metrics.registry.contentType,
            // Without an engine the latest levels stay.
            body: await metrics.text(await readLevels(service).catch(() => undefined)),
          }),
        ],
      ]),
      readerStallMs: options.readerStallMs ?? readerStallMsMax,
      onStalledReader: () => metrics.slowReaders.inc(),
      log,
    });
  } catch (error) {
    host.close();
    throw error;
  }
  const close = async (): Promise<void> => {
    service.drain();
    host.close();
    await server.close();
    await texts.close();
  };
  return {
    url: server.url,
    port: server.port,
    givenUp: host.givenUp,
    status: () => askStatus(service),
    async drain() {
      service.drain();
      log(`draining: ${service.calls} calls run`);
      if (!(await drained(service, options.drainMs))) {
        log(`${service.calls} calls did not end in ${options.drainMs} ms and are broken off`);
      }
      await close();
    },
    close,
  };
}

/**
 * Lets the event loop go round: a call's header, its body and the handler's first answer each take a round, and none of
 * them should wait for a step of its own. A round with nothing to do takes some microseconds.
 */
async function yieldToHost(): Promise<void> {
  for (let round = 0; round < hostRounds; round++) await nextRound();
}

/** One round: whoever waits for the engine to be quiet comes first. */
function nextRound(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/**
 * Waits until no call runs, and a moment longer: whoever sees only now that the worker goes still gets its caches.
 * @returns whether that was so within `ms`
 */
async function drained(service: HostedService, ms: number): Promise<boolean> {
  const deadlineMs = performance.now() + ms;
  for (;;) {
    if (!(await service.idle(deadlineMs - performance.now()))) return false;
    await new Promise((resolve) => setTimeout(resolve, snapshotGraceMs));
    if (service.calls === 0) return true;
  }
}

/** What the worker says of itself, as its callers are told. */
function askStatus({ handlers }: HostedService): Promise<GetStatusResponse> {
  const transport = createRouterTransport((router) => router.service(WorkerService, handlers));
  return createClient(WorkerService, transport).getStatus({});
}

async function readLevels(service: HostedService): Promise<WorkerLevels> {
  const status = await askStatus(service);
  return {
    running: status.running,
    queued: status.queued,
    sequences: status.sequences,
    pages: Number(status.pages),
    pagesFree: Number(status.pagesFree),
    pagesIdle: Number(status.pagesIdle),
    cacheBytes: Number(status.cacheBytes),
    cacheBytesFree: Number(status.cacheBytesFree),
    memoryBytes: Number(status.memoryBytes),
    snapshots: {
      saved: Number(status.snapshotsSaved),
      restored: Number(status.snapshotsRestored),
      stale: Number(status.snapshotsStale),
      broken: Number(status.snapshotsBroken),
    },
  };
}
