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
    const abort = rejectOnAbort(request.signal);
    try {
      response = await Promise.race([next(checked), abort.promise]);
    } catch (error) {
      failed(error);
      throw error;
    } finally {
      abort.release();
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
  let done = false;
  try {
    for (;;) {
      const abort = rejectOnAbort(signal);
      let result: IteratorResult<T>;
      try {
        result = await Promise.race([iterator.next(), abort.promise]);
      } finally {
        abort.release();
      }
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
    if (!done) {
      // The implementation may be stuck in an await, so its clean-up is not waited for; an error of a generator that
      // was told to stop has nobody left to tell.
      iterator.return?.().catch(() => undefined);
    }
  }
}

/** A promise that rejects with the signal's reason; `release` drops the listener. */
function rejectOnAbort(signal: AbortSignal): { promise: Promise<never>; release(): void } {
  let release = (): void => undefined;
  const promise = new Promise<never>((_, reject) => {
    function onAbort(): void {
      reject(asError(getAbortSignalReason(signal)));
    }
    if (signal.aborted) {
      onAbort();
      return;
    }
    signal.addEventListener("abort", onAbort, { once: true });
    release = () => signal.removeEventListener("abort", onAbort);
  });
  return { promise, release };
}

function asError(reason: unknown): Error {
  return reason instanceof Error ? reason : new Error(String(reason));
}
