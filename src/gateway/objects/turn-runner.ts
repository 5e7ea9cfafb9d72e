/**
 * Runs one turn: asks a worker, reads its stream, and appends what it says to the store, which shows it at once and writes it in its
 * own time (store-behind.ts); the turn's end is durable before anybody is told of it. It owns the attempt that is under way and
 * nothing else; the truth is in the store, from which a runner of a restarted object goes on.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import { errorFields } from "../../log/log-line.js";
import type { LogFields, LogLevel } from "../../log/log-line.js";
import { log } from "../log.js";
import type { SamplingParams } from "../../gen/leanedge/v1/sampling_pb.js";
import { FinishReason, PlacementReason } from "../../gen/leanedge/v1/session_pb.js";
import { UnavailableReason } from "../../gen/leanedge/worker/v1/worker_pb.js";
import type { Accepted, Finished, Tokens } from "../../gen/leanedge/worker/v1/worker_pb.js";
import type { ModelFallback } from "../config.js";
import { errorReason, publicError, unavailable } from "../errors.js";
import {
  answerBytesMax,
  attemptBackoffMs,
  attemptBackoffMsMax,
  bindingTtlMs,
  segmentIdsMax,
  turnAttemptsMax,
  workerUnaryTimeoutMs,
} from "../limits.js";
import type { WorkerDirectory } from "../worker-client/directory.js";
import { logTokens, samePrefix } from "../worker-client/segments.js";
import { unavailableReason } from "../worker-client/unavailable.js";
import type { Clock } from "./clock.js";
import { resolveSampling } from "./request-rules.js";
import type { SamplingDefaults } from "./request-rules.js";
import type { TurnRecord } from "./session-records.js";
import { checkContext } from "./session-limits.js";
import type { SessionSnapshots } from "./session-snapshots.js";
import type { SessionStore } from "./session-store.js";
import { unlessAborted } from "./unless-aborted.js";
import { WorkerAttempt } from "./worker-attempt.js";
import { WorkerChooser } from "./worker-chooser.js";
import type { WorkerChoice } from "./worker-chooser.js";
import { SpoiledAnswer, WorkerFault } from "./worker-fault.js";
import { WorkerSilence } from "./worker-silence.js";

const encoder = new TextEncoder();
/** Keeps a byte order mark that a model writes: offsets count it. */
const utf8 = new TextDecoder("utf-8", { fatal: false, ignoreBOM: true });

/** What a runner works with. */
export interface TurnRunnerOptions {
  readonly store: SessionStore;
  /** Number of the turn, which is stored as running. */
  readonly turn: number;
  /** The turn was begun by this object just now; otherwise it goes on after a restart. */
  readonly fresh: boolean;
  readonly directory: WorkerDirectory;
  /** Name of the sequence on workers. */
  readonly sequenceId: string;
  /** What the model says about sampling. */
  readonly samplingDefaults: (model: string) => Promise<SamplingDefaults>;
  /** Longest context that the key of the turn allows, in tokens; undefined: no limit. */
  readonly contextTokensMax?: number | undefined;
  /** Model that may answer in the place of another one. */
  readonly fallback: (model: string) => ModelFallback | undefined;
  /** Saved caches of the session. */
  readonly snapshots: SessionSnapshots;
  /** Time from the turn's end to when the session's cache is saved. */
  readonly snapshotIdleMs: number;
  readonly clock: Clock;
  /** Keeps work alive that nobody waits for. */
  readonly background: (work: Promise<unknown>) => void;
  /** Something changed that subscribers want to know. */
  readonly onChange: () => void;
  /** Stores all that waits now; resolves once it is durable. */
  readonly storeNow: () => Promise<void>;
}

/** Progress that is not worth storing. */
export interface TurnProgress {
  /** Prompt tokens computed so far. */
  readonly promptTokensDone: number;
  /** Prompt tokens in all; 0 while unknown. */
  readonly promptTokens: number;
}

