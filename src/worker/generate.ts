/**
 * One Generate call: finds or rebuilds the sequence's log, queues a job, and turns what the job
 * does into the events of the stream. leanedge.worker.v1 says what each event means.
 */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { createStopMatcher } from "../engine/tokenizer/index.js";
import { FinishReason } from "../gen/leanedge/v1/session_pb.js";
import {
  FingerprintsSchema,
  GenerateResponseSchema,
  type Fingerprints,
  type GenerateRequest,
  type GenerateResponse,
  type PrefixName,
} from "../gen/leanedge/worker/v1/worker_pb.js";
import { Answer } from "./answer.js";
import {
  checkIds,
  checkMessages,
  checkSampling,
  checkSegments,
  checkStop,
  checkTextInterval,
} from "./check-request.js";
import type { EngineGate } from "./engine-gate.js";
import type { EngineLoop } from "./engine-loop.js";
import { contextLengthExceeded, errorReasonHeader, toConnectError } from "./errors.js";
import { EventMailbox } from "./event-mailbox.js";
import { progressIntervalMs, queueWaitMsMax } from "./limits.js";
import type { Scheduler } from "./scheduler.js";
import {
  nameLog,
  type HeldSequence,
  type KeepCache,
  type LogCopy,
  type SequenceTable,
} from "./sequence-table.js";
import type { ServedPlan, ServedPlans } from "./served-plans.js";
import type { WorkerConfig } from "./worker-config.js";
import { wireBackend, type WorkerCounters } from "./worker-status.js";

/** What a call works with. */
export interface GenerateContext {
  readonly config: WorkerConfig;
  readonly table: SequenceTable;
  readonly scheduler: Scheduler;
  readonly loop: EngineLoop;
  readonly gate: EngineGate;
  /** As WorkerConfig.keepCache, but never takes longer than keepCacheMsMax. */
  readonly keepCache: KeepCache | undefined;
  readonly plans: ServedPlans;
  /** Of model and template; a sequence's plan goes with it. */
  readonly fingerprints: Pick<Fingerprints, "model" | "template">;
  /** Calls of Restore that run. */
  readonly restores: Set<{ end(reason: Error): void }>;
  readonly counters: WorkerCounters;
}

/** Fingerprints of what is made under a plan. */
export function fingerprintsOf(
  { fingerprints }: Pick<GenerateContext, "fingerprints">,
  plan: ServedPlan,
): Fingerprints {
  return create(FingerprintsSchema, { ...fingerprints, plan: plan.fingerprint });
}

/** Whether a sequence starts with the prefix that is named, under the fingerprints that it names. */
export function holdsPrefix(
  context: Pick<GenerateContext, "fingerprints" | "plans" | "table">,
  held: HeldSequence,
  prefix: PrefixName,
): boolean {
  const here = fingerprintsOf(context, context.plans.at(held.plan));
  const named = prefix.fingerprints;
  return (
    (["model", "template", "plan"] as const).every(
      (what) => named === undefined || named[what] === "" || named[what] === here[what],
    ) && context.table.hasPrefix(held, prefix)
  );
}

