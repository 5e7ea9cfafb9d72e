/**
 * One Generate call: finds or rebuilds the sequence's log, queues a job, and turns what the job
 * does into the events of the stream. leanedge.worker.v1 says what each event means.
 */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { createStopMatcher } from "../engine/tokenizer/index.js";
import { FinishReason } from "../gen/leanedge/v1/session_pb.js";
import {
  GenerateResponseSchema,
  type Fingerprints,
  type GenerateRequest,
  type GenerateResponse,
} from "../gen/leanedge/worker/v1/worker_pb.js";
import { Answer } from "./answer.js";
import {
  checkIds,
  checkMessages,
  checkSampling,
  checkSegments,
  checkStop,
} from "./check-request.js";
import type { EngineLoop } from "./engine-loop.js";
import { toConnectError } from "./errors.js";
import { EventMailbox } from "./event-mailbox.js";
import { progressIntervalMs, queueWaitMsMax } from "./limits.js";
import type { Scheduler } from "./scheduler.js";
import type { HeldSequence, SequenceTable } from "./sequence-table.js";
import type { WorkerConfig } from "./worker-config.js";
import { wireBackend, type WorkerCounters } from "./worker-status.js";

/** What a call works with. */
export interface GenerateContext {
  readonly config: WorkerConfig;
  readonly table: SequenceTable;
  readonly scheduler: Scheduler;
  readonly loop: EngineLoop;
  readonly fingerprints: Fingerprints;
  readonly counters: WorkerCounters;
}

/** The log as it stands when the answer begins. */
interface Opened {
  /** Ids of the prompt segment that this call made. */
  readonly promptIds: readonly number[];
  /** Tokens of the whole log before the answer. */
  readonly promptTokens: number;
  /** Ids of the answer that earlier streams have sent. */
  readonly answered: readonly number[];
}

function event(value: MessageInitShape<typeof GenerateResponseSchema>["event"]): GenerateResponse {
  return create(GenerateResponseSchema, { event: value });
}

/**
 * Runs a call. The stream ends with `finished` or `prefixMissing`, or throws a ConnectError.
 * @param signal aborts when the caller has left, or its deadline has passed
 */
export async function* generate(
  context: GenerateContext,
  request: GenerateRequest,
  signal: AbortSignal,
): AsyncGenerator<GenerateResponse> {
  const { config, table } = context;
  checkFingerprints(context.fingerprints, request);
  const held = takeOver(context, request);
  const mailbox = new EventMailbox();
  let jobId: number | undefined;
  const release = (): void => {
    if (jobId !== undefined) context.loop.cancel(jobId);
    if (held.abort === abort) held.abort = undefined;
  };
  const abort = (reason: Error): void => {
    release();
    mailbox.fail(reason);
  };
  // The engine stops here and not in `finally`: a runtime may drop the generator of a client that
  // has left without ever resuming it.
  const onLeave = (): void => {
    abort(new ConnectError("the caller has left", Code.Canceled));
  };
  held.abort = abort;
  signal.addEventListener("abort", onLeave);
  try {
    if (signal.aborted) onLeave();
    if (!adoptPrefix(table, held, request)) {
      const have = table.name(held, context.fingerprints);
      yield event({ case: "prefixMissing", value: { have } });
      return;
    }
    const opened = openLog(context, held, request);
    const cached = Math.min(config.engine.sequenceStats(held.handle).computed, opened.promptTokens);
    const job = new GenerateJob(context, held, request, opened, mailbox);
    const goesOn = job.answer.replay(opened.answered);
    if (goesOn) jobId = context.loop.add(job);
    context.counters.cachedTokens += BigInt(cached);
    context.counters.promptTokens += BigInt(opened.promptTokens - cached);
    yield event({
      case: "accepted",
      value: {
        promptIds: [...opened.promptIds],
        promptTokens: opened.promptTokens,
        cachedTokens: cached,
        backend: wireBackend(config.engine.backend),
        worker: config.name,
        fingerprints: context.fingerprints,
        queued: jobId === undefined ? 0 : context.scheduler.queuedBefore(jobId),
      },
    });
    if (jobId !== undefined) yield* job.events(jobId);
    yield job.finished(cached);
  } catch (error) {
    throw toConnectError(error);
  } finally {
    signal.removeEventListener("abort", onLeave);
    release();
    table.touch(held);
  }
}

