/**
 * How long what is to be stored waits for more of it. Storing takes an instant on a quiet machine, and then nothing waits. On a
 * busy one a commit is behind those of all other sessions, and so is every event that it lets go: the longer commits took of
 * late, the more goes into one. Late means later than the quickest of late: where every commit takes its time because storage is
 * far away, as on Cloudflare, an idle machine would gain nothing from waiting, and streams go on at once. What waits is not
 * shown, so nothing that anybody was told is ever lost by it.
 */
import { commitPauseMsMax, commitQuietMs } from "../limits.js";

/** Share of the newest commit in the mean. */
const newest = 1 / 8;
/** How far one commit pulls the quickest of late up to the mean: some hundreds later it is that of a new place, or another disk. */
const forgetting = 1 / 256;
/** A commit that takes so many times the quickest one waited for others. */
const quietTimes = 2;
/**
 * How many commits' time changes wait. A commit that is late is so because everything is: what a worker sent at one moment is
 * then read piece by piece, each a turn of the event loop later, and a pause must hold several of these to be worth it.
 */
const commitsWaited = 8;

/** See the head of this file. */
export class CommitPace {
  #meanMs = 0;
  #leastMs = Infinity;

  /** A commit took so long, from when it was made until it was known to be durable; milliseconds. */
  took(ms: number): void {
    const tookMs = Math.min(ms, commitPauseMsMax);
    if (this.#leastMs === Infinity) {
      // The first one says nothing of others yet.
      this.#meanMs = tookMs;
      this.#leastMs = tookMs;
      return;
    }
    this.#meanMs += (tookMs - this.#meanMs) * newest;
    const leastMs = this.#leastMs + Math.max(0, this.#meanMs - this.#leastMs) * forgetting;
    this.#leastMs = Math.min(tookMs, leastMs);
  }

  /** How long changes should wait for others, milliseconds: 0 on a quiet machine, commitPauseMsMax at most. */
  get pauseMs(): number {
    const quietMs = Math.max(
      commitQuietMs,
      this.#leastMs === Infinity ? 0 : quietTimes * this.#leastMs,
    );
    const lateMs = Math.max(0, this.#meanMs - quietMs);
    return Math.min(commitsWaited * lateMs, commitPauseMsMax);
  }
}

/** The pace of all sessions of this isolate: they wait for the same disk, and for each other. */
export const isolatePace = new CommitPace();
