/** A worker of a pool: what its object keeps of it, and what it tells others. Plain data: it travels between objects. */
import { breakerState, closedBreaker } from "./breaker.js";
import type { Breaker, BreakerState } from "./breaker.js";
import type { CandidateLoad } from "./placement.js";
import { fullBudget } from "./rebalance.js";
import type { MoveBudget } from "./rebalance.js";
import { entered, reasonOf, stateOf, stateSinceMs } from "./worker-state.js";
import type { WorkerFacts, WorkerState } from "./worker-state.js";

/** A worker and where it is. */
export interface WorkerPlace {
  /** Its name (worker-names.ts). */
  readonly worker: string;
  /** Its address; empty where the name says it all. */
  readonly address: string;
}

/** Where a worker comes from; leanedge.pool.v1.WorkerOrigin. */
export type WorkerOrigin = "registered" | "configured" | "embedded";

/** One model of a worker. */
export interface WorkerModel {
  readonly model: string;
  /** Fingerprints of the model file and of the chat template, and of the plans that it may be served with. */
  readonly fingerprint: string;
  readonly templateFingerprint: string;
  readonly planFingerprints: readonly string[];
}

/** Load of a worker, as it says it. */
export interface WorkerLoad {
  readonly running: number;
  readonly queued: number;
  readonly sequences: number;
  readonly pages: number;
  readonly pagesFree: number;
  /** Pages of idle caches, a part of the free ones. */
  readonly pagesIdle: number;
  readonly tokensPerSecond: number;
}

/** Load of a worker that has not said any. */
export const noLoad: WorkerLoad = {
  running: 0,
  queued: 0,
  sequences: 0,
  pages: 0,
  pagesFree: 0,
  pagesIdle: 0,
  tokensPerSecond: 0,
};

/** What never changes in an entry's life. */
export interface WorkerIdentity {
  /** Name in bindings: `pool:POOL/NAME`, `worker:MODEL/INDEX` or `engine:MODEL/INDEX`. */
  readonly worker: string;
  /** Name within the pool. */
  readonly name: string;
  readonly origin: WorkerOrigin;
}

/** One worker of a pool, as its object keeps it. */
export interface PoolEntry extends WorkerIdentity {
  /** Where it is reached; empty for an embedded engine. */
  address: string;
  /** Its process; empty unless it registered. */
  incarnation: string;
  /** When its process started, by its own clock; milliseconds since 1970. */
  startMs: number;
  models: readonly WorkerModel[];
  facts: WorkerFacts;
  breaker: Breaker;
  load: WorkerLoad;
  /** Sessions placed since it last said its load. */
  placed: number;
  /** Pages that came with sessions moved here since then, less those that left. */
  pagesMoved: number;
  /** It holds far more pages than others like it, and what it may still move. */
  crowded: boolean;
  moveBudget: MoveBudget;
  /** Since the object started. */
  placedTotal: number;
  failuresTotal: number;
  /** Sessions that moved off it because it was crowded. */
  movedTotal: number;
  /** A question to it is under way. */
  asking: boolean;
}

/** What others may know of a worker. */
export interface WorkerRecord extends WorkerIdentity {
  readonly pool: string;
  readonly address: string;
  readonly state: WorkerState;
  readonly reason: string;
  /** Milliseconds that it has been in its state, as far as the object knows. */
  readonly stateMs: number;
  readonly breaker: BreakerState;
  /** A call there failed since one last succeeded. */
  readonly suspect: boolean;
  /** It holds far more pages than others: its sessions may ask for another place. */
  readonly crowded: boolean;
  readonly models: readonly WorkerModel[];
  readonly load: WorkerLoad;
  readonly shutsDown: boolean;
  /** Milliseconds since it was last heard. */
  readonly heardMsAgo: number;
  readonly placedTotal: number;
  readonly failuresTotal: number;
  /** Sessions that moved off it because it was crowded. */
  readonly movedTotal: number;
}

/** An entry without a past. */
export function newEntry(
  identity: WorkerIdentity,
  nowMs: number,
  rest: Partial<Pick<PoolEntry, "address" | "incarnation" | "startMs" | "models" | "facts">> = {},
): PoolEntry {
  return {
    ...identity,
    address: "",
    incarnation: "",
    startMs: 0,
    models: [],
    facts: entered(nowMs, { reports: identity.origin === "registered" }),
    breaker: closedBreaker,
    load: noLoad,
    placed: 0,
    pagesMoved: 0,
    crowded: false,
    moveBudget: fullBudget,
    placedTotal: 0,
    failuresTotal: 0,
    movedTotal: 0,
    asking: false,
    ...rest,
  };
}

/** What others may know of an entry at a time. */
export function recordOf(pool: string, entry: PoolEntry, nowMs: number): WorkerRecord {
  return {
    pool,
    worker: entry.worker,
    name: entry.name,
    origin: entry.origin,
    address: entry.address,
    state: stateOf(entry.facts, nowMs),
    reason: reasonOf(entry.facts, nowMs),
    stateMs: Math.max(0, nowMs - stateSinceMs(entry.facts, nowMs)),
    breaker: breakerState(entry.breaker, nowMs),
    suspect: entry.breaker.failures > 0,
    crowded: entry.crowded,
    models: entry.models,
    load: entry.load,
    shutsDown: entry.facts.shutsDown,
    heardMsAgo: Math.max(0, nowMs - entry.facts.heardMs),
    placedTotal: entry.placedTotal,
    failuresTotal: entry.failuresTotal,
    movedTotal: entry.movedTotal,
  };
}

/** Load of an entry as placement looks at it. */
export function candidateLoad(entry: PoolEntry): CandidateLoad {
  const { running, queued, sequences, pages, pagesFree, pagesIdle } = entry.load;
  const { pagesMoved, placed } = entry;
  return { running, queued, sequences, pages, pagesFree, pagesIdle, placed, pagesMoved };
}