function checkFingerprints(served: Fingerprints, request: GenerateRequest): void {
  const named = request.prefix?.fingerprints;
  if (named === undefined) return;
  for (const what of ["model", "template", "plan"] as const) {
    if (named[what] !== "" && named[what] !== served[what]) {
      throw new ConnectError(
        `the prefix was made under ${what} ${named[what]}, this worker serves ${served[what]}`,
        Code.FailedPrecondition,
      );
    }
  }
}

/** The call's sequence, with nobody else at work on it. */
function takeOver({ table, config }: GenerateContext, request: GenerateRequest): HeldSequence {
  let held: HeldSequence;
  try {
    held = table.open(request.sequenceId, config.plan);
  } catch (error) {
    throw toConnectError(error);
  }
  if (request.generation < held.generation) {
    throw new ConnectError(
      `generation ${request.generation} of the binding is older than ${held.generation}`,
      Code.Aborted,
    );
  }
  held.abort?.(
    new ConnectError(`generation ${request.generation} has taken the sequence over`, Code.Aborted),
  );
  held.generation = request.generation;
  return held;
}

/** Cuts the log back to the named prefix; false if the worker does not have it. */
function adoptPrefix(table: SequenceTable, held: HeldSequence, request: GenerateRequest): boolean {
  const prefix = request.prefix;
  if (prefix === undefined || prefix.tokens === 0) {
    table.truncate(held, 0);
    return true;
  }
  if (!table.hasPrefix(held, prefix)) return false;
  table.truncate(held, prefix.tokens);
  return true;
}

/** Appends the log that the worker did not have, and the new prompt. */
function openLog(
  { config, table }: GenerateContext,
  held: HeldSequence,
  request: GenerateRequest,
): Opened {
  const { engine, codec } = config;
  for (const segment of checkSegments(request.log, engine.vocabSize)) {
    table.append(held, segment.kind, segment.ids);
  }
  const tokens = table.tokens(held);
  const resume = request.resume;
  if (resume !== undefined) {
    if (resume.promptTokens + resume.generatedTokens !== tokens || tokens === 0) {
      throw new ConnectError(
        `resume names ${resume.promptTokens} + ${resume.generatedTokens} tokens, the log has ${tokens}`,
        Code.InvalidArgument,
      );
    }
    const answered = [...engine.ids(held.handle, resume.promptTokens, tokens)];
    return { promptIds: [], promptTokens: resume.promptTokens, answered };
  }
  let promptIds = checkIds(request.promptIds, engine.vocabSize, "prompt_ids");
  if (promptIds.length === 0) {
    const messages = checkMessages(request.messages);
    if (messages.length === 0) {
      throw new ConnectError("request has neither messages nor prompt_ids", Code.InvalidArgument);
    }
    promptIds = tokens === 0 ? codec.encodeFirst(messages) : codec.encodeContinuation(messages);
  }
  const promptTokens = tokens + promptIds.length;
  if (promptTokens >= engine.contextTokensMax) {
    throw new ConnectError(
      `the prompt has ${promptTokens} tokens, the model's window is ${engine.contextTokensMax} tokens and the answer needs at least one`,
      Code.InvalidArgument,
    );
  }
  table.append(held, "prompt", promptIds);
  return { promptIds, promptTokens, answered: [] };
}

/** The job of a call: what the engine loop calls, and the events that come of it. */
class GenerateJob {
  readonly answer: Answer;
  readonly held: HeldSequence;
  readonly cacheBytesMax: number;
  readonly #context: GenerateContext;
  readonly #opened: Opened;
  readonly #mailbox: EventMailbox;
  #rowsPending: number;
  readonly #addedUs: number;
  #startedUs: number | undefined;
  #firstTokenUs: number | undefined;

