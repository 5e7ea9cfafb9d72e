/** The open streams of a session's turns: who listens, and what it means when somebody leaves. */
import { Code, ConnectError } from "@connectrpc/connect";
import { errorFields } from "../../log/log-line.js";
import { log } from "../log.js";
import type { GenerateResponse } from "../../gen/leanedge/v1/session_pb.js";
import { deadlineExceeded, publicError } from "../errors.js";
import type { AnswerAhead, AnswerFormat } from "./answer-format.js";
import type { Clock } from "./clock.js";
import { countedHeader, passHeader } from "./session-name.js";
import { Stop } from "./stop.js";
import type { StopSignal } from "./stop.js";

/** Events of an answer, those together that are there together. */
export interface EventSource {
  /** The next events, at least one; none at the end. */
  next(): Promise<readonly GenerateResponse[]>;
  /** Whether all was given out: the next call of `next` gives none. */
  readonly ended: boolean;
}

/** Has somebody look after a stream: `end` ends it with an error, until what it returns is called. */
export type StreamHold = (end: (error: ConnectError) => void) => () => void;

/** Who counts an answer. */
export interface StreamWatch {
  /** The next event goes to the client. */
  look(event: GenerateResponse): void;
  /** The answer failed. */
  failed(error: unknown): void;
  /** It is over; what comes later does not count. */
  end(outcome: string): void;
}

/** What an answer is opened with. */
export interface AnswerOptions {
  /** Aborts when the caller leaves. */
  readonly signal: AbortSignal;
  /** Makes the events; the signal that it gets aborts when the client leaves, in whichever way. */
  readonly events: (left: StopSignal) => EventSource;
  readonly format: AnswerFormat;
  /** Has somebody look after the stream; a stream that is ended so counts as left. */
  readonly hold?: StreamHold;
  readonly watch?: StreamWatch | undefined;
  /** Milliseconds from now to when the answer ends with DEADLINE_EXCEEDED; undefined: it takes as long as it takes. */
  readonly timeoutMs?: number | undefined;
  readonly clock: Clock;
}

/** See the head of this file. */
export class AnswerStreams {
  /** Open answers and their turns. */
  readonly #open = new Map<OpenAnswer, number>();
  readonly #onLastLeft: (turn: number) => void;

  /** @param onLastLeft called when the last client of a turn leaves before its stream has ended */
  constructor(onLastLeft: (turn: number) => void) {
    this.#onLastLeft = onLastLeft;
  }

  /** How many are open. */
  get count(): number {
    return this.#open.size;
  }

  /** An answer for one client, who listens from now on. */
  open(turn: number, options: AnswerOptions): OpenAnswer {
    const answer = new OpenAnswer(options, (left) => {
      this.#open.delete(answer);
      if (left && ![...this.#open.values()].includes(turn)) {
        this.#onLastLeft(turn);
      }
    });
    this.#open.set(answer, turn);
    answer.listen();
    return answer;
  }
}

/** One client's answer: first its head, then its body, which is pulled at the client's pace and reads ahead by nothing. */
export class OpenAnswer implements AnswerAhead {
  readonly #options: AnswerOptions;
  readonly #source: EventSource;
  readonly #left = new Stop();
  readonly #onOver: (left: boolean) => void;
  readonly #leave = (): void => {
    this.#options.watch?.end("left");
    this.#over(true);
  };
  /** What to give back once it is over. */
  readonly #releases: (() => void)[] = [];
  #isOver = false;
  /** Why somebody else ended it. */
  #ended: ConnectError | undefined;
  /** Events that were read before the body began. */
  #ahead: GenerateResponse[] = [];
  #pending: Promise<readonly GenerateResponse[]> | undefined;

  /** @param onOver called once, when nothing more will be read; `left`: before the end */
  constructor(options: AnswerOptions, onOver: (left: boolean) => void) {
    this.#options = options;
    this.#onOver = onOver;
    this.#source = options.events(this.#left);
  }

