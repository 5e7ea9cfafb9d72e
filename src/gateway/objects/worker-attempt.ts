/** One try of a turn on one worker: names the prefix, sends what the worker lacks, and gives out its events. */
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { MessageSchema } from "../../gen/leanedge/v1/session_pb.js";
import type { Message } from "../../gen/leanedge/v1/session_pb.js";
import type { SamplingParams } from "../../gen/leanedge/v1/sampling_pb.js";
import { GenerateRequestSchema } from "../../gen/leanedge/worker/v1/worker_pb.js";
import type {
  Accepted,
  Fingerprints,
  GenerateRequest,
  GenerateResponse,
  PrefixName,
} from "../../gen/leanedge/worker/v1/worker_pb.js";
import { prefixRoundsMax, workerUnaryTimeoutMs } from "../limits.js";
import {
  logTokens,
  namePrefix,
  samePrefix,
  segmentsBefore,
  wireSegments,
} from "../worker-client/segments.js";
import type { WorkerClient, WorkerEvents } from "../worker-client/worker-client.js";
import type { Clock } from "./clock.js";
import { logWithAnswer } from "./session-store.js";
import type { TurnRecord } from "./session-records.js";
import type { SessionSnapshots } from "./session-snapshots.js";
import type { SessionStore } from "./session-store.js";
import { Stop } from "./stop.js";
import type { StopSignal } from "./stop.js";
import { textIntervalMs, turnBegins, turnEnds, turnsRunning } from "./text-interval.js";
import { WorkerFault } from "./worker-fault.js";
import type { WorkerSilence } from "./worker-silence.js";

/** What an attempt needs. */
export interface WorkerAttemptOptions {
  readonly store: SessionStore;
  readonly client: WorkerClient;
  readonly turn: TurnRecord;
  readonly sampling: SamplingParams;
  readonly sequenceId: string;
  readonly generation: number;
  /** Render the whole transcript instead of naming a prefix. */
  readonly rebuild: boolean;
  /** Let the worker tell the text of an unfinished answer from its start. */
  readonly retells: boolean;
  /** Saved caches of the session. */
  readonly snapshots: SessionSnapshots;
  /** Worker that the session leaves on purpose: its cache is carried over. */
  readonly leaving: WorkerClient | undefined;
  /** How long the worker may say nothing. */
  readonly silence: WorkerSilence;
  readonly clock: Clock;
  /** Ends the attempt. */
  readonly signal: StopSignal;
}

/** See the head of this file. */
export class WorkerAttempt {
  readonly #options: WorkerAttemptOptions;
  readonly #closed = new Stop();
  #events: WorkerEvents | undefined;
  #iterator: AsyncIterator<GenerateResponse> | undefined;
  #next: Promise<GenerateResponse> | undefined;
  /** Counts it among those that run, between `open` and `close`. */
  #running: symbol | undefined;
  /** The prompt renders the whole transcript. */
  readonly rebuilt: boolean;

  /** Does nothing yet. */
  constructor(options: WorkerAttemptOptions) {
    this.#options = options;
    this.rebuilt = options.rebuild;
    if (options.signal.aborted) {
      this.#closed.stop();
    } else {
      options.signal.addEventListener("abort", this.#onStop, { once: true });
    }
  }

  readonly #onStop = (): void => {
    this.#closed.stop();
  };

  /** Sends the request, with more of the log as often as the worker asks. Resolves when it is accepted. */
  async open(): Promise<Accepted> {
    let held: number | undefined;
    this.#running = turnBegins(this.#options.clock.nowMs());
    if (this.rebuilt) {
      this.#options.snapshots.discardStale();
    }
    for (let round = 1; round <= prefixRoundsMax; round++) {
      const request = this.#request(held);
      const { clock } = this.#options;
      const stream = this.#options.client.generate(request, { signal: this.#closed, clock });
      this.#events = stream;
      this.#iterator = stream[Symbol.asyncIterator]();
      // A cache may have been brought meanwhile.
      this.#options.silence.heard();
      const first = await this.#options.silence.wait(this.next());
      this.consume();
      switch (first.event.case) {
        case "accepted":
          return first.event.value;
        case "prefixMissing":
          held = this.#heldSegments(first.event.value.have, request, round);
          if (round === 1) {
            held = await this.#restore(held);
          }
          break;
        default:
          throw new WorkerFault(`the worker began with "${first.event.case ?? "nothing"}"`);
      }
    }
    throw new WorkerFault(`the worker asked for the log ${prefixRoundsMax} times`);
  }

  /** The event after the one that was consumed last came with it. */
  get ready(): boolean {
    return this.#events?.ready === true;
  }

  /** The next event; the same promise until `consume` is called. Rejects with WorkerFault at the end of the stream. */
  next(): Promise<GenerateResponse> {
    this.#next ??= this.#readNext();
    return this.#next;
  }

  /** Moves on to the event after the one that `next` gave. */
  consume(): void {
    this.#next = undefined;
  }

