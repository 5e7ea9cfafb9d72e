/** Time, as an argument where tests need to steer it. */

/** A clock and its timers. */
export interface Clock {
  /** Milliseconds since 1970. */
  nowMs(): number;
  /** Resolves after `ms`, or at once when the signal aborts; never rejects. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
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
};

/** What `within` gives when the time is up first. */
export const timeIsUp: unique symbol = Symbol("time is up");

/** The promise's value, or `timeIsUp` after `ms`; the promise goes on and may be waited for again. */
export async function within<T>(
  promise: Promise<T>,
  ms: number,
  clock: Clock,
): Promise<T | typeof timeIsUp> {
  const stop = new AbortController();
  try {
    return await Promise.race([
      promise,
      clock.sleep(ms, stop.signal).then((): typeof timeIsUp => timeIsUp),
    ]);
  } finally {
    stop.abort();
  }
}
