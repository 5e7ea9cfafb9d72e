/**
 * Where a session goes that is bound nowhere: power of two choices over fresh load, rendezvous hashing between equals.
 * Pure: the draw comes in, so that a simulation and a test can repeat it.
 */
import { freePagesShareMin, placeQueuedMax } from "../limits.js";
import { highestWeight } from "./rendezvous.js";

/** Load of a worker when it last said so, and what was placed there since. */
export interface CandidateLoad {
  readonly running: number;
  readonly queued: number;
  /** Sequences held, idle ones included. */
  readonly sequences: number;
  /** Pages in all; 0 if not known. */
  readonly pages: number;
  /** Pages that are free, or that an idle cache could give back. */
  readonly pagesFree: number;
  /** Those among them that idle caches hold. */
  readonly pagesIdle: number;
  /** Sessions placed since that load was reported, and pages that came along with them or left. */
  readonly placed: number;
  readonly pagesMoved: number;
}

/** A worker that could take the session. */
export interface Candidate {
  readonly worker: string;
  /** An embedded engine: chosen only where no other can be. */
  readonly lastResort: boolean;
  readonly load: CandidateLoad;
}

/** Why a worker was chosen; a part of leanedge.v1.PlacementReason. */
export type ChoiceReason = "only" | "load" | "hash" | "lastResort" | "relief";

/** A worker that was chosen. */
export interface Choice<T> {
  readonly chosen: T;
  readonly reason: ChoiceReason;
}

/** What an idle sequence counts against one that runs: about one in sixteen comes back at any time. */
const idleWeight = 1 / 16;
/**
 * What a memory full of caches counts, in turns. A worker of 64 turns at once is then weighed by its pages and by its
 * turns alike; between workers that have as much to do, resting caches decide.
 */
const fullMemoryTurns = 64;
/** Difference of cost below which two workers count as equal: less than one turn. */
const equalCost = 0.5;

/**
 * Chooses.
 *
 * @param all workers that may take it
 * @param candidateOf what counts of one of them; asked of two where these will do, so that a large pool costs no more
 * @param key the session, for rendezvous hashing
 * @param random a draw from [0, 1)
 * @returns undefined if all are full; an embedded engine is never full, since it has its own queue
 */
export function choose<T>(
  all: readonly T[],
  candidateOf: (one: T) => Candidate,
  key: string,
  random: () => number,
): Choice<T> | undefined {
  const takes = (one: T): boolean => {
    const { lastResort, load } = candidateOf(one);
    return !lastResort && !isFull(load);
  };
  let drawn = drawTwo(all, random);
  if (drawn.length < 2 || !drawn.every(takes)) {
    drawn = drawTwo(all.filter(takes), random);
  }
  const [first, second] = drawn;
  if (first !== undefined && second !== undefined) {
    const [a, b] = [candidateOf(first), candidateOf(second)];
    const better = lighter(a.load, b.load);
    return better === 0
      ? { chosen: byHash([first, second], candidateOf, key), reason: "hash" }
      : { chosen: better < 0 ? first : second, reason: "load" };
  }
  if (first !== undefined) {
    return { chosen: first, reason: "only" };
  }
  const engines = all.filter((one) => candidateOf(one).lastResort);
  const [engine] = engines;
  return engine === undefined
    ? undefined
    : { chosen: byHash([engine, ...engines], candidateOf, key), reason: "lastResort" };
}

/** The one of highest weight for a key. */
function byHash<T>(all: readonly [T, ...T[]], candidateOf: (one: T) => Candidate, key: string): T {
  const name = highestWeight(
    all.map((one) => candidateOf(one).worker),
    key,
  );
  return all.find((one) => candidateOf(one).worker === name) ?? all[0];
}

/** Whether a worker could only let a session wait. */
export function isFull({ queued, placed, pages, pagesFree, running }: CandidateLoad): boolean {
  const noPages = pages > 0 && pagesFree < pages * freePagesShareMin && running + placed > 0;
  // Without a queue, what was placed since the last report may well run.
  return (queued > 0 && queued + placed >= placeQueuedMax) || noPages;
}

/** Share of a worker's pages that caches hold, resting ones included; 0 where pages are not known. */
export function usedShare({ pages, pagesFree, pagesIdle, pagesMoved }: CandidateLoad): number {
  return pages === 0 ? 0 : Math.max(0, pages - pagesFree + pagesIdle + pagesMoved) / pages;
}

/** What a worker has to do and to keep, in turns. */
export function costOf(load: CandidateLoad): number {
  const { running, queued, sequences, placed } = load;
  const idle = Math.max(0, sequences - running);
  return running + queued + placed + idle * idleWeight + usedShare(load) * fullMemoryTurns;
}

/** Below 0: a has less to do and to keep; above 0: b has; 0: they are equal. */
function lighter(a: CandidateLoad, b: CandidateLoad): number {
  const cost = costOf(a) - costOf(b);
  return Math.abs(cost) >= equalCost ? cost : 0;
}

/** Two different ones at random; fewer if there are fewer. */
function drawTwo<T>(all: readonly T[], random: () => number): readonly T[] {
  if (all.length <= 2) {
    return all;
  }
  const first = Math.floor(random() * all.length);
  const skip = Math.floor(random() * (all.length - 1));
  return [all[first], all[skip < first ? skip : skip + 1]].filter((one) => one !== undefined);
}
