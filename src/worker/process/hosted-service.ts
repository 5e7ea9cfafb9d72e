/**
 * leanedge.worker.v1.WorkerService as a process serves it: the worker's own handlers, with what only a process knows
 * around them: whether it drains, whether its engine is there, long prompts on their thread, and figures of every call.
 */
import { Code, ConnectError, type HandlerContext, type ServiceImpl } from "@connectrpc/connect";
import { codeToString } from "@connectrpc/connect/protocol-connect";
import { FinishReason } from "../../gen/leanedge/v1/session_pb.js";
import type {
  GenerateRequest,
  GenerateResponse,
  WorkerService,
} from "../../gen/leanedge/worker/v1/worker_pb.js";
import { EngineError } from "../../engine/status.js";
import { checkMessages } from "../check-request.js";
import { toConnectError } from "../errors.js";
import { requestIdBytesMax } from "../limits.js";
import type { LogFields, LogLevel } from "../../log/log-line.js";
import type { WorkerMetrics } from "../metrics.js";
import type { RunningWorker } from "../worker-service.js";
import type { EngineHost } from "./engine-host.js";
import { PromptTexts } from "./prompt-texts.js";
import { drainingError, restartingError } from "./unavailable.js";

type Service = ServiceImpl<typeof WorkerService>;

/** What a service works with. */
export interface HostedServiceOptions {
  readonly host: EngineHost;
  readonly texts: Pick<PromptTexts, "encode">;
  readonly metrics: WorkerMetrics;
  readonly nowSeconds: () => number;
  /** Told of every call of Generate that has ended. */
  readonly logCall?: CallLog | undefined;
}

/** Takes a line of the log; `level` is `warn` for a call that failed. */
export type CallLog = (level: LogLevel, fields: LogFields) => void;

/** What is known of a call of Generate while it runs. */
interface Call {
  readonly startSeconds: number;
  tokens: number;
  /** How it ended: a finish reason, the code of an error, `prefix_missing`, or `left`. */
  outcome: string;
  /** Fields of its line in the log. */
  readonly fields: Record<string, string | number | boolean>;
}

/** See the head of this file. */
export class HostedService {
  /** Handlers to mount. */
  readonly handlers: Service;
  readonly #options: HostedServiceOptions;
  #calls = 0;
  #draining = false;
  readonly #onIdle = new Set<() => void>();