  /** Ends the stream, if it still runs: the worker stops before its next step. */
  close(): void {
    if (this.#running !== undefined) {
      turnEnds(this.#running);
    }
    this.#options.signal.removeEventListener("abort", this.#onStop);
    this.#closed.stop();
    // A read that is under way rejects now, and nobody waits for it any more.
    this.#next?.catch(() => undefined);
  }

  /** Tells the worker to forget the sequence. The answer does not matter: a worker may forget at any time. */
  release(generation: number): void {
    const { client, sequenceId } = this.#options;
    client
      .release({ sequenceId, generation: BigInt(generation) }, { timeoutMs: workerUnaryTimeoutMs })
      .catch(() => undefined);
  }

  async #readNext(): Promise<GenerateResponse> {
    const iterator = this.#iterator;
    if (iterator === undefined) {
      throw new Error("next() before open()");
    }
    let result: IteratorResult<GenerateResponse>;
    try {
      result = await iterator.next();
    } catch (error) {
      throw isBrokenStream(error)
        ? new WorkerFault(`the worker's stream is broken: ${messageOf(error)}`, { cause: error })
        : error;
    }
    if (result.done === true) {
      throw new WorkerFault("the worker's stream ended without `finished`");
    }
    return result.value;
  }

  /** Segments that the worker has in truth. What differs from our log is worth nothing: it gets everything. */
  #heldSegments(have: PrefixName | undefined, request: GenerateRequest, round: number): number {
    if ((request.prefix?.tokens ?? 0) === 0) {
      throw new WorkerFault("the worker lacks the empty prefix");
    }
    if (have === undefined || round === prefixRoundsMax - 1) {
      return 0;
    }
    const { segments } = this.#log();
    const count = segmentsBefore(segments, have.tokens) ?? 0;
    return samePrefix(have, namePrefix(segments.slice(0, count), undefined)) ? count : 0;
  }

  /** Lets the worker have the cache of another one, or the saved one, where that is more than it holds. Segments that it has then. */
  async #restore(held: number): Promise<number> {
    const { client, generation, leaving, snapshots } = this.#options;
    const { segments } = this.#log();
    if (leaving !== undefined && held < this.#options.store.segments().length) {
      const carried = await snapshots.carry(leaving, client, generation, this.#closed);
      if (carried > 0) {
        return segmentsBefore(segments, carried) ?? 0;
      }
    }
    if (snapshots.usableTokens() <= logTokens(segments.slice(0, held))) {
      return held;
    }
    const tokens = await snapshots.restore(client, generation, this.#closed);
    return tokens === 0 ? 0 : (segmentsBefore(segments, tokens) ?? 0);
  }

  #log(): ReturnType<typeof logWithAnswer> {
    const { store, turn } = this.#options;
    return logWithAnswer(store.segments(), turn.accepted ? store.pieces() : []);
  }

  /** @param held segments at the start of the log that the worker has; undefined: all, as far as we know */
  #request(held: number | undefined): GenerateRequest {
    const { store, turn, sampling, sequenceId, generation } = this.#options;
    const request = create(GenerateRequestSchema, {
      sequenceId,
      generation: BigInt(generation),
      model: turn.model,
      sampling,
      requestId: turn.requestId,
      snapshotStale: this.#options.snapshots.takeStale(),
      textIntervalMs: textIntervalMs(turnsRunning(this.#options.clock.nowMs())),
    });
    if (this.rebuilt) {
      request.messages = this.#messages(0);
      return request;
    }
    const { segments, answerTokens } = this.#log();
    request.prefix =
      held === undefined && answerTokens === 0
        ? { ...store.logName(), ...named(store.session()?.fingerprints) }
        : namePrefix(segments.slice(0, held), store.session()?.fingerprints);
    request.log = held === undefined ? [] : wireSegments(segments.slice(held));
    if (turn.accepted) {
      request.resume = {
        $typeName: "leanedge.worker.v1.Resume",
        generatedTokens: answerTokens,
        textBytes: this.#options.retells ? 0n : BigInt(turn.textBytes),
        promptTokens: logTokens(segments) - answerTokens,
      };
    } else {
      request.messages = this.#messages(store.session()?.messagesCovered ?? 0);
    }
    return request;
  }

  /** Messages that the log does not cover. An empty answer (cancelled before its first token) says nothing. */
  #messages(from: number): Message[] {
    return this.#options.store
      .messages(from, Number.MAX_SAFE_INTEGER)
      .filter((message) => message.text !== "")
      .map((message) => create(MessageSchema, { role: message.role, text: message.text }));
  }
}

function named(fingerprints: Fingerprints | undefined): Pick<PrefixName, "fingerprints"> {
  return fingerprints === undefined ? {} : { fingerprints };
}

/** Codes that say something of the request or of the worker's room where a worker sends them. */
const tellingCodes = new Set([
  Code.FailedPrecondition,
  Code.InvalidArgument,
  Code.NotFound,
  Code.ResourceExhausted,
]);

/**
 * Whether an error was made on this side of the connection. What Connect finds wrong with the bytes of a stream has codes
 * that a worker uses too: a stream without its end is INVALID_ARGUMENT, a frame that is too large RESOURCE_EXHAUSTED. Only a
 * worker's own errors come with the head of its response.
 */
function isBrokenStream(error: unknown): boolean {
  return (
    error instanceof ConnectError &&
    tellingCodes.has(error.code) &&
    !error.metadata.has("content-type")
  );
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
