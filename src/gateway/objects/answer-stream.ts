/**
 * One client's view of a turn: the events of leanedge.v1.GenerateResponse from an offset on. It reads what the session has, at the
 * client's pace: a slow reader costs no memory, and any number of readers see the same bytes. Text is shown before it is stored,
 * the end of a turn after.
 */
import { create } from "@bufbuild/protobuf";
import {
  FinishReason,
  GenerateResponseSchema,
  TurnStartedSchema,
  UsageSchema,
} from "../../gen/leanedge/v1/session_pb.js";
import type { GenerateResponse, TurnStarted, Usage } from "../../gen/leanedge/v1/session_pb.js";
import { notFound } from "../errors.js";
import { deltaBytesMax, heartbeatIntervalMs } from "../limits.js";
import type { EventSource } from "./answer-streams.js";
import type { Clock } from "./clock.js";
import type { ResumePoint } from "./resume-point.js";
import type { TurnRecord } from "./session-records.js";
import type { SessionStore } from "./session-store.js";
import type { StopSignal } from "./stop.js";
import type { TurnRunner } from "./turn-runner.js";

const encoder = new TextEncoder();
/** Keeps a byte order mark that a model writes: offsets count it. */
const utf8 = new TextDecoder("utf-8", { fatal: false, ignoreBOM: true });

/** Wakes whoever waits for something to change. */
export class ChangeBell {
  #bell = Promise.withResolvers<undefined>();

  /** Resolves at the next ring. Take it before looking at the state that it announces. */
  get next(): Promise<undefined> {
    return this.#bell.promise;
  }

  /** Wakes all who wait. */
  ring(): void {
    this.#bell.resolve(undefined);
    this.#bell = Promise.withResolvers<undefined>();
  }
}

/** What a stream reads from. */
export interface AnswerStreamOptions {
  readonly store: SessionStore;
  readonly sessionId: string;
  readonly turn: number;
  /** First byte of the answer that the client wants. */
  readonly offset: number;
  /** Knows when the answer has come so far. */
  readonly resume: ResumePoint;
  /** The turn was started by another stream. */
  readonly resumed: boolean;
  /** The runner of the turn, if it runs in this object; it may end meanwhile. */
  readonly runner: TurnRunner | undefined;
  /** Whether that runner still runs. */
  readonly live: () => boolean;
  readonly bell: ChangeBell;
  readonly clock: Clock;
  /** The client left. */
  readonly signal: StopSignal;
}

/** The stream. Throws the refusal of a turn that was withdrawn, and what ResumePoint throws. */
export function streamAnswer(options: AnswerStreamOptions): EventSource {
  return new AnswerStream(options);
}

class AnswerStream implements EventSource {
  readonly #options: AnswerStreamOptions;
  readonly #waits: StreamWaits;
  /** Which life of the session's id it reads from. */
  readonly #createMs: number | undefined;
  #offset: number;
  #announced: boolean | undefined;
  #promptTokensDone = 0;
  #sentMs: number;
  #ended = false;

  constructor(options: AnswerStreamOptions) {
    this.#options = options;
    this.#createMs = options.store.session()?.createMs;
    this.#offset = options.offset;
    this.#sentMs = options.clock.nowMs();
    this.#waits = new StreamWaits(options.clock, options.signal);
  }

  get ended(): boolean {
    return this.#ended;
  }

  async next(): Promise<readonly GenerateResponse[]> {
    const { bell, clock, signal } = this.#options;
    try {
      while (!this.#ended && !signal.aborted) {
        const changed = bell.next;
        const events = this.#collect();
        if (events.length > 0) {
          this.#sentMs = clock.nowMs();
          return events;
        }
        // Counted from the last event: a change that shows nothing (a place in a queue) is silence to the client.
        const silenceMs = this.#sentMs + heartbeatIntervalMs - clock.nowMs();
        if (silenceMs <= 0) {
          const { promptTokensDone = 0, promptTokens = 0 } = this.#options.runner?.progress ?? {};
          this.#sentMs = clock.nowMs();
          return [heartbeat(promptTokensDone, promptTokens)];
        }
        await this.#waits.next(changed, silenceMs);
      }
    } catch (error) {
      this.#end();
      throw error;
    }
    this.#end();
    return [];
  }