  constructor(options: HostedServiceOptions) {
    this.#options = options;
    const { host } = options;
    this.handlers = {
      generate: (request, context) =>
        this.#counted(this.#generate(request, context), context.signal),
      snapshot: (request, context) =>
        this.#counted(
          this.#whileServing(() => host.worker.service.snapshot(request, context)),
          context.signal,
        ),
      restore: (messages, context) => {
        this.#refuseWhileDraining();
        return this.#countedCall(
          () => this.#served((worker) => worker.restore(messages, context)),
          context.signal,
        );
      },
      fork: (request, context) => {
        this.#refuseWhileDraining();
        return this.#served((worker) => worker.fork(request, context));
      },
      release: (request, context) => this.#served((worker) => worker.release(request, context)),
      getStatus: async (request, context) => ({
        ...(await this.#served((worker) => worker.getStatus(request, context))),
        draining: this.#draining,
      }),
    };
  }

  /** Whether new work is refused. */
  get draining(): boolean {
    return this.#draining;
  }

  /** Refuses new work from now on. */
  drain(): void {
    this.#draining = true;
  }

  /** Calls that run: answers, snapshots and restores. */
  get calls(): number {
    return this.#calls;
  }

  /** Resolves when no call runs, or after `ms`; says which. */
  idle(ms: number): Promise<boolean> {
    if (this.#calls === 0) return Promise.resolve(true);
    return new Promise((resolve) => {
      const settle = (idle: boolean) => () => {
        clearTimeout(timer);
        this.#onIdle.delete(onIdle);
        resolve(idle);
      };
      const onIdle = settle(true);
      const timer = setTimeout(settle(false), ms);
      this.#onIdle.add(onIdle);
    });
  }

  async *#generate(
    request: GenerateRequest,
    context: HandlerContext,
  ): AsyncGenerator<GenerateResponse> {
    const { host, logCall, metrics, nowSeconds } = this.#options;
    const call: Call = { startSeconds: nowSeconds(), tokens: 0, outcome: "left", fields: {} };
    let failed = false;
    const end = onceEnded(context.signal, (leftWith) => {
      if (leftWith !== undefined && call.outcome === "left") {
        failed = leftWith.code !== Code.Canceled;
        if (failed) call.outcome = codeToString(leftWith.code);
      }
      logCall?.(failed ? "warn" : "info", {
        // Whatever a caller names its request, the line stays short.
        request_id: request.requestId.slice(0, requestIdBytesMax),
        outcome: call.outcome,
        ...call.fields,
        generated_tokens: call.tokens,
        ms: milliseconds(nowSeconds() - call.startSeconds),
      });
    });
    try {
      this.#refuseWhileDraining();
      // Looked at before the text is, so that a worker without an engine refuses at once.
      const { service } = host.worker;
      await this.#tokenize(request, context.signal);
      // A lost engine may have taken its worker with it while a long prompt was tokenized.
      if (host.worker.service !== service) throw restartingError();
      for await (const event of this.#whileServing(() => service.generate(request, context))) {
        const sent = event as GenerateResponse;
        this.#observe(call, sent);
        yield sent;
      }
    } catch (error) {
      const failure = toConnectError(error);
      metrics.failures.inc({ code: codeToString(failure.code) });
      failed = true;
      call.outcome = codeToString(failure.code);
      call.fields["error"] = failure.rawMessage;
      throw failure;
    } finally {
      end();
    }
  }

  /** Puts ids in the place of messages that are too long to be tokenized between two steps. */
  async #tokenize(request: GenerateRequest, signal: AbortSignal): Promise<void> {
    if (request.resume !== undefined || request.promptIds.length > 0) return;
    if (!PromptTexts.isLong(request.messages)) return;
    const messages = checkMessages(request.messages);
    const before = request.log.reduce(
      (sum, { ids }) => sum + ids.length,
      request.prefix?.tokens ?? 0,
    );
    const ids = await this.#options.texts.encode(messages, before > 0, signal);
    request.promptIds = Array.from(ids);
    request.messages = [];
  }

  #observe(call: Call, { event }: GenerateResponse): void {
    const { metrics, nowSeconds } = this.#options;
    if (event.case === "accepted") {
      const { promptTokens, cachedTokens } = event.value;
      call.fields["prompt_tokens"] = promptTokens;
      call.fields["cached_tokens"] = cachedTokens;
      // The engine's steps are counted since the process started: those of a call lie between these two.
      call.fields["first_step"] = metrics.steps + 1;
      metrics.prefixQueries.inc(promptTokens);
      metrics.prefixHits.inc(cachedTokens);
      metrics.promptTokens.inc(promptTokens - cachedTokens);
      metrics.requestPromptTokens.observe(promptTokens);
    } else if (event.case === "tokens") {
      const { length } = event.value.ids;
      if (length === 0) return;
      if (call.tokens === 0) metrics.timeToFirstToken.observe(nowSeconds() - call.startSeconds);
      call.tokens += length;
      metrics.generationTokens.inc(length);
    } else if (event.case === "prefixMissing") {
      call.outcome = "prefix_missing";
    } else if (event.case === "finished") {
      const { finishReason, queueUs, prefillUs, decodeUs } = event.value;
      metrics.endToEnd.observe(nowSeconds() - call.startSeconds);
      metrics.requestGenerationTokens.observe(call.tokens);
      metrics.queueTime.observe(Number(queueUs) / 1e6);
      metrics.prefillTime.observe(Number(prefillUs) / 1e6);
      metrics.decodeTime.observe(Number(decodeUs) / 1e6);
      const reason = FinishReason[finishReason].toLowerCase();
      metrics.successes.inc({ finished_reason: reason });
      call.outcome = reason;
      call.fields["last_step"] = metrics.steps;
      call.fields["queue_ms"] = milliseconds(Number(queueUs) / 1e6);
      call.fields["prefill_ms"] = milliseconds(Number(prefillUs) / 1e6);
      call.fields["decode_ms"] = milliseconds(Number(decodeUs) / 1e6);
    }
  }

  #refuseWhileDraining(): void {
    if (this.#draining) throw drainingError();
  }

  /** A stream of the worker; if its engine is lost meanwhile, the error says so. */
  async *#whileServing<T>(open: () => AsyncIterable<T>): AsyncGenerator<T> {
    const { host } = this.#options;
    const { worker } = host;
    try {
      yield* open();
    } catch (error) {
      throw this.#reasonOf(error, worker);
    }
  }

  /** A call of the worker; as `whileServing`. */
  async #served<T>(call: (worker: RunningWorker["service"]) => Promise<T> | T): Promise<T> {
    const { worker } = this.#options.host;
    try {
      return await call(worker.service);
    } catch (error) {
      throw this.#reasonOf(error, worker);
    }
  }

  /** What the caller of a worker is told: of a worker that is gone, why it is. */
  #reasonOf(cause: unknown, worker: RunningWorker): ConnectError {
    const { host } = this.#options;
    const error = toConnectError(cause);
    const gone = !host.ready || host.worker !== worker;
    // A call that finds its engine closed has no better reason than that.
    if (error.code !== Code.Unavailable && !(gone && error.code === Code.Internal)) return error;
    if (this.#draining) return drainingError(error);
    return gone || isLost(error) ? restartingError(error) : error;
  }

  async *#counted<T>(stream: AsyncIterable<T>, signal: AbortSignal): AsyncGenerator<T> {
    this.#calls++;
    const end = onceEnded(signal, () => this.#ended());
    try {
      yield* stream;
    } finally {
      end();
    }
  }

  async #countedCall<T>(call: () => Promise<T>, signal: AbortSignal): Promise<T> {
    this.#calls++;
    const end = onceEnded(signal, () => this.#ended());
    try {
      return await call();
    } finally {
      end();
    }
  }

  #ended(): void {
    this.#calls--;
    if (this.#calls === 0) for (const tell of [...this.#onIdle]) tell();
  }
}

/**
 * What a call runs at its end. Runs `then` once: there, or when the caller has left or its deadline has passed, since the
 * generator of such a call may never be resumed (a write that waits for its reader is not told that there is none, nor a
 * read for the next message that its sender stands still).
 *
 * @param then gets why the call was broken off, if it was
 */
function onceEnded(signal: AbortSignal, then: (leftWith?: ConnectError) => void): () => void {
  let ended = false;
  const end = (leftWith?: ConnectError): void => {
    if (ended) return;
    ended = true;
    signal.removeEventListener("abort", onLeave);
    then(leftWith);
  };
  const onLeave = (): void => end(ConnectError.from(signal.reason, Code.Canceled));
  if (signal.aborted) onLeave();
  else signal.addEventListener("abort", onLeave);
  return () => end();
}

/** Seconds as milliseconds, to the microsecond. */
function milliseconds(seconds: number): number {
  return Math.round(seconds * 1e6) / 1e3;
}

/** Whether an error comes of an engine that is lost. */
function isLost({ cause }: ConnectError): boolean {
  return cause instanceof EngineError && cause.status === "deviceLost";
}
