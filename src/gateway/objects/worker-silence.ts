/**
 * How long an attempt waits for a worker that says nothing. A worker that computes gives signs of life several times a
 * second, so silence is a reason to doubt long before it is proof. Then the pool is asked, which hears of the worker's
 * process by another way: where it does not hear it either, the attempt is over after seconds. An answer has thousands of
 * waits: their timer stays from wait to wait, and is made anew only where the next look comes earlier.
 */
import { workerDoubtAskMs, workerDoubtMs, workerSilenceMsMax } from "../limits.js";
import { refreshBeside } from "../worker-client/directory.js";
import type { WorkerDirectory } from "../worker-client/directory.js";
import { timeIsUp } from "./clock.js";
import type { Clock } from "./clock.js";
import { WorkerFault } from "./worker-fault.js";

/** What a watch over one attempt needs. */
export interface WorkerSilenceOptions {
  /** Name of the worker. */
  readonly worker: string;
  readonly directory: Pick<WorkerDirectory, "standing" | "refresh">;
  readonly clock: Clock;
  /** Keeps work alive that nobody waits for. */
  readonly background: (work: Promise<unknown>) => void;
}

/** See the head of this file. */
export class WorkerSilence {
  readonly #options: WorkerSilenceOptions;
  #sinceMs: number;
  /** The pool was asked since the worker was last heard. */
  #asked = false;
  #dropTimer: (() => void) | undefined;
  /** When the timer comes. */
  #timerMs = Infinity;
  #wake = (): void => undefined;

  /** The silence begins now. */
  constructor(options: WorkerSilenceOptions) {
    this.#options = options;
    this.#sinceMs = options.clock.nowMs();
  }

  /** The worker was heard, or something else is done meanwhile: the silence begins anew. */
  heard(): void {
    this.#sinceMs = this.#options.clock.nowMs();
    this.#asked = false;
  }

  /**
   * Waits for what the worker says next, which ends the silence.
   *
   * @throws WorkerFault once the worker counts as lost
   */
  async wait<T>(promise: Promise<T>): Promise<T> {
    for (;;) {
      const nowMs = this.#options.clock.nowMs();
      this.#setTimer(nowMs, nowMs + this.#nextLookMs(nowMs));
      const result = await new Promise<T | typeof timeIsUp>((resolve, reject) => {
        this.#wake = () => resolve(timeIsUp);
        promise.then(resolve, reject);
      });
      if (result !== timeIsUp) {
        this.heard();
        return result;
      }
      this.#look();
    }
  }

  /** No more waits. */
  end(): void {
    this.#dropTimer?.();
    this.#dropTimer = undefined;
    this.#timerMs = Infinity;
  }

  #setTimer(nowMs: number, dueMs: number): void {
    if (dueMs >= this.#timerMs) {
      return;
    }
    this.#dropTimer?.();
    this.#timerMs = dueMs;
    this.#dropTimer = this.#options.clock.timer(dueMs - nowMs, () => {
      this.#dropTimer = undefined;
      this.#timerMs = Infinity;
      this.#wake();
    });
  }

  #nextLookMs(nowMs: number): number {
    const silentMs = nowMs - this.#sinceMs;
    return silentMs < workerDoubtMs
      ? workerDoubtMs - silentMs
      : Math.min(workerDoubtAskMs, workerSilenceMsMax - silentMs);
  }

  #look(): void {
    const { background, clock, directory, worker } = this.#options;
    const silentMs = clock.nowMs() - this.#sinceMs;
    if (silentMs >= workerSilenceMsMax) {
      throw new WorkerFault(`worker ${worker} was silent for ${workerSilenceMsMax} ms`);
    }
    if (silentMs < workerDoubtMs) {
      return;
    }
    if (this.#asked && directory.standing(worker).kind === "gone") {
      throw new WorkerFault(
        `worker ${worker} was silent for ${silentMs} ms, and its pool counts it as gone`,
      );
    }
    this.#asked = true;
    refreshBeside(directory, background, workerDoubtAskMs);
  }
}
