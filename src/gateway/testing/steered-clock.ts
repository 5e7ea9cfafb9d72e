/** A clock that only moves when a test moves it. */
import type { Clock } from "../objects/clock.js";
import type { StopSignal } from "../objects/stop.js";

interface Sleeper {
  readonly untilMs: number;
  readonly wake: () => void;
}

/** See the head of this file. */
export class SteeredClock implements Clock {
  #nowMs = 1_000_000;
  #sleepers: Sleeper[] = [];

  /** Sleeps that are under way, in milliseconds from now, shortest first. */
  get sleeping(): number[] {
    return this.#sleepers.map(({ untilMs }) => untilMs - this.#nowMs).sort((a, b) => a - b);
  }

  nowMs(): number {
    return this.#nowMs;
  }

  sleep(ms: number, signal?: StopSignal): Promise<void> {
    return new Promise((resolve) => {
      if (signal?.aborted === true) {
        resolve();
        return;
      }
      const sleeper: Sleeper = {
        untilMs: this.#nowMs + ms,
        wake: () => {
          this.#sleepers = this.#sleepers.filter((other) => other !== sleeper);
          resolve();
        },
      };
      this.#sleepers.push(sleeper);
      signal?.addEventListener("abort", sleeper.wake, { once: true });
    });
  }

  timer(ms: number, wake: () => void): () => void {
    const sleeper: Sleeper = {
      untilMs: this.#nowMs + ms,
      wake: () => {
        drop();
        wake();
      },
    };
    const drop = (): void => {
      this.#sleepers = this.#sleepers.filter((other) => other !== sleeper);
    };
    this.#sleepers.push(sleeper);
    return drop;
  }

  /** Moves on, and lets everything that was due run. */
  async advance(ms: number): Promise<void> {
    this.#nowMs += ms;
    for (const sleeper of [...this.#sleepers]) {
      if (sleeper.untilMs <= this.#nowMs) sleeper.wake();
    }
    await settle();
  }
}

/** Lets all that can run without time run. */
export async function settle(): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, 15));
}