  constructor(
    context: GenerateContext,
    held: HeldSequence,
    request: GenerateRequest,
    opened: Opened,
    mailbox: EventMailbox,
  ) {
    const { engine, codec, plan, nowUs } = context.config;
    const windowLeft = engine.contextTokensMax - opened.promptTokens;
    const tokensMax = Math.min(request.sampling?.maxTokens ?? windowLeft, windowLeft);
    if (tokensMax < 1) {
      throw new ConnectError(
        "sampling.max_tokens is 0, it must be at least 1",
        Code.InvalidArgument,
      );
    }
    engine.setSampling(held.handle, checkSampling(request.sampling));
    this.#context = context;
    this.held = held;
    this.#opened = opened;
    this.#mailbox = mailbox;
    this.#rowsPending = opened.promptTokens;
    this.#addedUs = nowUs();
    this.cacheBytesMax = engine.sequenceCacheBytes(plan, opened.promptTokens + tokensMax);
    this.answer = new Answer({
      decoder: codec.decoder(),
      stop: createStopMatcher(checkStop(request.sampling?.stop ?? [])),
      isEnd: (id) => codec.isEnd(id),
      tokensMax,
      skipBytes: Number(request.resume?.textBytes ?? 0n),
    });
  }

  onStart(): void {
    this.#startedUs = this.#context.config.nowUs();
  }

  onProgress(rowsPending: number): void {
    this.#rowsPending = rowsPending;
  }

  onToken(id: number): boolean {
    this.#firstTokenUs ??= this.#context.config.nowUs();
    this.#rowsPending = 0;
    const before = this.answer.tokens;
    const goesOn = this.answer.push(id);
    if (this.answer.tokens === before) {
      // An end token: it was drawn, but it is not part of the log.
      this.#context.table.truncate(this.held, this.#context.table.tokens(this.held) - 1);
    } else {
      this.#context.counters.generatedTokens++;
    }
    this.#mailbox.wake();
    return goesOn;
  }

  onError(error: Error): void {
    this.#mailbox.fail(toConnectError(error));
  }

  /** Events from acceptance to the end of the answer. */
  async *events(jobId: number): AsyncGenerator<GenerateResponse> {
    const { scheduler } = this.#context;
    let waitedMs = 0;
    while (this.answer.finishReason === FinishReason.UNSPECIFIED) {
      if (await this.#mailbox.wait(progressIntervalMs)) {
        const piece = this.answer.take();
        if (piece !== undefined) yield event({ case: "tokens", value: piece2wire(piece) });
        continue;
      }
      if (scheduler.isQueued(jobId)) {
        waitedMs += progressIntervalMs;
        if (waitedMs >= queueWaitMsMax) {
          throw new ConnectError(
            `no memory for the sequence became free in ${queueWaitMsMax} ms`,
            Code.ResourceExhausted,
          );
        }
      }
      yield event({
        case: "progress",
        value: {
          promptTokensDone: Math.max(0, this.#opened.promptTokens - this.#rowsPending),
          queued: scheduler.queuedBefore(jobId),
        },
      });
    }
    const rest = this.answer.take();
    if (rest !== undefined) yield event({ case: "tokens", value: piece2wire(rest) });
  }

  /** The last event. */
  finished(cachedTokens: number): GenerateResponse {
    const { config, table, fingerprints } = this.#context;
    const nowUs = config.nowUs();
    const startedUs = this.#startedUs ?? nowUs;
    const firstTokenUs = this.#firstTokenUs ?? nowUs;
    return event({
      case: "finished",
      value: {
        finishReason: this.answer.finishReason,
        usage: {
          promptTokens: this.#opened.promptTokens,
          cachedTokens,
          completionTokens: this.answer.tokens,
        },
        generatedTokens: this.answer.tokens,
        textBytes: BigInt(this.answer.textBytes),
        prefix: table.name(this.held, fingerprints),
        cacheBytes: BigInt(config.engine.sequenceStats(this.held.handle).cacheBytes),
        queueUs: BigInt(Math.round(startedUs - this.#addedUs)),
        prefillUs: BigInt(Math.round(firstTokenUs - startedUs)),
        decodeUs: BigInt(Math.round(nowUs - firstTokenUs)),
      },
    });
  }
}

function piece2wire(piece: { ids: number[]; text: string; offset: number }) {
  return { ids: piece.ids, text: piece.text, offset: BigInt(piece.offset) };
}
