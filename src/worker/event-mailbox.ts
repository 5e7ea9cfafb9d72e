/**
 * Where a job's events wait for its stream. Writers never block; there is one reader. Nothing is
 * queued one by one: a wake-up says that there is something to look at. With an interval the reader looks no more often than that:
 * what comes meanwhile is held, and taken together.
 */
export class EventMailbox {
  readonly #intervalMs: number;
  readonly #nowMs: () => number;
  #woken = false;
  #failure: Error | undefined;
  /** Something was there to look at before the failure: it comes first. */
  #owed = false;
  /** Nothing comes any more: nothing is held. */
  #ended = false;
  /** Until when what comes is held. */
  #holdsUntilMs = -Infinity;
  #holding = false;
  #resolve: (() => void) | undefined;

  /**
   * @param intervalMs least time between two wake-ups that the reader is told of; the first one is never held
   * @param nowMs a clock that never goes back; may stand still
   */
  constructor(intervalMs = 0, nowMs = () => performance.now()) {
    this.#intervalMs = intervalMs;
    this.#nowMs = nowMs;
  }

  /** Something is there to look at. */
  wake(): void {
    this.#woken = true;
    if (!this.#holding) this.#resolve?.();
  }

  /** As `wake`, for the last time: nothing is held any longer. */
  end(): void {
    this.#woken = true;
    this.#ended = true;
    this.#resolve?.();
  }

  /** The reader's next wait throws; with an interval, and something there that it did not look at, the one after. */
  fail(error: Error): void {
    if (this.#failure === undefined) {
      this.#failure = error;
      this.#owed = this.#woken && this.#intervalMs > 0;
    }
    this.end();
  }

  /**
   * Waits for a wake-up, or for the time to pass. A wake-up that is held may take an interval longer.
   * @returns whether there was a wake-up
   * @throws what `fail` was given
   */
  async wait(timeoutMs: number): Promise<boolean> {
    if (!this.#woken) await this.#sleep(timeoutMs);
    await this.#hold();
    if (this.#failure !== undefined && !this.#owed) throw this.#failure;
    this.#owed = false;
    const woken = this.#woken;
    this.#woken = this.#failure !== undefined;
    if (woken && this.#intervalMs > 0) this.#holdsUntilMs = this.#nowMs() + this.#intervalMs;
    return woken;
  }

  /** Waits until the reader may look at what is there. */
  async #hold(): Promise<void> {
    if (!this.#woken || this.#ended || this.#intervalMs === 0) return;
    const ms = this.#holdsUntilMs - this.#nowMs();
    if (ms <= 0) return;
    this.#holding = true;
    await this.#sleep(Math.ceil(ms));
    this.#holding = false;
  }

  async #sleep(ms: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#resolve = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.#resolve = undefined;
  }
}