/** See the head of this file. */
export class TurnRunner {
  readonly #options: TurnRunnerOptions;
  readonly #store: SessionStore;
  readonly #stop = new AbortController();
  readonly #chooser: WorkerChooser;
  /** Names the request in logs. */
  readonly #requestId: string;
  #attemptsMade = 0;
  /** Bytes of the answer that were received. */
  #receivedBytes: number;
  /** Tokens of the answer that were received. */
  #receivedTokens: number;
  /** Longest answer in tokens, once the model's defaults are known. */
  #tokensMax = 0;
  /** Every id is below it, as far as a worker said so. */
  #vocabSize = Infinity;
  /** Model that answers instead of the turn's own, once none of its workers could. */
  #fallback: string | undefined;
  /** A worker failed this run: the next one tells the whole text anew, which shows whether what was shown goes with its ids. */
  #verifies = false;
  #progress: TurnProgress = { promptTokensDone: 0, promptTokens: 0 };
  #refusal: ConnectError | undefined;
  /** Settles when the turn has ended or was withdrawn; never rejects. */
  readonly done: Promise<void>;

  /** Starts at once. */
  constructor(options: TurnRunnerOptions) {
    this.#options = options;
    this.#store = options.store;
    this.#chooser = new WorkerChooser(options);
    this.#requestId = this.#turn().requestId;
    this.#receivedBytes = this.#turn().textBytes;
    this.#receivedTokens = this.#turn().completionTokens;
    this.done = this.#run();
  }

  #log(level: LogLevel, event: string, fields: LogFields): void {
    log(level, event, { request_id: this.#requestId, turn: this.turn, ...fields });
  }

  /** Number of the turn. */
  get turn(): number {
    return this.#options.turn;
  }

  /** Attempts of this runner, those before an answer made progress included. */
  get attemptsMade(): number {
    return this.#attemptsMade;
  }

  /** How far the prompt is. */
  get progress(): TurnProgress {
    return this.#progress;
  }

  /** Why the turn was withdrawn; undefined unless it was. */
  get refusal(): ConnectError | undefined {
    return this.#refusal;
  }

  /** Stops the work on the worker at once; the turn ends as cancelled with its text so far. */
  cancel(): void {
    this.#stop.abort();
  }

  /** The turn as it is stored, but for the model where another one is about to answer. */
  #turn(): TurnRecord {
    const turn = this.#store.turn(this.#options.turn);
    if (turn === undefined) {
      throw new Error(`turn ${this.#options.turn} is not stored`);
    }
    return this.#fallback === undefined ? turn : { ...turn, model: this.#fallback };
  }

