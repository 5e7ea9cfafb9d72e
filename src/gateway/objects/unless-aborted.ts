/** Waiting that ends with a signal. */
import type { StopSignal } from "./stop.js";

/** A promise's value, or the signal's reason as a rejection once it aborts; the promise itself goes on, unheard. */
export async function unlessAborted<T>(promise: Promise<T>, signal: StopSignal): Promise<T> {
  let onAbort: (() => void) | undefined;
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => {
      reject(signal.reason instanceof Error ? signal.reason : new Error(String(signal.reason)));
    };
    if (signal.aborted) {
      onAbort();
    } else {
      signal.addEventListener("abort", onAbort, { once: true });
    }
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    if (onAbort !== undefined) {
      signal.removeEventListener("abort", onAbort);
    }
  }
}
