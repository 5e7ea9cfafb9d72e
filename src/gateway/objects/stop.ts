/**
 * Stopping without the runtime. An AbortController and each listener of its signal are calls into the runtime, and an answer made
 * four of them and a dozen listeners: what only our own code hears of is a Stop. What the runtime or Connect has to hear of as
 * well takes an AbortController of its own, where the call is made.
 */

/** What whoever stops with something needs of it. An AbortSignal is one, too. */
export interface StopSignal {
  readonly aborted: boolean;
  /** Why; undefined before. */
  readonly reason: unknown;
  throwIfAborted(): void;
  addEventListener(type: "abort", listener: () => void, options?: { once?: boolean }): void;
  removeEventListener(type: "abort", listener: () => void): void;
}

/** Both sides of it: who holds one may stop, who gets it as a StopSignal may only hear of it. */
export class Stop implements StopSignal {
  #aborted = false;
  readonly #listeners = new Set<() => void>();

  /** Whether it was stopped. */
  get aborted(): boolean {
    return this.#aborted;
  }

  get reason(): Error | undefined {
    return this.#aborted ? new Error("stopped") : undefined;
  }

  /** Tells all who listen, once; who listens later hears nothing and has to look. */
  stop(): void {
    if (this.#aborted) {
      return;
    }
    this.#aborted = true;
    const listeners = [...this.#listeners];
    this.#listeners.clear();
    for (const listener of listeners) {
      listener();
    }
  }

  throwIfAborted(): void {
    const { reason } = this;
    if (reason !== undefined) {
      throw reason;
    }
  }

  /** Each listener is called once at most, whatever the options of an AbortSignal would say. */
  addEventListener(_type: "abort", listener: () => void): void {
    this.#listeners.add(listener);
  }

  removeEventListener(_type: "abort", listener: () => void): void {
    this.#listeners.delete(listener);
  }
}

/** A controller that aborts with a signal, for calls of the runtime and of Connect; `release` it once they are over. */
export function controllerOf(signal: StopSignal): {
  readonly controller: AbortController;
  readonly release: () => void;
} {
  const controller = new AbortController();
  const onAbort = (): void => controller.abort();
  if (signal.aborted) {
    onAbort();
  } else {
    signal.addEventListener("abort", onAbort, { once: true });
  }
  return { controller, release: () => signal.removeEventListener("abort", onAbort) };
}
