import { Code, ConnectError } from "@connectrpc/connect";
import type { RpcLimits } from "./rpc-limits.js";

/** How much of an unwanted body is read, and for how long. */
export type DiscardLimits = Pick<RpcLimits, "discardBytesMax" | "discardMsMax">;

/**
 * A request's body that may be read in part: what an implementation leaves is dropped before the answer ends, because
 * closing a connection while its client still sends can cost the client the answer.
 */
export class RequestBody {
  readonly #limits: DiscardLimits;
  readonly #request: Request;
  /** Undefined when the request has no body. */
  readonly #stream: ReadableStream<Uint8Array> | undefined;
  /** Set by the first read; a body that nobody reads is not locked. */
  #reader: ReadableStreamDefaultReader<Uint8Array> | undefined;
  #ended: boolean;

  /** Takes the body over: nobody else may read it. */
  constructor(request: Request, limits: DiscardLimits) {
    this.#limits = limits;
    this.#request = request;
    this.#stream = (request.body as ReadableStream<Uint8Array> | null) ?? undefined;
    this.#ended = this.#stream === undefined;
  }

  /**
   * All of the body at once, where the request says how long it is and that is `bytesMax` at most; the runtime holds the
   * client to that. Undefined where it does not say so: then `chunks` reads it. Throws CANCELED when the client breaks off.
   */
  async whole(bytesMax: number): Promise<Uint8Array | undefined> {
    const length = Number(this.#request.headers.get("content-length") ?? NaN);
    if (this.#ended || this.#reader !== undefined || !(length <= bytesMax)) {
      return undefined;
    }
    this.#ended = true;
    try {
      return new Uint8Array(await this.#request.arrayBuffer());
    } catch (cause) {
      throw brokenOff(cause);
    }
  }

  /** The body's chunks. Throws CANCELED when the client breaks off. */
  async *chunks(): AsyncGenerator<Uint8Array, void, undefined> {
    try {
      for (;;) {
        const chunk = await this.#read();
        if (chunk === undefined) {
          return;
        }
        yield chunk;
      }
    } catch (cause) {
      throw brokenOff(cause);
    }
  }

  /** Reads what is left, within the bounds, and gives the rest up. Never rejects. */
  async discardRest(): Promise<void> {
    if (this.#ended) {
      return;
    }
    const { discardBytesMax, discardMsMax } = this.#limits;
    let stopTimer = (): void => undefined;
    const timeUp = new Promise<undefined>((resolve) => {
      const timer = setTimeout(() => resolve(undefined), discardMsMax);
      stopTimer = () => clearTimeout(timer);
    });
    let bytes = 0;
    try {
      while (bytes <= discardBytesMax) {
        const chunk = await Promise.race([this.#read(), timeUp]);
        if (chunk === undefined) {
          break;
        }
        bytes += chunk.byteLength;
      }
      if (!this.#hasEnded()) {
        await this.#reader?.cancel();
      }
    } catch {
      // The client broke off, which is one way for the rest not to come.
    } finally {
      stopTimer();
    }
  }

  /** A function of its own because the compiler does not know that reading changes it. */
  #hasEnded(): boolean {
    return this.#ended;
  }

  async #read(): Promise<Uint8Array | undefined> {
    if (this.#ended || this.#stream === undefined) {
      return undefined;
    }
    this.#reader ??= this.#stream.getReader();
    try {
      const result = await this.#reader.read();
      if (result.done) {
        this.#ended = true;
        return undefined;
      }
      return result.value;
    } catch (error) {
      this.#ended = true;
      throw error;
    }
  }
}

function brokenOff(cause: unknown): ConnectError {
  return new ConnectError("the request body broke off", Code.Canceled, undefined, undefined, cause);
}