  #end(): void {
    this.#ended = true;
    this.#waits.end();
  }

  /** All events that are there now, of which the text takes deltaBytesMax at most. */
  #collect(): GenerateResponse[] {
    const options = this.#options;
    const { store, runner } = options;
    const events: GenerateResponse[] = [];
    const live = options.live();
    const turn = store.turn(options.turn);
    if (turn === undefined || store.session()?.createMs !== this.#createMs) {
      throw runner?.refusal ?? notFound(`turn ${options.turn} was withdrawn`);
    }
    if (this.#announced !== turn.accepted && this.#announced !== true) {
      this.#announced = turn.accepted;
      events.push(started(options, turn));
    }
    if (options.resume.reached(store, turn) && this.#offset < turn.textBytes) {
      const piece = readAnswer(store, turn, this.#offset);
      if (piece !== undefined) {
        events.push(delta(this.#offset, piece));
        this.#offset += piece.bytes;
        if (this.#offset < turn.textBytes) {
          return events;
        }
      }
    }
    const progress = runner?.progress;
    if (!live && !turn.running) {
      events.push(finished(turn));
      this.#end();
    } else if (
      progress !== undefined &&
      turn.textBytes === 0 &&
      progress.promptTokensDone > this.#promptTokensDone
    ) {
      this.#promptTokensDone = progress.promptTokensDone;
      events.push(heartbeat(this.#promptTokensDone, progress.promptTokens));
    }
    return events;
  }
}

/**
 * Waits of one stream. Its timer and its ear for the client stay from wait to wait: an answer has thousands of them, and
 * a timer and a listener for each would cost more than its events.
 */
class StreamWaits {
  readonly #clock: Clock;
  readonly #signal: StopSignal;
  #wake = (): void => undefined;
  #dropTimer: (() => void) | undefined;
  readonly #onTime = (): void => {
    this.#dropTimer = undefined;
    this.#wake();
  };
  readonly #onLeave = (): void => {
    // Nobody may ask for another event, which would end these waits.
    this.end();
    this.#wake();
  };

  constructor(clock: Clock, signal: StopSignal) {
    this.#clock = clock;
    this.#signal = signal;
    signal.addEventListener("abort", this.#onLeave, { once: true });
  }

  /** Resolves at the change, when the client leaves, or once at most `ms` have passed; at times earlier. */
  async next(changed: Promise<undefined>, ms: number): Promise<void> {
    if (this.#signal.aborted) {
      return;
    }
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
      this.#dropTimer ??= this.#clock.timer(ms, this.#onTime);
      void changed.then(() => resolve());
    });
  }

  /** No more waits. */
  end(): void {
    this.#dropTimer?.();
    this.#dropTimer = undefined;
    this.#signal.removeEventListener("abort", this.#onLeave);
  }
}

/** A part of an answer. */
interface AnswerPart {
  readonly text: string;
  /** Of its text. */
  readonly bytes: number;
  /** Tokens of the answer up to the part's end. */
  readonly tokens: number;
}

/** The answer from `offset` on, at most deltaBytesMax bytes and whole characters; undefined if there is nothing. */
function readAnswer(store: SessionStore, turn: TurnRecord, offset: number): AnswerPart | undefined {
  if (!turn.running) {
    const all = encoder.encode(store.answerText(turn.number));
    const end = characterBorder(all, Math.min(all.byteLength, offset + deltaBytesMax));
    return end <= offset
      ? undefined
      : {
          text: utf8.decode(all.subarray(offset, end)),
          bytes: end - offset,
          // The split of tokens is not kept once a turn has ended; the whole count belongs to the last part.
          tokens:
            end === all.byteLength
              ? turn.completionTokens
              : Math.floor((turn.completionTokens * end) / all.byteLength),
        };
  }
  let text = "";
  let bytes = 0;
  let tokens = 0;
  for (const piece of store.piecesFrom(offset)) {
    const known = Math.max(0, offset - piece.byteOffset);
    const more = piece.byteLength - known;
    if (bytes > 0 && bytes + more > deltaBytesMax) {
      break;
    }
    text += known === 0 ? piece.text : utf8.decode(encoder.encode(piece.text).subarray(known));
    bytes += more;
    tokens = piece.tokensEnd;
  }
  return bytes === 0 ? undefined : { text, bytes, tokens };
}

/** The last border of characters at or before `end`. */
function characterBorder(bytes: Uint8Array, end: number): number {
  let border = end;
  while (border < bytes.byteLength && ((bytes[border] ?? 0) & 0xc0) === 0x80) {
    border--;
  }
  return border;
}

function started(options: AnswerStreamOptions, turn: TurnRecord): GenerateResponse {
  const value: TurnStarted = create(TurnStartedSchema, {
    sessionId: options.sessionId,
    turn: turn.number,
    model: turn.model,
    backend: turn.backend,
    worker: turn.worker,
    promptTokens: turn.promptTokens,
    cachedTokens: turn.cachedTokens,
    seed: turn.sampling.seed ?? 0n,
    resumed: options.resumed,
    offset: BigInt(options.offset),
    placement: turn.placement,
  });
  return create(GenerateResponseSchema, { event: { case: "started", value } });
}

function delta(offset: number, part: AnswerPart): GenerateResponse {
  // Written out, since an answer has one for each token: `create` looks at what it is given field by field.
  return {
    $typeName: "leanedge.v1.GenerateResponse",
    event: {
      case: "delta",
      value: {
        $typeName: "leanedge.v1.TextDelta",
        offset: BigInt(offset),
        text: part.text,
        completionTokens: part.tokens,
      },
    },
  };
}

function heartbeat(promptTokensDone: number, promptTokens: number): GenerateResponse {
  return create(GenerateResponseSchema, {
    event: { case: "heartbeat", value: { promptTokensDone, promptTokens } },
  });
}

function finished(turn: TurnRecord): GenerateResponse {
  return create(GenerateResponseSchema, {
    event: {
      case: "finished",
      value: {
        finishReason: turn.finishReason,
        usage: turnUsage(turn),
        textBytes: BigInt(turn.textBytes),
        cacheBytes: BigInt(turn.cacheBytes),
        errorMessage: turn.finishReason === FinishReason.ERROR ? turn.errorMessage : "",
      },
    },
  });
}

/** Tokens of a turn. */
export function turnUsage(turn: TurnRecord): Usage {
  return create(UsageSchema, {
    promptTokens: turn.promptTokens,
    cachedTokens: turn.cachedTokens,
    completionTokens: turn.completionTokens,
  });
}
