/**
 * States of a worker in a pool (docs/architecture.md, 'The pool'). Pure: what is known of a worker are facts, events
 * change facts, and the state follows from the facts and the clock. So nothing has to run for a state to change, and a pool
 * that slept finds every worker in the state that it would have had.
 */
import {
  heartbeatsMissedMax,
  heartbeatMs,
  workerForgetMs,
  workerLostMs,
  workerPendingMsMax,
} from "../limits.js";

/** State of a worker; leanedge.pool.v1.WorkerState. */
export type WorkerState = "pending" | "ready" | "draining" | "notReady" | "failed";

/** What is known of a worker. Times in milliseconds since 1970. */
export interface WorkerFacts {
  /** When this process entered the pool. */
  readonly enteredMs: number;
  /** Its address has answered with its name. */
  readonly answered: boolean;
  /** When it was last heard. */
  readonly heardMs: number;
  /** It reports by itself; otherwise it is asked, and its silence between two questions means nothing. */
  readonly reports: boolean;
  /** The last question got no answer; for one that is asked. */
  readonly unanswered: boolean;
  /** People want it drained. */
  readonly drainWanted: boolean;
  /** It says itself that it shuts down. */
  readonly shutsDown: boolean;
  /** When it was evicted; 0: it was not. */
  readonly evictedMs: number;
  /** When an event last changed its state. */
  readonly changedMs: number;
}

/** What happens to a worker. */
export type WorkerEvent =
  | { readonly kind: "answered" }
  /** A question got no answer; `late`: perhaps only not yet, since its time was over. */
  | { readonly kind: "unanswered"; readonly late?: boolean }
  | { readonly kind: "heard"; readonly shutsDown: boolean }
  /** It told a session so. */
  | { readonly kind: "shutsDown" }
  | { readonly kind: "drain" }
  | { readonly kind: "resume" }
  | { readonly kind: "evict" };

/** Longest silence of a worker that reports. */
export const silenceMsMax = heartbeatMs * heartbeatsMissedMax;

/** Facts of a process that enters. A wish of people to drain the worker outlives its processes. */
export function entered(
  nowMs: number,
  options: { readonly reports: boolean; readonly drainWanted?: boolean },
): WorkerFacts {
  return {
    enteredMs: nowMs,
    answered: false,
    heardMs: nowMs,
    reports: options.reports,
    unanswered: false,
    drainWanted: options.drainWanted ?? false,
    shutsDown: false,
    evictedMs: 0,
    changedMs: nowMs,
  };
}

/** Facts after an event. A failed process stays failed; only a configured worker is resumed from there. */
export function after(facts: WorkerFacts, event: WorkerEvent, nowMs: number): WorkerFacts {
  const before = stateOf(facts, nowMs);
  if (before === "failed") {
    const configured = !facts.reports && event.kind === "resume";
    return configured ? { ...entered(nowMs, { reports: false }), answered: facts.answered } : facts;
  }
  const next = changed(facts, event, nowMs);
  return stateOf(next, nowMs) === before ? next : { ...next, changedMs: nowMs };
}

function changed(facts: WorkerFacts, event: WorkerEvent, nowMs: number): WorkerFacts {
  switch (event.kind) {
    case "answered":
      return { ...facts, answered: true, unanswered: false, heardMs: nowMs };
    case "unanswered":
      // Where gateway or worker have much to do an answer may be late; that says nothing of a worker heard just now.
      return event.late === true && nowMs - facts.heardMs < silenceMsMax
        ? facts
        : { ...facts, unanswered: true };
    case "heard":
      // Also where the clock was set back: its silence counts from now.
      return { ...facts, heardMs: nowMs, shutsDown: event.shutsDown };
    case "shutsDown":
      return { ...facts, shutsDown: true };
    case "drain":
      return { ...facts, drainWanted: true };
    case "resume":
      return { ...facts, drainWanted: false };
    case "evict":
      return { ...facts, evictedMs: Math.max(1, nowMs) };
  }
}

/** State at a time. */
export function stateOf(facts: WorkerFacts, nowMs: number): WorkerState {
  if (facts.evictedMs > 0) {
    return "failed";
  }
  if (!facts.answered) {
    // A configured worker may be started at any time: its address is asked for ever.
    return facts.reports && nowMs - facts.enteredMs >= workerPendingMsMax ? "failed" : "pending";
  }
  const silenceMs = nowMs - facts.heardMs;
  if (facts.reports && silenceMs >= workerLostMs) {
    return "failed";
  }
  if (facts.reports ? silenceMs >= silenceMsMax : facts.unanswered) {
    return "notReady";
  }
  return facts.drainWanted || facts.shutsDown ? "draining" : "ready";
}

/** Whether a worker has been failed for so long that nobody needs to know it any more. */
export function isForgotten(facts: WorkerFacts, nowMs: number): boolean {
  if (!facts.reports || stateOf(facts, nowMs) !== "failed") {
    return false;
  }
  return nowMs - stateSinceMs(facts, nowMs) >= workerForgetMs;
}

/** Since when a worker is in the state that it has at a time; milliseconds since 1970. */
export function stateSinceMs(facts: WorkerFacts, nowMs: number): number {
  const state = stateOf(facts, nowMs);
  if (state === "failed") {
    return facts.evictedMs > 0
      ? facts.evictedMs
      : facts.answered
        ? facts.heardMs + workerLostMs
        : facts.enteredMs + workerPendingMsMax;
  }
  return state === "notReady" && facts.reports ? facts.heardMs + silenceMsMax : facts.changedMs;
}

/** Why a worker is in its state, in a few words. */
export function reasonOf(facts: WorkerFacts, nowMs: number): string {
  switch (stateOf(facts, nowMs)) {
    case "pending":
      return "its address has not answered yet";
    case "ready":
      return "";
    case "draining":
      return facts.shutsDown ? "it shuts down" : "drained by an operator";
    case "notReady":
      return facts.reports ? `${heartbeatsMissedMax} heartbeats are missing` : "it does not answer";
    case "failed":
      return facts.evictedMs > 0
        ? "evicted by an operator"
        : facts.answered
          ? "silent for too long"
          : "its address never answered";
  }
}