  /** Hears of the client, and of whoever else ends the answer, from now on. */
  listen(): void {
    const { clock, hold, signal, timeoutMs, watch } = this.#options;
    const end = (error: ConnectError): void => {
      this.#ended = error;
      watch?.failed(error);
      this.#over(true);
    };
    if (hold !== undefined) {
      this.#releases.push(hold(end));
    }
    if (timeoutMs !== undefined) {
      const late = (): void => end(deadlineExceeded("the operation timed out"));
      this.#releases.push(clock.timer(timeoutMs, late));
    }
    if (signal.aborted) {
      this.#leave();
    } else {
      signal.addEventListener("abort", this.#leave, { once: true });
    }
  }

  /** The response, once its head is known. Throws what is to be told instead of an answer. */
  async response(head: Map<string, string>): Promise<Response> {
    try {
      await this.#options.format.head(this, head);
    } catch (error) {
      const { watch } = this.#options;
      if (watch !== undefined) {
        watch.failed(error);
        head.set(countedHeader, "1");
      }
      this.#over(false);
      throw error;
    }
    if (this.#options.format.passes) {
      head.set(passHeader, "1");
    }
    const headers = Object.fromEntries(head);
    const whole = this.#whole();
    if (whole !== undefined) {
      return new Response(whole, { headers });
    }
    const body = new ReadableStream<Uint8Array>(
      { pull: (controller) => this.#pull(controller), cancel: this.#leave },
      { highWaterMark: 0 },
    );
    return new Response(body, { headers });
  }

  /** All of an answer that was there before its head: no stream is needed for it. Undefined where it goes on, or failed. */
  #whole(): Uint8Array<ArrayBuffer> | undefined {
    if (!this.#source.ended || this.#pending !== undefined || this.#isOver) {
      return undefined;
    }
    try {
      const bytes = this.#options.format.write(this.#ahead, true);
      this.#over(false);
      // Declarations of TextEncoder leave open where its bytes lie.
      return bytes as Uint8Array<ArrayBuffer>;
    } catch {
      // The body's first pull meets the same error, and tells it.
      return undefined;
    }
  }

  async readUntil(
    enough: (event: GenerateResponse["event"]) => boolean,
    ms: number,
  ): Promise<boolean> {
    let looked = 0;
    const { promise: timeUp, resolve } = Promise.withResolvers<undefined>();
    const drop = this.#options.clock.timer(ms, () => resolve(undefined));
    try {
      for (;;) {
        for (const { event } of this.#ahead.slice(looked)) {
          if (enough(event)) {
            return true;
          }
        }
        looked = this.#ahead.length;
        if (this.#source.ended && this.#pending === undefined) {
          return true;
        }
        this.#pending ??= this.#source.next();
        const events = await Promise.race([this.#pending, timeUp]);
        if (events === undefined) {
          return false;
        }
        this.#took(events);
        if (this.#left.aborted) {
          throw this.#ended ?? new ConnectError("the client left", Code.Canceled);
        }
        this.#ahead.push(...events);
      }
    } finally {
      drop();
    }
  }

  /** The next events go to the client. */
  #took(events: readonly GenerateResponse[]): void {
    this.#pending = undefined;
    const { watch } = this.#options;
    if (watch !== undefined && !this.#left.aborted) {
      for (const event of events) {
        watch.look(event);
      }
    }
  }

  async #next(): Promise<readonly GenerateResponse[]> {
    if (this.#ahead.length > 0) {
      const events = this.#ahead;
      this.#ahead = [];
      return events;
    }
    this.#pending ??= this.#source.next();
    const events = await this.#pending;
    this.#took(events);
    return events;
  }

  async #pull(controller: ReadableStreamDefaultController<Uint8Array>): Promise<void> {
    const { format, watch } = this.#options;
    const left = this.#left;
    try {
      for (;;) {
        const events = await this.#next();
        if (left.aborted) {
          break;
        }
        const ended = this.#source.ended;
        const bytes = format.write(events, ended);
        if (bytes.byteLength > 0) {
          controller.enqueue(bytes);
        }
        if (ended) {
          this.#over(false);
          controller.close();
          return;
        }
        if (bytes.byteLength > 0) {
          return;
        }
      }
    } catch (error) {
      watch?.failed(error);
      this.#over(false);
      if (!(error instanceof ConnectError)) {
        log("error", "stream.failed", errorFields(error, "stack"));
      }
      this.#fail(controller, publicError(error));
      return;
    }
    // Where the client left nobody reads any more, and the stream takes nothing.
    if (this.#ended !== undefined && !this.#options.signal.aborted) {
      this.#fail(controller, this.#ended);
    }
  }

  #fail(controller: ReadableStreamDefaultController<Uint8Array>, error: ConnectError): void {
    const bytes = this.#options.format.fail(error);
    if (bytes === undefined) {
      controller.error(error);
      return;
    }
    controller.enqueue(bytes);
    controller.close();
  }

  #over(left: boolean): void {
    if (this.#isOver) {
      return;
    }
    this.#isOver = true;
    for (const release of this.#releases) {
      release();
    }
    this.#options.signal.removeEventListener("abort", this.#leave);
    if (left) {
      this.#left.stop();
    }
    this.#onOver(left);
  }
}