  /** Turns to the model's fallback, if there is one, it is allowed, and nobody has begun to answer. */
  #fallBack(): boolean {
    const turn = this.#turn();
    const fallback = this.#options.fallback(turn.model);
    const allowed = turn.allowFallback ?? fallback?.unasked ?? false;
    if (turn.accepted || this.#fallback !== undefined || fallback === undefined || !allowed) {
      return false;
    }
    this.#log("warn", "turn.falls_back", { model: turn.model, fallback: fallback.model });
    this.#fallback = fallback.model;
    return true;
  }

  async #run(): Promise<void> {
    try {
      try {
        await this.#attempts();
      } catch (error) {
        if (this.#stop.signal.aborted) {
          await this.#end(FinishReason.CANCELLED, "");
        } else {
          await this.#giveUp(error);
        }
      }
    } catch (error) {
      // Storage itself fails: the turn stays as it is stored, and the object's alarm takes it up again.
      this.#log("error", "turn.not_stored", errorFields(error, "stack"));
    }
  }

  async #attempts(): Promise<void> {
    let rebuild = false;
    let choice: WorkerChoice | undefined;
    let restarting = false;
    for (;;) {
      this.#stop.signal.throwIfAborted();
      const attempts = this.#countAttempt();
      if (attempts > turnAttemptsMax && this.#fallBack()) {
        rebuild = true;
      }
      if (attempts > turnAttemptsMax * (this.#fallback === undefined ? 1 : 2)) {
        throw unavailable(`no worker completed turn ${this.turn} in ${turnAttemptsMax} attempts`);
      }
      if (attempts > 1 && choice === undefined) {
        await this.#pause(attempts, restarting);
      }
      choice = undefined;
      try {
        const sampling = await unlessAborted(this.#resolveSampling(), this.#stop.signal);
        this.#tokensMax = sampling.maxTokens ?? 0;
        // A pool may let it wait for room.
        choice = await unlessAborted(this.#chooser.choose(this.#turn()), this.#stop.signal);
        if (attempts > 1 && choice.again) {
          await this.#pause(attempts, restarting);
        }
        await this.#attempt(choice, sampling, rebuild);
        return;
      } catch (error) {
        this.#stop.signal.throwIfAborted();
        const verdict = judge(error, {
          accepted: this.#turn().accepted,
          rebuilt: rebuild,
          asked: choice !== undefined,
          hasLog: this.#store.segments().length > 0,
        });
        if (choice === undefined && noWorker(error) && this.#fallBack()) {
          // Its text is rendered anew for the other model.
          rebuild = true;
          continue;
        }
        if (verdict === "refuse") {
          throw error;
        }
        this.#verifies ||= choice !== undefined;
        rebuild ||= verdict === "rebuild";
        restarting = unavailableReason(error) === UnavailableReason.ENGINE_RESTARTING;
        if (choice !== undefined) {
          this.#chooser.failed(choice, error, verdict !== "rebuild");
          this.#store.noteTried(choice, choice.generation);
        }
        this.#log("warn", "attempt.failed", {
          attempt: attempts,
          worker: choice?.worker,
          ...errorFields(error),
        });
      }
    }
  }

  /** Attempts in a row without progress, with the one that begins; a new turn is stored with its first one. */
  #countAttempt(): number {
    const stored = this.#options.fresh && this.#attemptsMade === 0;
    this.#attemptsMade++;
    return stored ? this.#turn().attempts : this.#store.countAttempt(this.turn);
  }

  /**
   * Waits before a worker, or the search for one, is tried again; another worker is tried at once. An engine that starts
   * again gets the time that loading a model takes.
   */
  async #pause(attempts: number, restarting: boolean): Promise<void> {
    const backoff = Math.min(attemptBackoffMs * 2 ** (attempts - 2), attemptBackoffMsMax);
    const pause = restarting ? attemptBackoffMsMax : backoff;
    await this.#options.clock.sleep(pause, this.#stop.signal);
    this.#stop.signal.throwIfAborted();
  }

  async #resolveSampling(): Promise<SamplingParams> {
    const turn = this.#turn();
    if (turn.accepted) {
      return turn.sampling;
    }
    return resolveSampling(turn.sampling, await this.#options.samplingDefaults(turn.model));
  }

  async #attempt(choice: WorkerChoice, sampling: SamplingParams, rebuild: boolean): Promise<void> {
    const { background, clock, directory, sequenceId, snapshots } = this.#options;
    const { client, generation, worker } = choice;
    if (client === undefined) {
      throw new WorkerFault(`worker ${worker} is not known any more`);
    }
    const silence = new WorkerSilence({ worker, directory, clock, background });
    const attempt = new WorkerAttempt({
      store: this.#store,
      client,
      turn: this.#turn(),
      sampling,
      sequenceId,
      generation,
      rebuild,
      retells: this.#verifies,
      snapshots,
      leaving: choice.leaving?.client,
      silence,
      signal: this.#stop.signal,
    });
    try {
      const accepted = await attempt.open();
      this.#accept(accepted, choice, sampling, attempt.rebuilt);
      if (!attempt.ready) {
        this.#options.onChange();
      }
      this.#releaseLeft(choice);
      const finished = await this.#read(attempt, silence);
      if (finished === undefined || this.#namesOurLog(finished, worker)) {
        this.#chooser.succeeded(choice, this.#turn().placement);
      } else {
        attempt.release(generation);
        this.#chooser.failed(choice, new WorkerFault("another log"), true);
      }
    } finally {
      silence.end();
      attempt.close();
    }
  }

  /** The session moved on purpose: the worker that it left need not keep its cache. */
  #releaseLeft({ leaving }: WorkerChoice): void {
    if (leaving !== undefined) {
      const request = {
        sequenceId: this.#options.sequenceId,
        generation: BigInt(leaving.generation),
      };
      this.#options.background(
        leaving.client.release(request, { timeoutMs: workerUnaryTimeoutMs }).catch(() => undefined),
      );
    }
  }

  #accept(
    accepted: Accepted,
    choice: WorkerChoice,
    sampling: SamplingParams,
    rebuilt: boolean,
  ): void {
    const store = this.#store;
    const turn = this.#turn();
    const standsIn = turn.model !== store.session()?.model;
    const known = rebuilt ? 0 : logTokens(store.segments());
    if (accepted.promptIds.length > segmentIdsMax) {
      throw new WorkerFault(
        `the worker made ${accepted.promptIds.length} ids of the prompt, at most ${segmentIdsMax} are kept`,
      );
    }
    this.#vocabSize = accepted.vocabSize > 0 ? accepted.vocabSize : Infinity;
    this.#checkIds(accepted.promptIds);
    const expected = turn.accepted ? known : known + accepted.promptIds.length;
    if (accepted.promptTokens !== expected) {
      throw new WorkerFault(
        `the worker counts ${accepted.promptTokens} prompt tokens, the log has ${expected}`,
      );
    }
    if (!turn.accepted) {
      checkContext(accepted.promptTokens, this.#options.contextTokensMax);
    }
    store.later(() => {
      if (!turn.accepted) {
        store.acceptPrompt({
          turn: turn.number,
          sampling,
          promptIds: accepted.promptIds,
          fingerprints: accepted.fingerprints,
          rebuilt,
        });
      }
      store.setServedBy(turn.number, {
        promptTokens: accepted.promptTokens,
        // An answer that goes on elsewhere has read its prompt again.
        cachedTokens: Math.min(
          accepted.cachedTokens,
          turn.accepted ? turn.cachedTokens : accepted.promptTokens,
        ),
        model: turn.model,
        backend: accepted.backend,
        worker: accepted.worker,
        placement: standsIn ? PlacementReason.FALLBACK : choice.reason,
      });
      const { plan } = accepted;
      if (plan !== undefined) {
        store.cache.setPlan({
          name: plan.name,
          pagesMax: plan.pagesMax,
          bytesMax: Number(plan.sessionBytesMax),
        });
      }
      // A session keeps its place while another model stands in.
      if (!standsIn) {
        store.bind(choice, choice.generation, this.#options.clock.nowMs() + bindingTtlMs);
      }
    });
    this.#progress = {
      promptTokensDone: accepted.cachedTokens,
      promptTokens: accepted.promptTokens,
    };
  }

  /** Reads the answer to its end; undefined if it was ended here. */
  async #read(attempt: WorkerAttempt, silence: WorkerSilence): Promise<Finished | undefined> {
    silence.heard();
    for (;;) {
      const { event } = await silence.wait(attempt.next());
      this.#stop.signal.throwIfAborted();
      attempt.consume();
      switch (event.case) {
        case "tokens":
          this.#take(event.value);
          if (this.#receivedBytes > answerBytesMax || this.#contextIsFull()) {
            await this.#end(FinishReason.LENGTH, "");
            return undefined;
          }
          break;
        case "progress":
          this.#progress = {
            promptTokensDone: event.value.promptTokensDone,
            promptTokens: this.#progress.promptTokens,
          };
          break;
        case "finished":
          await this.#finish(event.value);
          return event.value;
        default:
          throw new WorkerFault(`the worker sent "${event.case ?? "nothing"}" in mid-answer`);
      }
      // What came together is shown together: the last token with the end of its answer.
      if (!attempt.ready) {
        this.#options.onChange();
      }
    }
  }

  /** The prompt and the answer so far reach the context that the turn's key allows. */
  #contextIsFull(): boolean {
    const { contextTokensMax = Infinity } = this.#options;
    return this.#progress.promptTokens + this.#receivedTokens >= contextTokensMax;
  }

  #take(tokens: Tokens): void {
    const offset = Number(tokens.offset);
    let text = tokens.text;
    if (text !== "" && offset !== this.#receivedBytes) {
      if (offset > this.#receivedBytes) {
        throw new WorkerFault(
          `the worker's text goes on at byte ${offset}, the answer ends at ${this.#receivedBytes}`,
        );
      }
      text = this.#newText(text, offset);
    }
    if (this.#receivedTokens + tokens.ids.length > this.#tokensMax) {
      throw new WorkerFault(`the worker goes on after max_tokens, which is ${this.#tokensMax}`);
    }
    this.#checkIds(tokens.ids);
    if (tokens.ids.length > 0 || text !== "") {
      const piece = this.#store.appendPiece(this.turn, tokens.ids, text);
      this.#receivedTokens = piece.tokensEnd;
      this.#receivedBytes = piece.byteOffset + piece.byteLength;
    }
  }

  /** An id that is none would make the log one that no worker takes. */
  #checkIds(ids: readonly number[]): void {
    const wrong = ids.find((id) => id >= this.#vocabSize);
    if (wrong !== undefined) {
      throw new WorkerFault(`the worker sent id ${wrong}, its vocabulary has ${this.#vocabSize}`);
    }
  }

  /** What a text that begins at `offset` has beyond the answer so far: a resumed stream may repeat what is known. */
  #newText(text: string, offset: number): string {
    const bytes = encoder.encode(text);
    const texts = this.#store.pieces().map((piece) => piece.text);
    const known = encoder.encode(texts.join("")).subarray(offset, offset + bytes.length);
    if (known.some((byte, index) => byte !== bytes[index])) {
      throw this.#otherText(`the worker repeats other text at byte ${offset} than was shown`);
    }
    return utf8.decode(bytes.subarray(known.length));
  }

  /** A worker's text differs from what was shown. It may be its own fault, until a second one says so. */
  #otherText(message: string): WorkerFault {
    return this.#verifies ? new SpoiledAnswer(message) : new WorkerFault(message);
  }

  async #finish(finished: Finished): Promise<void> {
    if (
      finished.finishReason !== FinishReason.STOP &&
      finished.finishReason !== FinishReason.LENGTH
    ) {
      throw new WorkerFault(`the worker ended with ${FinishReason[finished.finishReason]}`);
    }
    if (Number(finished.textBytes) > this.#receivedBytes) {
      throw new WorkerFault(
        `the worker counts ${finished.textBytes} bytes of text, ${this.#receivedBytes} arrived`,
      );
    }
    if (Number(finished.textBytes) < this.#receivedBytes) {
      throw this.#otherText(
        `the worker counts ${finished.textBytes} bytes of text, ${this.#receivedBytes} were shown`,
      );
    }
    if (finished.generatedTokens > this.#receivedTokens) {
      throw new WorkerFault(
        `the worker counts ${finished.generatedTokens} tokens, ${this.#receivedTokens} arrived`,
      );
    }
    await this.#end(finished.finishReason, "", finished);
  }

  /** A worker whose log differs from ours would answer the next turn from another conversation: it is unbound. */
  #namesOurLog({ prefix }: Finished, worker: string): boolean {
    const ours = this.#store.logName();
    if (prefix === undefined || samePrefix(prefix, ours)) {
      return true;
    }
    this.#log("warn", "worker.other_log", {
      worker,
      its_tokens: prefix.tokens,
      our_tokens: ours.tokens,
    });
    this.#store.unbind();
    return false;
  }

  async #end(finishReason: FinishReason, errorMessage: string, finished?: Finished): Promise<void> {
    const store = this.#store;
    const turn = this.#turn();
    if (!turn.running) {
      return;
    }
    const nowMs = this.#options.clock.nowMs();
    // With what waits from before: a turn that ends soon is one commit.
    store.later(() => {
      store.endTurn(this.turn, {
        finishReason,
        errorMessage,
        generatedTokens: finished?.generatedTokens,
        cacheBytes: Number(finished?.cacheBytes ?? store.session()?.cacheBytes ?? 0),
        nowMs,
      });
      if (finished !== undefined) {
        store.cache.setPages(finished.cachePages);
      }
      const binding = store.binding();
      if (turn.accepted && binding !== undefined && binding.worker !== "") {
        store.bind(binding, binding.generation, nowMs + bindingTtlMs);
      }
      store.cache.setSaveDue(nowMs + this.#options.snapshotIdleMs);
      store.touch(nowMs);
    });
    await this.#options.storeNow();
  }

  async #giveUp(error: unknown): Promise<void> {
    if (!(error instanceof ConnectError)) {
      this.#log("error", "turn.failed", errorFields(error, "stack"));
    }
    if (this.#turn().accepted) {
      await this.#end(FinishReason.ERROR, endMessage(error));
      return;
    }
    this.#refusal = publicError(error);
    const store = this.#store;
    store.atomically(() => {
      const nowMs = this.#options.clock.nowMs();
      store.withdrawTurn(this.turn);
      store.cache.setSaveDue(nowMs + this.#options.snapshotIdleMs);
      store.touch(nowMs);
    });
    await this.#options.storeNow();
  }
}

