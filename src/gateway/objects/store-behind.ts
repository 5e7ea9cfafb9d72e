/**
 * Stores behind what is shown. A turn's text is shown as it comes, and what changed is written storeBehindMs after the first change
 * that waits, unless something stores it before: a turn's end, or a call that is told of it. So an answer waits for no disk, a turn
 * that ends soon is one commit, and a long one four a second however fast its tokens come.
 */
import { errorFields } from "../../log/log-line.js";
import { storeBehindMs } from "../limits.js";
import { log } from "../log.js";
import type { Clock } from "./clock.js";
import type { SessionStore } from "./session-store.js";

/** What storing behind works with. */
export interface StoreBehindOptions {
  readonly store: Pick<SessionStore, "commit" | "onWaiting" | "sync" | "waiting">;
  readonly clock: Pick<Clock, "timer">;
  /** Something is about to be stored: what belongs to it can still be stored with it. */
  readonly before: () => void;
  /** Something was stored in its own time, by nobody who would tell of it. */
  readonly after: () => void;
}

/** See the head of this file. One a session. */
export class StoreBehind {
  readonly #options: StoreBehindOptions;
  /** Drops the timer; undefined while none runs. */
  #drop: (() => void) | undefined;

  /** Stores nothing yet. */
  constructor(options: StoreBehindOptions) {
    this.#options = options;
    options.store.onWaiting(() => {
      this.#drop ??= options.clock.timer(storeBehindMs, this.#onTime);
    });
  }

  /** Stores all that waits now; resolves once it is durable. */
  async now(): Promise<void> {
    this.#drop?.();
    this.#drop = undefined;
    await this.#options.store.sync(this.#options.before);
  }

  readonly #onTime = (): void => {
    this.#drop = undefined;
    const { after, before, store } = this.#options;
    if (!store.waiting) {
      return;
    }
    try {
      before();
      store.commit();
    } catch (error) {
      // Memory has forgotten what storage did not take, and whoever works with it finds that out.
      log("error", "session.not_stored", errorFields(error, "stack"));
      return;
    }
    after();
  };
}
