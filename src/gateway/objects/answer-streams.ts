/** The open streams of a session's turns: who listens, and what it means when somebody leaves. */
import { toBinary } from "@bufbuild/protobuf";
import { ConnectError } from "@connectrpc/connect";
import { GenerateResponseSchema } from "../../gen/leanedge/v1/session_pb.js";
import type { GenerateResponse } from "../../gen/leanedge/v1/session_pb.js";
import { publicError } from "../errors.js";
import { encodeErrorFrame, encodeFrame, frameKind } from "./session-wire.js";

type Events = AsyncGenerator<GenerateResponse, void, undefined>;

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
   * A stream of frames for one client. It is pulled at the client's pace, and reads ahead by nothing.
   *
   * @param signal aborts when the caller leaves
   * @param events makes the events; the signal that it gets aborts when the client leaves, in whichever way
   */
  open(
    turn: number,
    signal: AbortSignal,
    events: (left: AbortSignal) => Events,
  ): ReadableStream<Uint8Array> {
    const left = new AbortController();
    this.#open.set(left, turn);
    const leave = (): void => {
      left.abort();
      this.#leave(left);
    };
    const close = (): void => {
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
      { pull: (controller) => pull(source, left.signal, controller, close), cancel: leave },
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
  source: Events,
  left: AbortSignal,
  controller: ReadableStreamDefaultController<Uint8Array>,
  close: () => void,
): Promise<void> {
  try {
    const result = await source.next();
    if (left.aborted) {
      // Nobody reads any more, and the stream takes nothing.
      return;
    }
    if (result.done === true) {
      close();
      controller.enqueue(encodeFrame(frameKind.end, new Uint8Array(0)));
      controller.close();
    } else {
      controller.enqueue(
        encodeFrame(frameKind.message, toBinary(GenerateResponseSchema, result.value)),
      );
    }
  } catch (error) {
    close();
    if (!(error instanceof ConnectError)) {
      console.error("the stream of a turn failed:", error);
    }
    controller.enqueue(encodeErrorFrame(publicError(error)));
    controller.close();
  }
}