/** What a call adds to the log, known before the sequence is looked at. */
interface NewPrompt {
  /** Ids of the prompt segment that this call makes; empty with resume. */
  readonly ids: readonly number[];
  /** Tokens of the whole log before the answer. */
  readonly tokens: number;
  /** Longest answer in tokens. */
  readonly answerTokensMax: number;
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
  const { config, table, gate } = context;
  const named = checkFingerprints(context, request);
  const intervalMs = checkTextInterval(request.textIntervalMs);
  let prompt: NewPrompt;
  try {
    prompt = newPrompt(context, request);
  } catch (error) {
    throw toConnectError(error);
  }
  if (request.snapshotStale) context.counters.snapshotsStale++;
  if (context.keepCache !== undefined && table.get(request.sequenceId) === undefined) {
    await gate.quiet();
    await table.keepForRoom(context.keepCache);
  }
  await gate.quiet();
  const plan = named ?? choosePlan(context, request, prompt);
  const fingerprints = fingerprintsOf(context, plan);
  const held = takeOver(context, request, plan);
  const mailbox = new EventMailbox(intervalMs, () => config.nowUs() / 1000);
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
      const have = table.name(held, fingerprints);
      release();
      yield event({ case: "prefixMissing", value: { have } });
      return;
    }
    const opened = openLog(context, held, request, prompt);
    const tokensMax = prompt.answerTokensMax;
    const answered = { ...opened, tokensMax };
    const job = new GenerateJob(context, held, request, answered, mailbox, release);
    if (job.answer.replay(opened.answered)) jobId = context.loop.add(job);
    else job.end();
    yield event({
      case: "accepted",
      value: {
        promptIds: [...opened.promptIds],
        promptTokens: opened.promptTokens,
        cachedTokens: job.cachedTokens,
        backend: wireBackend(config.engine.backend),
        worker: config.name,
        fingerprints,
        queued: jobId === undefined ? 0 : context.scheduler.queuedBefore(jobId),
        plan: context.plans.info(plan),
        vocabSize: config.engine.vocabSize,
      },
    });
    if (jobId !== undefined) yield* job.events(jobId);
    yield job.finished(fingerprints);
  } catch (error) {
    throw toConnectError(error);
  } finally {
    signal.removeEventListener("abort", onLeave);
    release();
    table.touch(held);
  }
}

/** The plan that the request names; undefined if it names none. */
function checkFingerprints(
  { fingerprints, plans }: GenerateContext,
  request: GenerateRequest,
): ServedPlan | undefined {
  const named = request.prefix?.fingerprints;
  if (named === undefined) return undefined;
  for (const what of ["model", "template"] as const) {
    if (named[what] !== "" && named[what] !== fingerprints[what]) {
      throw new ConnectError(
        `the prefix was made under ${what} ${named[what]}, this worker serves ${fingerprints[what]}`,
        Code.FailedPrecondition,
      );
    }
  }
  return named.plan === "" ? undefined : plans.named(named.plan);
}

/** Ids of the new prompt, and how far the sequence can grow with it. */
function newPrompt({ config }: GenerateContext, request: GenerateRequest): NewPrompt {
  const { engine, codec } = config;
  const before = request.log.reduce(
    (sum, segment) => sum + segment.ids.length,
    request.prefix?.tokens ?? 0,
  );
  let ids: readonly number[] = [];
  if (request.resume === undefined) {
    ids = checkIds(request.promptIds, engine.vocabSize, "prompt_ids");
    if (ids.length === 0) {
      const messages = checkMessages(request.messages);
      if (messages.length === 0) {
        throw new ConnectError("request has neither messages nor prompt_ids", Code.InvalidArgument);
      }
      ids = before === 0 ? codec.encodeFirst(messages) : codec.encodeContinuation(messages);
    }
    if (before + ids.length >= engine.contextTokensMax) {
      throw new ConnectError(
        `the prompt has ${before + ids.length} tokens, the model's window is ${engine.contextTokensMax} tokens and the answer needs at least one`,
        Code.InvalidArgument,
        { [errorReasonHeader]: contextLengthExceeded },
      );
    }
  }
  const tokens = request.resume?.promptTokens ?? before + ids.length;
  const windowLeft = engine.contextTokensMax - tokens;
  const answerTokensMax = Math.min(request.sampling?.maxTokens ?? windowLeft, windowLeft);
  return { ids, tokens, answerTokensMax };
}

/** The plan of a request that names none: the sequence's own, or, for a new log, one by its length. */
function choosePlan(
  { plans, table }: GenerateContext,
  request: GenerateRequest,
  prompt: NewPrompt,
): ServedPlan {
  const held = table.get(request.sequenceId);
  if (held !== undefined && (request.prefix?.tokens ?? 0) > 0) return plans.at(held.plan);
  return plans.forContext(prompt.tokens + Math.max(0, prompt.answerTokensMax));
}

