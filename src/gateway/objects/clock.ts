/** Time, as an argument where tests need to steer it. */
import type { StopSignal } from "./stop.js";

/** A clock and its timers. */
export interface Clock {
  /** Milliseconds since 1970. */
  nowMs(): number;
  /** Resolves after `ms`, or at once when the signal aborts; never rejects. */
  sleep(ms: number, signal?: StopSignal): Promise<void>;
  /** Calls `wake` after `ms`; what it returns drops the timer. Costs a third of a sleep that a signal may end. */
  timer(ms: number, wake: () => void): () => void;
}

/** The runtime's own clock. */
export const systemClock: Clock = {
  nowMs: () => Date.now(),
  sleep(ms, signal) {
    return new Promise((resolve) => {
      if (signal?.aborted === true) {
        resolve();
        return;
      }
      const timer = setTimeout(finish, ms);
      function finish(): void {
        clearTimeout(timer);
        signal?.removeEventListener("abort", finish);
        resolve();
      }
      signal?.addEventListener("abort", finish, { once: true });
    });
  },
  timer(ms, wake) {
    const timer = setTimeout(wake, ms);
    return () => clearTimeout(timer);
  },
};

/** What `within` gives when the time is up first. */
export const timeIsUp: unique symbol = Symbol("time is up");

/** The promise's value, or `timeIsUp` after `ms`; the promise goes on and may be waited for again. */
export async function within<T>(
  promise: Promise<T>,
  ms: number,
  clock: Clock,
): Promise<T | typeof timeIsUp> {
  let drop = (): void => undefined;
  const up = new Promise<typeof timeIsUp>((resolve) => {
    drop = clock.timer(ms, () => resolve(timeIsUp));
  });
  try {
    return await Promise.race([promise, up]);
  } finally {
    drop();
  }
}
