/**
 * WorkerService.Generate, read without Connect's client: a turn is one such call, and the way of its events through a
 * general client's layers took an eighth of a turn. It speaks Connect's protocol for streams: an envelope of five bytes and a
 * message, the last one JSON that holds the error, if there is one. What it says of errors is what Connect's client says.
 */
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import {
  createEndStreamSerialization,
  endStreamFlag,
  validateResponseWithCompression,
} from "@connectrpc/connect/protocol-connect";
import {
  GenerateRequestSchema,
  GenerateResponseSchema,
  WorkerService,
} from "../../gen/leanedge/worker/v1/worker_pb.js";
import type { GenerateRequest, GenerateResponse } from "../../gen/leanedge/worker/v1/worker_pb.js";
import { FrameBuffer, encodeFrame } from "../connect/frame-buffer.js";
import type { Frame } from "../connect/frame-buffer.js";
import { defaultRpcLimits } from "../connect/rpc-limits.js";
import { refuseRedirect } from "../connect/worker-transport.js";
import type { Fetching } from "../connect/worker-transport.js";
import { streamEndBytesMax, streamEndMsMax } from "../limits.js";
import { systemClock } from "../objects/clock.js";
import type { Clock } from "../objects/clock.js";
import type { StopSignal } from "../objects/stop.js";

/** Flag of an envelope whose message is compressed; nobody here asks for that. */
const compressedFlag = 0b00000001;
const endOfStream = createEndStreamSerialization(undefined);
const path = `${WorkerService.typeName}/${WorkerService.method.generate.name}`;

/** Where a call goes. */
export interface GenerateTarget {
  /** Carries the request. */
  readonly fetcher: Fetching;
  /** Where the service is mounted, without a trailing slash. */
  readonly baseUrl: string;
  /** Sent as `authorization: Bearer` if given. */
  readonly token: string | undefined;
}

/** What a call may come with. */
export interface GenerateOptions {
  /** Ends it. */
  readonly signal?: StopSignal | undefined;
  /** Whose timers it uses; the runtime's own if unset. */
  readonly clock?: Pick<Clock, "timer"> | undefined;
}

/**
 * One call; its events are read once. It begins with the first `next`, and is over with the signal, with `return`, or after
 * `finished` or `prefixMissing`, whose worker has no more to say: the rest of the stream is then read aside, so that the
 * connection can carry the next call, and the signal means nothing any more.
 */
