/**
 * Runs one turn: asks a worker, reads its stream, and appends what it says to the store, which shows it at once and writes it in its
 * own time (store-behind.ts); the turn's end is durable before anybody is told of it. It owns the attempt that is under way and
 * nothing else; the truth is in the store, from which a runner of a restarted object goes on.
 */
import { ConnectError } from "@connectrpc/connect";
import { errorFields } from "../../log/log-line.js";
import type { LogFields, LogLevel } from "../../log/log-line.js";
import { log } from "../log.js";
import type { SamplingParams } from "../../gen/leanedge/v1/sampling_pb.js";
import { FinishReason } from "../../gen/leanedge/v1/session_pb.js";
import { UnavailableReason } from "../../gen/leanedge/worker/v1/worker_pb.js";
import type { Finished } from "../../gen/leanedge/worker/v1/worker_pb.js";
import type { ModelFallback } from "../config.js";
import { publicError, unavailable } from "../errors.js";
import {
  answerBytesMax,
  attemptBackoffMs,
  attemptBackoffMsMax,
  turnAttemptsMax,
  workerUnaryTimeoutMs,
} from "../limits.js";
import { refreshBeside } from "../worker-client/directory.js";
import type { WorkerDirectory } from "../worker-client/directory.js";
import { samePrefix } from "../worker-client/segments.js";
import { unavailableReason } from "../worker-client/unavailable.js";
import { acceptTurn } from "./accept-turn.js";
import type { TurnProgress } from "./accept-turn.js";
import type { Clock } from "./clock.js";
import { endMessage, judge, noWorker } from "./attempt-verdict.js";
import { endTurn, withdrawTurn } from "./end-turn.js";
import type { TurnTimes } from "./end-turn.js";
import { ReceivedAnswer } from "./received-answer.js";
import { resolveSampling } from "./request-rules.js";
import type { SamplingDefaults } from "./request-rules.js";
import type { TurnRecord } from "./session-records.js";
import type { SessionSnapshots } from "./session-snapshots.js";
import type { SessionStore } from "./session-store.js";
import { Stop } from "./stop.js";
import { unlessAborted } from "./unless-aborted.js";
import { WorkerAttempt } from "./worker-attempt.js";
import { WorkerChooser } from "./worker-chooser.js";
import type { WorkerChoice } from "./worker-chooser.js";
import { WorkerFault } from "./worker-fault.js";
import { WorkerSilence } from "./worker-silence.js";

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

/** See the head of this file. */
export class TurnRunner {
  readonly #options: TurnRunnerOptions;
  readonly #store: SessionStore;
  readonly #stop = new Stop();
  readonly #chooser: WorkerChooser;
  /** Names the request in logs. */
  readonly #requestId: string;
  #attemptsMade = 0;
  readonly #answer: ReceivedAnswer;
  /** Model that answers instead of the turn's own, once none of its workers could. */
  #fallback: string | undefined;
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
    this.#answer = new ReceivedAnswer(options.store, options.turn);
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
    this.#stop.stop();
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
        if (this.#stop.aborted) {
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
      this.#stop.throwIfAborted();
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
        const sampling = await unlessAborted(this.#resolveSampling(), this.#stop);
        this.#answer.tokensMax = sampling.maxTokens ?? 0;
        // A pool may let it wait for room.
        choice = await unlessAborted(this.#chooser.choose(this.#turn()), this.#stop);
        if (attempts > 1 && choice.again) {
          await this.#pause(attempts, restarting);
        }
        await this.#attempt(choice, sampling, rebuild);
        return;
      } catch (error) {
        this.#stop.throwIfAborted();
        // What came together with the failure is shown now: another attempt may take its time.
        this.#options.onChange();
        refreshBeside(this.#options.directory, this.#options.background);
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
        this.#answer.verifies ||= choice !== undefined;
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
    await this.#options.clock.sleep(pause, this.#stop);
    this.#stop.throwIfAborted();
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
      retells: this.#answer.verifies,
      snapshots,
      leaving: choice.leaving?.client,
      silence,
      clock,
      signal: this.#stop,
    });
    try {
      const accepted = await attempt.open();
      this.#progress = acceptTurn(accepted, {
        ...{ store: this.#store, turn: this.#turn(), answer: this.#answer },
        ...{ choice, sampling, rebuilt: attempt.rebuilt },
        contextTokensMax: this.#options.contextTokensMax,
        nowMs: clock.nowMs(),
      });
      if (!attempt.ready) {
        this.#options.onChange();
        // Not before: what a pool is asked takes milliseconds of this thread, and the worker has something to do now.
        refreshBeside(directory, background);
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

  /** Reads the answer to its end; undefined if it was ended here. */
  async #read(attempt: WorkerAttempt, silence: WorkerSilence): Promise<Finished | undefined> {
    silence.heard();
    for (;;) {
      const { event } = await silence.wait(attempt.next());
      this.#stop.throwIfAborted();
      attempt.consume();
      switch (event.case) {
        case "tokens":
          this.#answer.take(event.value);
          if (this.#answer.bytes > answerBytesMax || this.#contextIsFull()) {
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
    return this.#progress.promptTokens + this.#answer.tokens >= contextTokensMax;
  }

  async #finish(finished: Finished): Promise<void> {
    if (
      finished.finishReason !== FinishReason.STOP &&
      finished.finishReason !== FinishReason.LENGTH
    ) {
      throw new WorkerFault(`the worker ended with ${FinishReason[finished.finishReason]}`);
    }
    this.#answer.checkEnd(finished);
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
    const turn = this.#turn();
    if (!turn.running) {
      return;
    }
    endTurn(this.#store, turn, { finishReason, errorMessage, finished, ...this.#times() });
    await this.#options.storeNow();
  }

  #times(): TurnTimes {
    const { clock, snapshotIdleMs } = this.#options;
    return { nowMs: clock.nowMs(), snapshotIdleMs };
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
    withdrawTurn(this.#store, this.turn, this.#times());
    await this.#options.storeNow();
  }
}