/** What a failed attempt means. */
type Verdict = "retry" | "rebuild" | "refuse";

/** Where a turn stood when its attempt failed. */
interface Stand {
  readonly accepted: boolean;
  /** Its text is rendered anew already. */
  readonly rebuilt: boolean;
  /** A worker was asked; otherwise none could be found. */
  readonly asked: boolean;
  /** The session has a log of ids. */
  readonly hasLog: boolean;
}

function judge(error: unknown, { accepted, rebuilt, asked, hasLog }: Stand): Verdict {
  if (error instanceof SpoiledAnswer) {
    // Whoever spoilt it has been told of; this worker only brought it to light.
    return "refuse";
  }
  if (error instanceof WorkerFault) {
    return "retry";
  }
  if (!(error instanceof ConnectError)) {
    return "refuse";
  }
  switch (error.code) {
    case Code.ResourceExhausted:
      // Another worker may have room, unless a key's limit is the reason; the chooser gives up where there is none.
      return accepted || (asked && errorReason(error) === "") ? "retry" : "refuse";
    case Code.InvalidArgument:
      if (!accepted && !rebuilt && hasLog && errorReason(error) === "") {
        // It may be the log that is refused, with ids that an earlier worker made up: the text is what counts.
        return "rebuild";
      }
      return accepted ? "retry" : "refuse";
    case Code.NotFound:
      return accepted ? "retry" : "refuse";
    case Code.FailedPrecondition:
      // The model, template or plan changed under the session: its text is rendered anew. An answer that was begun
      // under the old one cannot go on.
      return accepted || rebuilt ? "refuse" : "rebuild";
    default:
      return "retry";
  }
}

/** Whether an error says that no worker could be found. */
function noWorker(error: unknown): boolean {
  return (
    error instanceof ConnectError &&
    (error.code === Code.ResourceExhausted || error.code === Code.Unavailable)
  );
}

function endMessage(error: unknown): string {
  return error instanceof ConnectError && error.code !== Code.Internal
    ? error.rawMessage
    : "the answer could not be completed";
}
