/**
 * Which sessions leave a worker that holds far more pages than others, so that idle caches come to lie evenly: a bound
 * session of a crowded worker moves with its next turn, its cache with it, as from one that drains. Pure; the roster keeps
 * the state.
 *
 * Fullness is a share of a worker's pages, so that workers of different sizes compare. A worker becomes crowded at
 * crowdedFrom above the mean and stays so down to crowdedUntil: without the gap between them it would change with each
 * heartbeat. Moves are counted against a worker's budget on both sides, since a carried cache costs both of them.
 */
import {
  crowdedFrom,
  crowdedShareMin,
  crowdedUntil,
  moveContextShareMax,
  moveSizeShareMin,
  movesPerMinuteMax,
} from "../limits.js";
import { usedShare } from "./placement.js";
import type { CandidateLoad } from "./placement.js";

/** A session that could leave its worker. */
export interface MoveOffer {
  /** The worker that it is bound to. */
  readonly from: string;
  /** Pages that its cache holds there. */
  readonly pages: number;
  /** Pages that it holds at its longest context; 0 if not known. */
  readonly pagesMax: number;
}

/** Moves that a worker may still take part in. Time in milliseconds since 1970. */
export interface MoveBudget {
  readonly moves: number;
  readonly atMs: number;
}

/** The budget of a worker that took part in none. */
export const fullBudget: MoveBudget = { moves: movesPerMinuteMax, atMs: 0 };

/** Moves that a budget allows at a time: it fills over a minute. */
export function movesLeft({ moves, atMs }: MoveBudget, nowMs: number): number {
  const filled = (Math.max(0, nowMs - atMs) / 60_000) * movesPerMinuteMax;
  return Math.min(movesPerMinuteMax, moves + filled);
}

/** A budget after one move. */
export function afterMove(budget: MoveBudget, nowMs: number): MoveBudget {
  return { moves: Math.max(0, movesLeft(budget, nowMs) - 1), atMs: nowMs };
}

/**
 * Whether a worker is crowded.
 *
 * @param was it was, at the last look
 * @param share share of its pages that is used, resting caches included
 * @param mean mean of that share over the workers like it
 */
export function isCrowded(was: boolean, share: number, mean: number): boolean {
  return share > mean * (was ? crowdedUntil : crowdedFrom) && share - mean > crowdedShareMin;
}

/**
 * Whether moving a session is worth it: a small one frees nothing, one whose context is nearly full is about to end, and
 * one that is larger than what its worker has too much would only carry the crowd along.
 */
export function worthMoving(
  { pages, pagesMax }: MoveOffer,
  load: CandidateLoad,
  mean: number,
): boolean {
  const used = usedShare(load) * load.pages;
  const average = load.sequences === 0 ? used : used / load.sequences;
  return (
    pages > 0 &&
    pages >= average * moveSizeShareMin &&
    (pagesMax === 0 || pages <= pagesMax * moveContextShareMax) &&
    pages <= 2 * (used - mean * load.pages)
  );
}

/** Whether a worker can take a session without becoming fuller than the mean, and without letting its turn wait. */
export function hasRoomFor(pages: number, load: CandidateLoad, mean: number): boolean {
  return load.queued === 0 && load.pages > 0 && usedShare(load) + pages / load.pages <= mean;
}
