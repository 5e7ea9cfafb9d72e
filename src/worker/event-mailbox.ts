/**
 * Where a job's events wait for its stream. Writers never block; there is one reader. Nothing is
 * queued one by one: a wake-up says that there is something to look at.
 */
export class EventMailbox {
  #woken = false;
  #failure: Error | undefined;
  #resolve: (() => void) | undefined;

  /** Something is there to look at. */
  wake(): void {
    this.#woken = true;
    this.#resolve?.();
  }

  /** The reader's next wait throws. */
  fail(error: Error): void {
    this.#failure ??= error;
    this.wake();
  }

  /**
   * Waits for a wake-up, or for the time to pass.
   * @returns whether there was a wake-up
   * @throws what `fail` was given
   */
  async wait(timeoutMs: number): Promise<boolean> {
    if (!this.#woken) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, timeoutMs);
        this.#resolve = () => {
          clearTimeout(timer);
          resolve();
        };
      });
      this.#resolve = undefined;
    }
    const woken = this.#woken;
    this.#woken = false;
    if (this.#failure !== undefined) throw this.#failure;
    return woken;
  }
}
