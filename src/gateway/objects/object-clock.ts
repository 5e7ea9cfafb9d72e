/**
 * The clock of one object, with one timer of the runtime for all of its timers. A turn waits for five things with a deadline each,
 * nearly all of which it drops again, and each was two calls into the runtime: here they are entries of a list, and the runtime's
 * timer is for the earliest of them. It is dropped when the list is empty: an object that waits for nothing has none. What time of day
 * it is does not matter to timers: a machine's clock may be set, and is after it slept.
 */
import { systemClock } from "./clock.js";
import type { Clock } from "./clock.js";
import type { StopSignal } from "./stop.js";

interface Entry {
  /** By `#passedMs`. */
  readonly dueMs: number;
  readonly wake: () => void;
}

/** See the head of this file. */
export class ObjectClock implements Clock {
  readonly #clock: Pick<Clock, "nowMs" | "timer">;
  /** Milliseconds since some moment, which nobody sets. */
  readonly #passedMs: () => number;
  readonly #entries = new Set<Entry>();
  #dropTimer: (() => void) | undefined;
  /** When the runtime's timer comes; never later than the earliest entry is due, at times earlier. */
  #timerMs = Infinity;

  /** @param clock whose timers it shares; the runtime's own by default */
  constructor(clock?: Pick<Clock, "nowMs" | "timer">) {
    this.#clock = clock ?? systemClock;
    this.#passedMs = clock === undefined ? () => performance.now() : () => clock.nowMs();
  }

  nowMs(): number {
    return this.#clock.nowMs();
  }

  sleep(ms: number, signal?: StopSignal): Promise<void> {
    return new Promise((resolve) => {
      if (signal?.aborted === true) {
        resolve();
        return;
      }
      const wake = (): void => {
        drop();
        signal?.removeEventListener("abort", wake);
        resolve();
      };
      const drop = this.timer(ms, wake);
      signal?.addEventListener("abort", wake, { once: true });
    });
  }

  timer(ms: number, wake: () => void): () => void {
    const entry = { dueMs: this.#passedMs() + ms, wake };
    this.#entries.add(entry);
    this.#arm(entry.dueMs);
    return () => {
      if (this.#entries.delete(entry) && this.#entries.size === 0) {
        this.#disarm();
      }
    };
  }

  #arm(dueMs: number): void {
    if (dueMs >= this.#timerMs) {
      return;
    }
    this.#disarm();
    this.#timerMs = dueMs;
    this.#dropTimer = this.#clock.timer(Math.ceil(dueMs - this.#passedMs()), this.#onTime);
  }

  #disarm(): void {
    this.#dropTimer?.();
    this.#dropTimer = undefined;
    this.#timerMs = Infinity;
  }

  readonly #onTime = (): void => {
    this.#dropTimer = undefined;
    this.#timerMs = Infinity;
    const nowMs = this.#passedMs();
    try {
      for (const entry of [...this.#entries]) {
        // One that wakes may drop others.
        if (entry.dueMs <= nowMs && this.#entries.delete(entry)) {
          entry.wake();
        }
      }
    } finally {
      let earliestMs = Infinity;
      for (const { dueMs } of this.#entries) {
        earliestMs = Math.min(earliestMs, dueMs);
      }
      this.#arm(earliestMs);
    }
  };
}