/** The call's sequence, with nobody else at work on it. */
function takeOver(
  { table }: GenerateContext,
  request: GenerateRequest,
  plan: ServedPlan,
): HeldSequence {
  const earlier = table.get(request.sequenceId);
  if (earlier !== undefined) {
    endCalls(earlier, request.generation);
    if (earlier.plan !== plan.index) table.release(earlier);
  }
  try {
    const held = table.open(request.sequenceId, plan.index);
    held.generation = request.generation;
    return held;
  } catch (error) {
    throw toConnectError(error);
  }
}

/**
 * Ends what other calls do with a sequence.
 * @throws ConnectError Aborted if the caller's generation is older than theirs
 */
export function endCalls(held: HeldSequence, generation: bigint): void {
  if (generation < held.generation) {
    throw new ConnectError(
      `generation ${generation} of the binding is older than ${held.generation}`,
      Code.Aborted,
    );
  }
  const reason = `generation ${generation} has taken the sequence over`;
  held.abort?.(new ConnectError(reason, Code.Aborted));
  held.stopReader?.(new ConnectError(reason, Code.Aborted));
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
  prompt: NewPrompt,
): Opened {
  const { engine } = config;
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
  table.append(held, "prompt", prompt.ids);
  return { promptIds: prompt.ids, promptTokens: prompt.tokens, answered: [] };
}

/** Bytes that a sequence holds at most at once until all of its log is computed. */
function readingBytesMax({ config, plans }: GenerateContext, held: HeldSequence): number {
  const { tokens, computed } = config.engine.sequenceStats(held.handle);
  let before = 0;
  let most = 0;
  for (const segment of held.segments) {
    const end = before + segment.tokens;
    // The last segment may be read again although it is there: logits are not kept.
    if (segment.kind === "prompt" && (end > computed || end === tokens)) {
      most = Math.max(most, plans.readingBytesMax(held.plan, before, segment.tokens));
    }
    before = end;
  }
  return most;
}

/** The job of a call: what the engine loop calls, and the events that come of it. */
class GenerateJob {
  readonly answer: Answer;
  readonly held: HeldSequence;
  readonly cacheBytesMax: number;
  readonly #context: GenerateContext;
  readonly #opened: Opened;
  readonly #mailbox: EventMailbox;
  readonly #release: () => void;
  /** Tokens of the prompt that were in the cache when the job was added, and then when it began. */
  #cachedTokens: number;
  /** Prompt rows in the cache before the job's first step; unknown until then. */
  #rowsFound: number | undefined;
  /** Rows that the job's work is worth. */
  #rowsRead = 0;
  /** Prompt tokens that clients are told to be done; never falls. */
  #rowsDone = 0;
  readonly #addedUs: number;
  #startedUs: number | undefined;
  #firstTokenUs: number | undefined;
  #ended: { cacheBytes: number; pages: number; log: LogCopy; us: number } | undefined;

  constructor(
    context: GenerateContext,
    held: HeldSequence,
    request: GenerateRequest,
    opened: Opened & { readonly tokensMax: number },
    mailbox: EventMailbox,
    release: () => void,
  ) {
    const { engine, codec, nowUs } = context.config;
    const { tokensMax } = opened;
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
    this.#release = release;
    this.#cachedTokens = this.#promptTokensCached();
    this.#addedUs = nowUs();
    this.cacheBytesMax = engine.sequenceCacheBytes(held.plan, opened.promptTokens + tokensMax);
    this.answer = new Answer({
      decoder: codec.decoder(),
      stop: createStopMatcher(checkStop(request.sampling?.stop ?? [])),
      isEnd: (id) => codec.isEnd(id),
      tokensMax,
      skipBytes: Number(request.resume?.textBytes ?? 0n),
    });
  }

  /** Tokens of the prompt that are in the cache. */
  get cachedTokens(): number {
    return this.#cachedTokens;
  }

