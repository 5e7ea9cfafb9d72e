/**
 * The circuit breaker of a worker. Pure: outcomes of calls change it, and time opens the way for one trial. Heartbeats say
 * that a process lives; the breaker says whether its answers do.
 */
import {
  breakerFailuresMax,
  breakerOpenMs,
  breakerOpenMsMax,
  breakerTrialMsMax,
} from "../limits.js";
import { isOver } from "./elapsed.js";

/** State of a breaker; leanedge.pool.v1.BreakerState. */
export type BreakerState = "closed" | "open" | "halfOpen";

/** What a breaker remembers. Times in milliseconds since 1970. */
export interface Breaker {
  /** Failures in a row. */
  readonly failures: number;
  /** When it opened last; 0: it is closed. */
  readonly openedMs: number;
  /** How long it stays open then. */
  readonly openMs: number;
  /** When a trial was let through; 0: none is under way. */
  readonly trialMs: number;
}

/** A breaker without a past. */
export const closedBreaker: Breaker = { failures: 0, openedMs: 0, openMs: 0, trialMs: 0 };

/** State at a time. */
export function breakerState(breaker: Breaker, nowMs: number): BreakerState {
  if (breaker.openedMs === 0) {
    return "closed";
  }
  return isOver(breaker.openedMs, breaker.openMs, nowMs) ? "halfOpen" : "open";
}

/** Whether a session may be placed now. A trial whose outcome nobody told is over after breakerTrialMsMax. */
export function admits(breaker: Breaker, nowMs: number): boolean {
  switch (breakerState(breaker, nowMs)) {
    case "closed":
      return true;
    case "open":
      return false;
    case "halfOpen":
      return breaker.trialMs === 0 || isOver(breaker.trialMs, breakerTrialMsMax, nowMs);
  }
}

/** After a session was placed. */
export function placedOn(breaker: Breaker, nowMs: number): Breaker {
  return breakerState(breaker, nowMs) === "halfOpen" ? { ...breaker, trialMs: nowMs } : breaker;
}

/** After a call that succeeded. One that began before the breaker opened says nothing of now. */
export function succeeded(breaker: Breaker, nowMs: number): Breaker {
  return breakerState(breaker, nowMs) === "open" ? breaker : closedBreaker;
}

/** After a call that failed. Each opening in a row lasts twice as long as the one before. */
export function failed(breaker: Breaker, nowMs: number): Breaker {
  const failures = breaker.failures + 1;
  switch (breakerState(breaker, nowMs)) {
    case "closed":
      return failures < breakerFailuresMax
        ? { ...breaker, failures }
        : { failures, openedMs: nowMs, openMs: breakerOpenMs, trialMs: 0 };
    case "open":
      return { ...breaker, failures };
    case "halfOpen":
      return {
        failures,
        openedMs: nowMs,
        openMs: Math.min(2 * breaker.openMs, breakerOpenMsMax),
        trialMs: 0,
      };
  }
}
