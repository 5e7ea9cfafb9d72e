/**
 * Commits of the sessions of one object. Each costs a sync of the disk, and a page of the database that several change is written
 * by each of them, so where many turns run those that end within a few milliseconds are stored together.
 */
import { commitGroupMsMax, commitGroupTurns } from "../limits.js";
import type { Clock } from "./clock.js";

/** Whoever stores what sessions change. */
export interface Commits {
  /** Has `write` called, at once or with what others write; resolves once that is durable. Rejects with what it throws. */
  store(write: () => void): Promise<void>;
}

/** What becomes durable. */
interface Durable {
  /** Resolves once all that was written is. */
  sync(): Promise<void>;
}

/** Stores each session's changes by themselves, at once. */
export function singleCommits(storage: Durable): Commits {
  return {
    store: (write) => {
      write();
      return storage.sync();
    },
  };
}

/** How long a commit waits for others, in milliseconds, where so many turns run. */
export function commitGroupMs(turns: number): number {
  return Math.min(Math.floor(turns / commitGroupTurns), commitGroupMsMax);
}

/** What a group works with. */
export interface CommitGroupOptions {
  readonly storage: Durable;
  readonly clock: Pick<Clock, "timer">;
  /** Turns that run now, in this object or beside it. */
  readonly turns: () => number;
}

interface Waiting {
  readonly write: () => void;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** See the head of this file. */
export class CommitGroup implements Commits {
  readonly #options: CommitGroupOptions;
  #waiting: Waiting[] = [];

  /** Stores nothing yet. */
  constructor(options: CommitGroupOptions) {
    this.#options = options;
  }

  store(write: () => void): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ write, resolve, reject });
      if (this.#waiting.length > 1) {
        return;
      }
      const { clock, turns } = this.#options;
      const ms = commitGroupMs(turns());
      if (ms === 0) {
        this.#flush();
      } else {
        clock.timer(ms, () => {
          this.#flush();
        });
      }
    });
  }

  #flush(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    const written = waiting.filter(({ reject, write }) => {
      try {
        write();
        return true;
      } catch (error) {
        reject(error);
        return false;
      }
    });
    if (written.length === 0) {
      return;
    }
    this.#options.storage.sync().then(
      () => {
        for (const { resolve } of written) resolve();
      },
      (error: unknown) => {
        for (const { reject } of written) reject(error);
      },
    );
  }
}
