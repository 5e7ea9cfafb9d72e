/**
 * Keeps calls away from an engine that computes: while a device has a step pending, only `stats`
 * may be called. Backends that compute on the calling thread never have one pending between two
 * tasks, and then nothing here waits.
 */

/** See the head of this file. */
export class EngineGate {
  #pending: Promise<void> | undefined;

  /**
   * Runs a step and what follows from its result; nobody who waits for `quiet` goes on before both
   * are done. Steps do not overlap.
   */
  async pass(work: () => Promise<void>): Promise<void> {
    const passing = work();
    this.#pending = passing.catch(() => undefined);
    try {
      await passing;
    } finally {
      this.#pending = undefined;
    }
  }

  /**
   * Resolves while no step is pending. The engine may then be called until the caller waits for
   * something else: the next step begins in a later task.
   */
  async quiet(): Promise<void> {
    while (this.#pending !== undefined) await this.#pending;
  }

  /** Calls `work` now, or once no step is pending. */
  whenQuiet(work: () => void): void {
    if (this.#pending === undefined) work();
    else void this.#pending.then(() => this.whenQuiet(work));
  }
}
