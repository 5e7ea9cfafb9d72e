/** Trying again: pauses that double, a server's own wishes, and two counts that end it. */
import { setTimeout as sleep } from "node:timers/promises";
import { PullError } from "./errors.js";
import { AttemptError } from "./http-client.js";
import type { PullLimits } from "./limits.js";

/** What `withRetries` needs beside the work. */
export interface RetryOptions {
  readonly limits: PullLimits;
  readonly signal: AbortSignal;
  /** Told before each pause. */
  readonly onRetry: (why: string, pauseMs: number) => void;
}

/**
 * Runs `attempt` until it returns. An AttemptError is tried again after a pause, within the bounds
 * of `limits`; any other error ends it.
 *
 * @param attempt gets a function to call when something new has arrived
 * @throws PullError `unreachable` or `rate-limited` after the last attempt, `stopped` by the signal
 */
export async function withRetries<T>(
  attempt: (progressed: () => void) => Promise<T>,
  { limits, signal, onRetry }: RetryOptions,
): Promise<T> {
  let fruitless = 0;
  for (let total = 1; ; total += 1) {
    stopIfAborted(signal);
    try {
      return await attempt(() => (fruitless = 0));
    } catch (error) {
      stopIfAborted(signal);
      if (!(error instanceof AttemptError)) throw error;
      fruitless += 1;
      if (fruitless >= limits.attemptsMax || total >= limits.attemptsTotalMax) {
        throw new PullError("unreachable", `${error.message} (after ${total} attempts)`, {
          cause: error,
        });
      }
      const pauseMs = pauseBefore(error, fruitless, limits);
      onRetry(error.message, pauseMs);
      await sleep(pauseMs, undefined, { signal }).catch(() => stopIfAborted(signal));
    }
  }
}

function pauseBefore(error: AttemptError, fruitless: number, limits: PullLimits): number {
  const own = Math.min(limits.backoffMs * 2 ** (fruitless - 1), limits.pauseMsMax);
  const asked = error.retryAfterMs ?? 0;
  if (asked > limits.pauseMsMax) {
    throw new PullError(
      "rate-limited",
      `${error.message}; it asks for a pause of ${Math.ceil(asked / 1_000)} s, at most ${limits.pauseMsMax / 1_000} s are waited`,
      { cause: error },
    );
  }
  return Math.max(own, asked);
}

/** Throws PullError `stopped` once the caller has given up. */
export function stopIfAborted(signal: AbortSignal): void {
  if (signal.aborted) throw new PullError("stopped", "stopped", { cause: signal.reason });
}
