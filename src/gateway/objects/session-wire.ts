/**
 * How the Worker and a SessionObject talk: one POST a call, whose answer is a stream of frames. Unlike Durable Object RPC
 * it keeps error codes, streams, and tells the object at once when the caller leaves. A frame is one byte of kind, four
 * bytes of length (big endian), and the payload. The last frame is `end` or `error`; without it the object was lost.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import { errorReason, errorReasonHeader, retryAfterHeader } from "../errors.js";

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

/** One frame. */
export interface Frame {
  /** One of frameKind. */
  readonly kind: number;
  /** Its bytes. */
  readonly payload: Uint8Array;
}

/** Largest payload of a frame: a page of messages, or a delta, with room. */
const payloadBytesMax = 8 * 1024 * 1024;
const headBytes = 5;

/** Writes a frame. */
export function encodeFrame(kind: number, payload: Uint8Array): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(headBytes + payload.byteLength);
  bytes[0] = kind;
  new DataView(bytes.buffer).setUint32(1, payload.byteLength);
  bytes.set(payload, headBytes);
  return bytes;
}

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
 * Reads frames up to the `end` frame, which is not given out. Throws the ConnectError of an `error` frame, and
 * ObjectLostError where the stream breaks off.
 */
export async function* decodeFrames(
  body: ReadableStream<Uint8Array>,
): AsyncGenerator<Frame, void, undefined> {
  const reader = body.getReader();
  let buffer = new Uint8Array(0);
  try {
    for (;;) {
      while (buffer.byteLength >= headBytes) {
        const length = new DataView(buffer.buffer, buffer.byteOffset).getUint32(1);
        if (length > payloadBytesMax) {
          throw new Error(`a frame of ${length} bytes is above the bound of ${payloadBytesMax}`);
        }
        if (buffer.byteLength < headBytes + length) {
          break;
        }
        const kind = buffer[0] ?? frameKind.end;
        const payload = buffer.slice(headBytes, headBytes + length);
        buffer = buffer.subarray(headBytes + length);
        if (kind === frameKind.end) {
          return;
        }
        if (kind === frameKind.error) {
          throw decodeError(payload);
        }
        yield { kind, payload };
      }
      const result = await readChunk(reader);
      if (result === undefined) {
        throw new ObjectLostError();
      }
      buffer = joined(buffer, result);
    }
  } finally {
    // Nobody reads on: the object sees its caller leave. After `end` this does nothing.
    reader.cancel().catch(() => undefined);
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

function joined(a: Uint8Array, b: Uint8Array): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(a.byteLength + b.byteLength);
  all.set(a, 0);
  all.set(b, a.byteLength);
  return all;
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
