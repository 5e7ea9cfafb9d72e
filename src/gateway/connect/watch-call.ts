import { ConnectError } from "@connectrpc/connect";
import type { Interceptor, StreamResponse, UnaryResponse } from "@connectrpc/connect";
import { getAbortSignalReason } from "@connectrpc/connect/protocol";
import { blameClientInMessages } from "./parse-failure.js";
import { callProgressKey } from "./call-end.js";
import type { CallProgress } from "./call-end.js";

/**
 * The outermost interceptor of a mount: it notes how the implementation ended, reports what nobody expected, and ends
 * the answer at the deadline even if the implementation does not look at its signal.
 */
export function createCallWatcher(
  onUnexpectedError: (error: unknown, procedure: string, requestId: string | undefined) => void,
): Interceptor {
  return (next) => async (request) => {
    const progress = request.contextValues.get(callProgressKey);
    if (progress !== undefined) {
      progress.reached = true;
    }
    const checked = request.stream
      ? { ...request, message: blameClientInMessages(request.message) }
      : request;
    const procedure = `${request.service.typeName}/${request.method.name}`;
    function failed(error: unknown): void {
      if (progress !== undefined && !request.signal.aborted) {
        progress.handler = "error";
      }
      if (!(error instanceof ConnectError) && !request.signal.aborted) {
        onUnexpectedError(error, procedure, progress?.requestId);
      }
    }
    let response: UnaryResponse | StreamResponse;
    const aborts = new AbortWatch(request.signal);
    try {
      response = await aborts.orAborted(next(checked));
    } catch (error) {
      failed(error);
      throw error;
    } finally {
      aborts.end();
    }
    if (!response.stream) {
      succeeded(progress);
      return response;
    }
    return {
      ...response,
      message: watchMessages(response.message, request.signal, progress, failed),
    };
  };
}

function succeeded(progress: CallProgress | undefined): void {
  if (progress !== undefined && progress.handler === "running") {
    progress.handler = "success";
  }
}

async function* watchMessages<T>(
  messages: AsyncIterable<T>,
  signal: AbortSignal,
  progress: CallProgress | undefined,
  failed: (error: unknown) => void,
): AsyncGenerator<T, void, undefined> {
  const iterator = messages[Symbol.asyncIterator]();
  const aborts = new AbortWatch(signal);
  let done = false;
  try {
    for (;;) {
      const result = await aborts.orAborted(iterator.next());
      if (result.done === true) {
        done = true;
        succeeded(progress);
        return;
      }
      yield result.value;
    }
  } catch (error) {
    failed(error);
    throw error;
  } finally {
    aborts.end();
    if (!done) {
      // The implementation may be stuck in an await, so its clean-up is not waited for; an error of a generator that
      // was told to stop has nobody left to tell.
      iterator.return?.().catch(() => undefined);
    }
  }
}

/** Ends waits when a signal aborts. It listens once, however many waits there are: an answer has thousands. */
class AbortWatch {
  readonly #signal: AbortSignal;
  #reject: (reason: Error) => void = () => undefined;
  readonly #onAbort = (): void => this.#reject(this.#reason());

  /** Listens until `end`. */
  constructor(signal: AbortSignal) {
    this.#signal = signal;
    signal.addEventListener("abort", this.#onAbort, { once: true });
  }

  /** What the promise gives, or the signal's reason as an error. One wait at a time. */
  orAborted<T>(promise: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#reject = reject;
      // Also where the signal speaks first: nobody else hears how the promise ends then.
      promise.then(resolve, reject);
      if (this.#signal.aborted) {
        this.#onAbort();
      }
    });
  }

  /** No more waits. */
  end(): void {
    this.#signal.removeEventListener("abort", this.#onAbort);
  }

  #reason(): Error {
    return asError(getAbortSignalReason(this.#signal));
  }
}

function asError(reason: unknown): Error {
  return reason instanceof Error ? reason : new Error(String(reason));
}
