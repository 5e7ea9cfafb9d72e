/**
 * How the Worker and a SessionObject talk: one POST a call, whose answer is a stream of frames. Unlike Durable Object RPC
 * it keeps error codes, streams, and tells the object at once when the caller leaves. The last frame is `end` or `error`;
 * without it the object was lost. A response with passHeader (session-name.ts) holds no frames: it is the client's.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import { FrameBuffer, encodeFrame } from "../connect/frame-buffer.js";
import type { Frame } from "../connect/frame-buffer.js";
import { errorReason, errorReasonHeader, retryAfterHeader } from "../errors.js";

export { encodeFrame, encodeFrames } from "../connect/frame-buffer.js";
export type { Frame } from "../connect/frame-buffer.js";

/** Kinds of frames. */
export const frameKind = {
  /** Protobuf bytes of the response message. */
  message: 0,
  /** JSON: `{code, message, reason, retryAfter}`. */
  error: 1,
  /** No payload. */
  end: 2,
  /** JSON: the call belongs to another session (ChatRedirect). */
  redirect: 3,
} as const;

/** Largest payload of a frame: a page of messages, or a delta, with room. */
const payloadBytesMax = 8 * 1024 * 1024;

/** Writes the last frame of a call that failed. */
export function encodeErrorFrame(error: ConnectError): Uint8Array<ArrayBuffer> {
  return encodeJsonFrame(frameKind.error, {
    code: error.code,
    message: error.rawMessage,
    reason: errorReason(error),
    retryAfter: error.metadata.get(retryAfterHeader) ?? "",
  });
}

/** Writes a frame of JSON. */
export function encodeJsonFrame(kind: number, value: unknown): Uint8Array<ArrayBuffer> {
  return encodeFrame(kind, new TextEncoder().encode(JSON.stringify(value)));
}

/** Reads the value of a JSON frame. */
export function decodeJson(payload: Uint8Array): unknown {
  return JSON.parse(new TextDecoder().decode(payload));
}

/**
 * Reads frames up to the `end` frame, which is not given out. Frames that came together are given out without waiting for
 * each, and before an error that came with them.
 */
export class FrameReader implements AsyncIterableIterator<Frame> {
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  readonly #buffer = new FrameBuffer(
    payloadBytesMax,
    (bytes, bytesMax) => new Error(`a frame of ${bytes} bytes is above the bound of ${bytesMax}`),
  );
  #over = false;

  /** Takes the body over. */
  constructor(body: ReadableStream<Uint8Array>) {
    this.#reader = body.getReader();
  }

  /** Itself. */
  [Symbol.asyncIterator](): this {
    return this;
  }

  /** The next frame. Throws the ConnectError of an `error` frame, and ObjectLostError where the stream breaks off. */
  async next(): Promise<IteratorResult<Frame, undefined>> {
    if (this.#over) {
      return { done: true, value: undefined };
    }
    try {
      for (;;) {
        const frame = this.#buffer.take();
        if (frame === undefined) {
          const chunk = await readChunk(this.#reader);
          if (chunk === undefined) {
            throw new ObjectLostError();
          }
          this.#buffer.add(chunk);
        } else if (frame.kind === frameKind.end) {
          this.#leave();
          return { done: true, value: undefined };
        } else if (frame.kind === frameKind.error) {
          throw decodeError(frame.payload);
        } else {
          return { done: false, value: frame };
        }
      }
    } catch (error) {
      this.#leave();
      throw error;
    }
  }

  /** Reads no more: before the end the object sees its caller leave. */
  return(): Promise<IteratorResult<Frame, undefined>> {
    this.#leave();
    return Promise.resolve({ done: true, value: undefined });
  }

  #leave(): void {
    if (!this.#over) {
      this.#over = true;
      this.#reader.cancel().catch(() => undefined);
    }
  }
}

/**
 * The session's object went away under a call. No ConnectError, whose `instanceof` does not tell subclasses apart:
 * SessionClient goes on with the call, or makes it UNAVAILABLE.
 */
export class ObjectLostError extends Error {
  override readonly name = "ObjectLostError";

  /** @param cause what the runtime said, if anything */
  constructor(cause?: unknown) {
    super("the session's object went away", { cause });
  }
}

async function readChunk(
  reader: ReadableStreamDefaultReader<Uint8Array>,
): Promise<Uint8Array | undefined> {
  try {
    const result = await reader.read();
    return result.done ? undefined : result.value;
  } catch (cause) {
    throw new ObjectLostError(cause);
  }
}

function decodeError(payload: Uint8Array): ConnectError {
  const value = decodeJson(payload);
  if (
    typeof value === "object" &&
    value !== null &&
    "code" in value &&
    "message" in value &&
    isCode(value.code) &&
    typeof value.message === "string"
  ) {
    const reason = "reason" in value && typeof value.reason === "string" ? value.reason : "";
    const after =
      "retryAfter" in value && typeof value.retryAfter === "string" ? value.retryAfter : "";
    return new ConnectError(value.message, value.code, {
      ...(reason === "" ? {} : { [errorReasonHeader]: reason }),
      ...(after === "" ? {} : { [retryAfterHeader]: after }),
    });
  }
  throw new Error("an error frame without code and message");
}

function isCode(value: unknown): value is Code {
  return typeof value === "number" && value in Code;
}
