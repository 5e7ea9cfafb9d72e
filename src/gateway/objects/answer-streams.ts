/** The open streams of a session's turns: who listens, and what it means when somebody leaves. */
import { toBinary } from "@bufbuild/protobuf";
import { ConnectError } from "@connectrpc/connect";
import { errorFields } from "../../log/log-line.js";
import { log } from "../log.js";
import { GenerateResponseSchema } from "../../gen/leanedge/v1/session_pb.js";
import type { GenerateResponse } from "../../gen/leanedge/v1/session_pb.js";
import { publicError } from "../errors.js";
import { encodeErrorFrame, encodeFrames, frameKind } from "./session-wire.js";
import type { Frame } from "./session-wire.js";

const endFrame: Frame = { kind: frameKind.end, payload: new Uint8Array(0) };

/** Events of an answer, those together that are there together. */
export interface EventSource {
  /** The next events, at least one; none at the end. */
  next(): Promise<readonly GenerateResponse[]>;
  /** Whether all was given out: the next call of `next` gives none. */
  readonly ended: boolean;
}

/** Has somebody look after a stream: `end` ends it with an error, until what it returns is called. */
export type StreamHold = (end: (error: ConnectError) => void) => () => void;

/** See the head of this file. */
export class AnswerStreams {
  /** Open streams and their turns. */
  readonly #open = new Map<AbortController, number>();
  readonly #onLastLeft: (turn: number) => void;

  /** @param onLastLeft called when the last client of a turn leaves before its stream has ended */
  constructor(onLastLeft: (turn: number) => void) {
    this.#onLastLeft = onLastLeft;
  }

  /**
   * A stream of frames for one client, in chunks of those that are there together. It is pulled at the client's pace, and
   * reads ahead by nothing.
   *
   * @param signal aborts when the caller leaves
   * @param events makes the events; the signal that it gets aborts when the client leaves, in whichever way
   * @param hold has somebody look after the stream; a stream that is ended so counts as left
   */
  open(
    turn: number,
    signal: AbortSignal,
    events: (left: AbortSignal) => EventSource,
    hold: StreamHold = () => () => undefined,
  ): ReadableStream<Uint8Array> {
    const left = new AbortController();
    this.#open.set(left, turn);
    let ended: ConnectError | undefined;
    const leave = (): void => {
      release();
      left.abort();
      this.#leave(left);
    };
    const release = hold((error) => {
      ended = error;
      leave();
    });
    const close = (): void => {
      release();
      signal.removeEventListener("abort", leave);
      this.#open.delete(left);
    };
    if (signal.aborted) {
      leave();
    } else {
      signal.addEventListener("abort", leave, { once: true });
    }
    const source = events(left.signal);
    return new ReadableStream<Uint8Array>(
      {
        async pull(controller) {
          await pull(source, left.signal, controller, close);
          if (ended !== undefined && !signal.aborted) {
            signal.removeEventListener("abort", leave);
            controller.enqueue(encodeErrorFrame(ended));
            controller.close();
          }
        },
        cancel: leave,
      },
      { highWaterMark: 0 },
    );
  }

  #leave(left: AbortController): void {
    const turn = this.#open.get(left);
    if (turn === undefined) {
      return;
    }
    this.#open.delete(left);
    if (![...this.#open.values()].includes(turn)) {
      this.#onLastLeft(turn);
    }
  }
}

async function pull(
  source: EventSource,
  left: AbortSignal,
  controller: ReadableStreamDefaultController<Uint8Array>,
  close: () => void,
): Promise<void> {
  try {
    const events = await source.next();
    if (left.aborted) {
      // Nobody reads any more, and the stream takes nothing.
      return;
    }
    const frames = events.map((event): Frame => ({
      kind: frameKind.message,
      payload: toBinary(GenerateResponseSchema, event),
    }));
    if (!source.ended) {
      controller.enqueue(encodeFrames(frames));
      return;
    }
    close();
    controller.enqueue(encodeFrames([...frames, endFrame]));
    controller.close();
  } catch (error) {
    close();
    if (!(error instanceof ConnectError)) {
      log("error", "stream.failed", errorFields(error, "stack"));
    }
    controller.enqueue(encodeErrorFrame(publicError(error)));
    controller.close();
  }
}
