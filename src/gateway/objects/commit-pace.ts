/**
 * How long what is to be stored waits for more of it. Where few sessions store at once nothing waits, however long a commit
 * takes: storage may be far away, as on Cloudflare, or an engine computes in the same process, and streams go on at once. Where
 * many do, a commit is behind those of all others, and so is every event that it lets go: the longer commits took of late, the
 * more goes into one. What waits is not shown, so nothing that anybody was told is ever lost by it.
 */
import { commitLostMs, commitOthersQuiet, commitPauseMsMax, commitQuietMs } from "../limits.js";

/** Share of the newest commit in the means. */
const newest = 1 / 8;
/**
 * How many commits' time changes wait. A commit that is late is so because everything is: what a worker sent at one moment is
 * then read piece by piece, each a turn of the event loop later, and a pause must hold several of these to be worth it.
 */
const commitsWaited = 8;

/** See the head of this file. */
export class CommitPace {
  #meanMs = 0;
  #meanOthers = 0;
  /** Those that are under way, the oldest first. */
  readonly #begun = new Set<{ readonly ms: number }>();

  /** Waits until a commit is durable, and keeps in mind how long that took and how many others were under way. */
  async during(durable: () => Promise<void>, nowMs: () => number): Promise<void> {
    const begun = { ms: nowMs() };
    this.#forgetLost(begun.ms);
    this.#meanOthers += (this.#begun.size - this.#meanOthers) * newest;
    this.#begun.add(begun);
    try {
      await durable();
    } finally {
      this.#begun.delete(begun);
      this.#meanMs += (Math.min(nowMs() - begun.ms, commitPauseMsMax) - this.#meanMs) * newest;
    }
  }

  /** How long changes should wait for others, milliseconds: 0 where few sessions store at once, commitPauseMsMax at most. */
  get pauseMs(): number {
    if (this.#meanOthers <= commitOthersQuiet) {
      return 0;
    }
    const lateMs = Math.max(0, this.#meanMs - commitQuietMs);
    return Math.min(commitsWaited * lateMs, commitPauseMsMax);
  }

  /** A commit of an object that was taken away meanwhile never ends. */
  #forgetLost(nowMs: number): void {
    for (const begun of this.#begun) {
      if (nowMs - begun.ms < commitLostMs) {
        return;
      }
      this.#begun.delete(begun);
    }
  }
}

/** The pace of all sessions of this isolate: they wait for the same disk, and for each other. */
export const isolatePace = new CommitPace();
