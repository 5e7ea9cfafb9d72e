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
  readonly pagesFree: number;
  /** Sessions placed since that load was reported. */
  readonly placed: number;
}

/** A worker that could take the session. */
export interface Candidate {
  readonly worker: string;
  /** An embedded engine: chosen only where no other can be. */
  readonly lastResort: boolean;
  readonly load: CandidateLoad;
}

/** Why a worker was chosen; a part of leanedge.v1.PlacementReason. */
export type ChoiceReason = "only" | "load" | "hash" | "lastResort";

/** A worker that was chosen. */
export interface Choice {
  readonly worker: string;
  readonly reason: ChoiceReason;
}

/** What an idle sequence counts against one that runs: about one in sixteen comes back at any time. */
const idleWeight = 1 / 16;
/** Difference of work below which two workers count as equal: less than one turn. */
const equalWork = 0.5;
/** Difference of the shares of free pages below which two workers count as equal. */
const equalShare = 0.05;

/**
 * Chooses.
 *
 * @param candidates workers that may take it
 * @param key the session, for rendezvous hashing
 * @param random a draw from [0, 1)
 * @returns undefined if all are full; an embedded engine is never full, since it has its own queue
 */
export function choose(
  candidates: readonly Candidate[],
  key: string,
  random: () => number,
): Choice | undefined {
  const workers = candidates.filter(
    (candidate) => !candidate.lastResort && !isFull(candidate.load),
  );
  const [first, second] = drawTwo(workers, random);
  if (first !== undefined && second !== undefined) {
    const better = lighter(first.load, second.load);
    return better === 0
      ? { worker: highestWeight([first.worker, second.worker], key), reason: "hash" }
      : { worker: (better < 0 ? first : second).worker, reason: "load" };
  }
  if (first !== undefined) {
    return { worker: first.worker, reason: "only" };
  }
  const engines = candidates.filter((candidate) => candidate.lastResort);
  return engines.length === 0
    ? undefined
    : {
        worker: highestWeight(
          engines.map(({ worker }) => worker),
          key,
        ),
        reason: "lastResort",
      };
}

/** Whether a worker could only let a session wait. */
export function isFull({ queued, placed, pages, pagesFree, running }: CandidateLoad): boolean {
  const noPages = pages > 0 && pagesFree < pages * freePagesShareMin && running + placed > 0;
  // Without a queue, what was placed since the last report may well run.
  return (queued > 0 && queued + placed >= placeQueuedMax) || noPages;
}

/** Work of a worker, in turns. */
export function workOf({ running, queued, sequences, placed }: CandidateLoad): number {
  const idle = Math.max(0, sequences - running);
  return running + queued + placed + idle * idleWeight;
}

/** Below 0: a has less to do; above 0: b has; 0: they are equal. */
function lighter(a: CandidateLoad, b: CandidateLoad): number {
  const work = workOf(a) - workOf(b);
  if (Math.abs(work) >= equalWork) {
    return work;
  }
  const share = freeShare(b) - freeShare(a);
  return Math.abs(share) >= equalShare ? share : 0;
}

function freeShare({ pages, pagesFree }: CandidateLoad): number {
  return pages === 0 ? 1 : pagesFree / pages;
}

/** Two different ones at random; fewer if there are fewer. */
function drawTwo(
  candidates: readonly Candidate[],
  random: () => number,
): readonly (Candidate | undefined)[] {
  if (candidates.length <= 2) {
    return candidates;
  }
  const first = Math.floor(random() * candidates.length);
  const skip = Math.floor(random() * (candidates.length - 1));
  return [candidates[first], candidates[skip < first ? skip : skip + 1]];
}
