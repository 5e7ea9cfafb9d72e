/**
 * Steps of one engine for readings that go side by side: those that wait for a step at the same moment
 * share it, so that a device answers many sequences at the price of one.
 *
 * An engine takes no other call while it computes. Whoever comes from elsewhere (a file was written, another
 * engine has answered) waits for `turn` first; who comes from `advance` may call at once, up to the next wait.
 */
import type { Engine, SequenceHandle, StepEntry, StepResult } from "../engine/engine.js";

/** Rows x layers of a step on the calling thread: a signal is looked at this often. */
const workHere = 1 << 14;
/** Elsewhere a whole prompt of 32,768 tokens through 32 layers is one step: the thread is free meanwhile. */
const workElsewhere = 1 << 20;

/** One reading that waits. */
interface Waiting {
  readonly entry: StepEntry;
  readonly resolve: (result: StepResult) => void;
  readonly reject: (error: unknown) => void;
}

/** See the head of this file. */
export class Stepper<E extends Engine = Engine> {
  readonly #workMax: number;
  #waiting: Waiting[] = [];
  #turns: (() => void)[] = [];
  #isStepping = false;
  #isRunning = false;

  constructor(readonly engine: E) {
    this.#workMax = engine.stepSync === undefined ? workElsewhere : workHere;
  }

  /** Settles once the engine takes calls: until the next wait of the caller no step begins. */
  async turn(): Promise<void> {
    while (this.#isStepping) await new Promise<void>((resolve) => this.#turns.push(resolve));
  }

  /** One step of a sequence, with those of all others that wait. @throws what it failed with */
  advance(sequence: SequenceHandle, sample: boolean): Promise<StepResult> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({
        entry: { sequence, workMax: this.#workMax, sample },
        resolve,
        reject,
      });
      if (this.#isRunning) return;
      this.#isRunning = true;
      // Never rejects: errors go to those who wait.
      void this.#run();
    });
  }

  async #run(): Promise<void> {
    do {
      // What the last step gave is dealt with first; other work of the process has its turn, a signal for example.
      await new Promise((resolve) => setImmediate(resolve));
      const taken = this.#waiting;
      this.#waiting = [];
      if (taken.length > 0) await this.#step(taken);
    } while (this.#waiting.length > 0);
    this.#isRunning = false;
  }

  async #step(taken: readonly Waiting[]): Promise<void> {
    const entries = taken.map(({ entry }) => entry);
    let results: readonly StepResult[] = [];
    let failed: { readonly error: unknown } | undefined;
    this.#isStepping = true;
    try {
      const { engine } = this;
      results = engine.stepSync?.(entries) ?? (await engine.step(entries));
    } catch (error) {
      failed = { error };
    }
    this.#isStepping = false;
    for (const resolve of this.#turns.splice(0)) resolve();
    for (const [index, { resolve, reject }] of taken.entries()) {
      const result = results[index];
      if (failed !== undefined) reject(failed.error);
      else if (result === undefined) reject(new Error(`entry ${index} of a step has no result`));
      else if (result.error !== undefined) reject(result.error);
      else resolve(result);
    }
  }
}

/**
 * Works through a list, so many at once. The first failure ends the others, each at its next look at
 * the signal, and is thrown when all have ended.
 *
 * @param atOnce at least 1
 */
export async function sideBySide<T>(
  items: readonly T[],
  atOnce: number,
  signal: AbortSignal,
  work: (item: T, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const failure = new AbortController();
  const either = AbortSignal.any([signal, failure.signal]);
  const queue = items.values();
  let first: { readonly error: unknown } | undefined;
  await Promise.all(
    Array.from({ length: Math.min(atOnce, items.length) }, async () => {
      try {
        for (const item of queue) {
          either.throwIfAborted();
          await work(item, either);
        }
      } catch (error) {
        first ??= { error };
        failure.abort(error);
      }
    }),
  );
  if (first !== undefined) throw first.error;
}
