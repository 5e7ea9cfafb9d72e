import type { UniversalServerResponse } from "@connectrpc/connect/protocol";
import { ClientGoneError } from "./call-end.js";
import { RequestBody } from "./request-body.js";
import type { DiscardLimits } from "./request-body.js";

/** `encodeBody: "manual"` tells workerd that a body with a `content-encoding` is encoded already. */
interface RuntimeResponseInit extends ResponseInit {
  encodeBody?: "automatic" | "manual";
}

/**
 * One HTTP exchange seen from Connect: the request's bytes, one signal that aborts only when the client goes away before
 * the response is complete, and the way back to a `Response`.
 *
 * Connect's own fetch adapter is not used because it takes the request's signal as it is (it cannot tell a client that
 * left from one that was served), reads ahead of a slow client, and lets the runtime compress what is compressed.
 */
export class Exchange {
  /** Aborts with a `ClientGoneError`, and only when the client left early. */
  readonly signal: AbortSignal;
  /** The request's body; not locked before the first read. */
  readonly body: AsyncIterable<Uint8Array>;
  readonly #clientGone = new AbortController();
  readonly #requestSignal: AbortSignal;
  readonly #onRequestAbort: () => void;
  readonly #input: RequestBody;

  /** Starts to watch the request's signal; `complete` (or the end of the response) ends that. */
  constructor(request: Request, limits: DiscardLimits) {
    this.signal = this.#clientGone.signal;
    this.#requestSignal = request.signal;
    this.#onRequestAbort = () => this.#leave(request.signal.reason);
    if (request.signal.aborted) {
      this.#onRequestAbort();
    } else {
      request.signal.addEventListener("abort", this.#onRequestAbort, { once: true });
    }
    this.#input = new RequestBody(request, limits);
    this.body = this.#input.chunks();
  }

  /** Makes the `Response`; a streamed body is pulled at the client's pace, one chunk at a time. */
  async respond(universal: UniversalServerResponse): Promise<Response> {
    const headers = new Headers(universal.header);
    const init: RuntimeResponseInit = { status: universal.status, headers };
    if (headers.has("content-encoding")) {
      init.encodeBody = "manual";
    }
    if (universal.body === undefined) {
      await this.#input.discardRest();
      this.complete();
      return new Response(null, init);
    }
    if (headers.has("content-length")) {
      // Unary Connect: the bytes are there already, and a fixed body keeps its length on the wire.
      const bytes = await collect(universal.body);
      await this.#input.discardRest();
      this.complete();
      return new Response(bytes, init);
    }
    return new Response(this.#stream(universal.body), init);
  }

  /** Makes a `Response` of one whose body goes on as it is; its bytes are not compressed, whatever Connect meant to do. */
  async pass({ body }: Response, header: HeadersInit | undefined): Promise<Response> {
    const headers = new Headers(header);
    headers.delete("connect-content-encoding");
    headers.delete("grpc-encoding");
    await this.#input.discardRest();
    return new Response(body, { headers });
  }

  /** Nothing the client does from here on counts as leaving early. */
  complete(): void {
    this.#requestSignal.removeEventListener("abort", this.#onRequestAbort);
  }

  #leave(cause: unknown): void {
    this.complete();
    this.#clientGone.abort(new ClientGoneError(cause));
  }

  #stream(body: AsyncIterable<Uint8Array>): ReadableStream<Uint8Array> {
    const iterator = body[Symbol.asyncIterator]();
    return new ReadableStream<Uint8Array>(
      {
        pull: async (controller) => {
          let result: IteratorResult<Uint8Array>;
          try {
            result = await iterator.next();
          } catch (error) {
            this.complete();
            throw error;
          }
          if (result.done === true) {
            // The client has the whole answer by now: leaving from here on is its right.
            this.complete();
            await this.#input.discardRest();
            controller.close();
          } else {
            controller.enqueue(result.value);
          }
        },
        cancel: async (reason) => {
          this.#leave(reason);
          try {
            await iterator.throw?.(this.signal.reason);
          } catch {
            // A generator that is told to stop throws the reason back, and it has nobody left to tell.
          }
        },
      },
      // No read-ahead: a message is asked for when the client takes it.
      { highWaterMark: 0 },
    );
  }
}

async function collect(body: AsyncIterable<Uint8Array>): Promise<Uint8Array<ArrayBuffer>> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of body) {
    chunks.push(chunk);
    length += chunk.byteLength;
  }
  const bytes = new Uint8Array(length);
  let offset = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, offset);
    offset += chunk.byteLength;
  }
  return bytes;
}