  get readingBytesMax(): number {
    return readingBytesMax(this.#context, this.held);
  }

  onStart(): void {
    const { config, counters } = this.#context;
    this.#startedUs = config.nowUs();
    // While it waited its cache may have gone to others.
    this.#cachedTokens = this.#promptTokensCached();
    counters.cachedTokens += BigInt(this.#cachedTokens);
    counters.promptTokens += BigInt(this.#opened.promptTokens - this.#cachedTokens);
  }

  onProgress(rowsPending: number, workDone: number): void {
    const { promptTokens } = this.#opened;
    // A prompt that is read layer by layer has no row done before its last layer: its work tells how far it is.
    const rows = workDone / this.#context.config.geometry.layers;
    this.#rowsRead += rows;
    this.#rowsFound ??= Math.max(0, promptTokens - rowsPending - rows);
    const read = Math.min(promptTokens, Math.floor(this.#rowsFound + this.#rowsRead));
    this.#rowsDone = Math.max(this.#rowsDone, promptTokens - rowsPending, read);
  }

  onToken(id: number): boolean {
    this.#firstTokenUs ??= this.#context.config.nowUs();
    this.#rowsDone = this.#opened.promptTokens;
    const before = this.answer.tokens;
    const goesOn = this.answer.push(id);
    if (this.answer.tokens === before) {
      // An end token: it was drawn, but it is not part of the log.
      this.#context.table.truncate(this.held, this.#context.table.tokens(this.held) - 1);
    } else {
      this.#context.counters.generatedTokens++;
    }
    if (!goesOn) this.end();
    return goesOn;
  }

  onSend(): void {
    if (this.answer.finishReason === FinishReason.UNSPECIFIED) this.#mailbox.wake();
    else this.#mailbox.end();
  }

  /**
   * Takes note of the sequence as the answer leaves it, while the engine may be asked. Its cache is others' from here on:
   * whoever reads the answer late holds none.
   */
  end(): void {
    const { config, table } = this.#context;
    const { cacheBytes, pages } = config.engine.sequenceStats(this.held.handle);
    this.#ended = { cacheBytes, pages, log: table.log(this.held), us: config.nowUs() };
    this.#release();
  }

  onError(error: Error): void {
    this.#release();
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
          promptTokensDone: this.#rowsDone,
          queued: scheduler.queuedBefore(jobId),
        },
      });
    }
    const rest = this.answer.take();
    if (rest !== undefined) yield event({ case: "tokens", value: piece2wire(rest) });
  }

  #promptTokensCached(): number {
    const { computed } = this.#context.config.engine.sequenceStats(this.held.handle);
    return Math.min(computed, this.#opened.promptTokens);
  }

  /** The last event, after `end`. */
  finished(fingerprints: Fingerprints): GenerateResponse {
    if (this.#ended === undefined) throw new Error("the answer has not ended");
    const { cacheBytes, pages, log, us } = this.#ended;
    const startedUs = this.#startedUs ?? us;
    const firstTokenUs = this.#firstTokenUs ?? us;
    return event({
      case: "finished",
      value: {
        finishReason: this.answer.finishReason,
        usage: {
          promptTokens: this.#opened.promptTokens,
          cachedTokens: this.#cachedTokens,
          completionTokens: this.answer.tokens,
        },
        generatedTokens: this.answer.tokens,
        textBytes: BigInt(this.answer.textBytes),
        prefix: nameLog(log, fingerprints),
        cacheBytes: BigInt(cacheBytes),
        cachePages: pages,
        queueUs: BigInt(Math.round(startedUs - this.#addedUs)),
        prefillUs: BigInt(Math.round(firstTokenUs - startedUs)),
        decodeUs: BigInt(Math.round(us - firstTokenUs)),
      },
    });
  }
}

function piece2wire(piece: { ids: number[]; text: string; offset: number }) {
  return { ids: piece.ids, text: piece.text, offset: BigInt(piece.offset) };
}