export class GenerateCall implements AsyncIterableIterator<GenerateResponse> {
  readonly #target: GenerateTarget;
  readonly #request: GenerateRequest;
  readonly #caller: StopSignal | undefined;
  readonly #clock: Pick<Clock, "timer">;
  /** Ends the request to the worker. */
  readonly #gone = new AbortController();
  readonly #frames = new FrameBuffer(
    defaultRpcLimits.messageWriteBytesMax,
    (bytes, bytesMax) =>
      new ConnectError(
        `message size ${bytes} is larger than configured readMaxBytes ${bytesMax}`,
        Code.ResourceExhausted,
      ),
  );
  #reader: ReadableStreamDefaultReader<Uint8Array> | undefined;
  #head: Headers | undefined;
  #over = false;
  readonly #onAbort = (): void => {
    this.#gone.abort(this.#caller?.reason);
  };

  /** Sends nothing yet. */
  constructor(target: GenerateTarget, request: GenerateRequest, options: GenerateOptions = {}) {
    this.#target = target;
    this.#request = request;
    this.#caller = options.signal;
    this.#clock = options.clock ?? systemClock;
  }

  /** Itself. */
  [Symbol.asyncIterator](): this {
    return this;
  }

  /** An event came with the one before, or the end: the next call of `next` waits for nothing. */
  get ready(): boolean {
    return this.#over || this.#frames.hasFrame;
  }

  /** The next event. Rejects with a ConnectError, as Connect's client does, and is over then. */
  async next(): Promise<IteratorResult<GenerateResponse, undefined>> {
    if (this.#over) {
      return { done: true, value: undefined };
    }
    try {
      const reader = this.#reader ?? (await this.#open());
      for (;;) {
        const frame = this.#frames.take();
        if (frame === undefined) {
          const chunk = await reader.read();
          if (!chunk.done) {
            this.#frames.add(chunk.value);
            continue;
          }
          throw new ConnectError(
            this.#frames.byteLength > 0
              ? "protocol error: incomplete envelope"
              : "protocol error: missing EndStreamResponse",
            Code.InvalidArgument,
          );
        }
        if ((frame.kind & compressedFlag) !== 0) {
          throw new ConnectError(
            "received compressed envelope, but do not know how to decompress",
            Code.Internal,
          );
        }
        if ((frame.kind & endStreamFlag) !== 0) {
          this.#end(frame);
          this.#settle(reader);
          return { done: true, value: undefined };
        }
        const value = parse(frame);
        if (value.event.case === "finished" || value.event.case === "prefixMissing") {
          this.#settle(reader);
        }
        return { done: false, value };
      }
    } catch (error) {
      const { aborted } = this.#gone.signal;
      this.#leave();
      throw aborted
        ? new ConnectError("the call was aborted", Code.Canceled, undefined, undefined, error)
        : ConnectError.from(error);
    }
  }

  /** Gives the rest up: the worker sees its client leave. */
  return(): Promise<IteratorResult<GenerateResponse, undefined>> {
    if (!this.#over) {
      this.#leave();
    }
    return Promise.resolve({ done: true, value: undefined });
  }

  async #open(): Promise<ReadableStreamDefaultReader<Uint8Array>> {
    const { baseUrl, fetcher, token } = this.#target;
    const url = `${baseUrl}/${path}`;
    if (this.#caller?.aborted === true) {
      this.#gone.abort(this.#caller.reason);
      throw this.#gone.signal.reason;
    }
    this.#caller?.addEventListener("abort", this.#onAbort, { once: true });
    const message = toBinary(GenerateRequestSchema, this.#request);
    if (message.byteLength > defaultRpcLimits.messageReadBytesMax) {
      throw new ConnectError(
        `message size ${message.byteLength} is larger than configured writeMaxBytes ${defaultRpcLimits.messageReadBytesMax}`,
        Code.ResourceExhausted,
      );
    }
    const response = await fetcher.fetch(url, {
      method: "POST",
      redirect: "manual",
      headers: {
        "content-type": "application/connect+proto",
        "connect-protocol-version": "1",
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
      },
      body: encodeFrame(0, message),
      signal: this.#gone.signal,
    });
    await refuseRedirect(url, response);
    validateResponseWithCompression(
      WorkerService.method.generate.methodKind,
      [],
      true,
      response.status,
      response.headers,
    );
    if (response.body === null) {
      throw new ConnectError("protocol error: missing EndStreamResponse", Code.InvalidArgument);
    }
    this.#head = response.headers;
    const reader = (response.body as ReadableStream<Uint8Array>).getReader();
    this.#reader = reader;
    return reader;
  }

  /** The worker's own end. Throws the error that it holds, with the head of the response, as Connect's client does. */
  #end({ payload }: Frame): void {
    const { error } = endOfStream.parse(payload);
    if (error !== undefined) {
      this.#head?.forEach((value, name) => error.metadata.append(name, value));
      throw error;
    }
  }

  /** All was said: the signal means nothing any more, and the end is read aside. */
  #settle(reader: ReadableStreamDefaultReader<Uint8Array>): void {
    this.#over = true;
    this.#caller?.removeEventListener("abort", this.#onAbort);
    // Beside whatever the last event leads to; it never rejects.
    void this.#readEnd(reader);
  }

  #leave(): void {
    this.#over = true;
    this.#caller?.removeEventListener("abort", this.#onAbort);
    this.#gone.abort();
    // A connection that is broken already has nothing to give up.
    this.#reader?.cancel().catch(() => undefined);
  }

  /** Reads a stream that has said all to its end; never rejects. */
  async #readEnd(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<void> {
    const dropTimer = this.#clock.timer(streamEndMsMax, () => this.#gone.abort());
    try {
      for (let bytes = 0; bytes <= streamEndBytesMax;) {
        const chunk = await reader.read();
        if (chunk.done) {
          return;
        }
        bytes += chunk.value.byteLength;
      }
      await reader.cancel();
    } catch {
      // The worker closed the connection in another way, which costs the next call a new one.
    } finally {
      dropTimer();
    }
  }
}

function parse({ payload }: Frame): GenerateResponse {
  try {
    return fromBinary(GenerateResponseSchema, payload);
  } catch (cause) {
    const said = cause instanceof Error ? cause.message : String(cause);
    throw new ConnectError(`parse binary: ${said}`, Code.Internal);
  }
}
