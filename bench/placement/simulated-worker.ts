/** A worker of the simulation: turns that run or wait, caches that rest, and pages that both take. */
import type { WorkerLoad } from "../../src/gateway/pool/pool-entry.js";
import { pageTokens, restMsMax } from "./workload.js";

/** A session, as the simulation keeps it. */
export interface SimulatedSession {
  /** What rendezvous and rings hash. */
  readonly key: string;
  readonly random: () => number;
  /** Length of its log. */
  tokens: number;
  /** Turns begun. */
  turns: number;
  /** End of its last turn. */
  lastMs: number;
  /** Worker of its last turn; -1 before the first. */
  bound: number;
}

/** A cache on a worker. */
interface Cache {
  tokens: number;
  pages: number;
  running: boolean;
  usedMs: number;
}

/** A turn that waits: what to call when it may run, and when the worker stops before. */
export interface WaitingTurn {
  readonly start: () => void;
  readonly elsewhere: () => void;
}

/** Turns that run at once; later ones wait. */
const runningMax = 64;

/** See the head of this file. */
export class SimulatedWorker {
  up = true;
  draining = false;
  /** Counts its processes; a turn of an earlier one was cut off. */
  process = 0;
  running = 0;
  /** Pages of all its caches, and those of the running turns among them. */
  pagesUsed = 0;
  #pagesRunning = 0;
  /** By session, the one that was used least recently first. */
  readonly #caches = new Map<SimulatedSession, Cache>();
  /** Turns that wait, the oldest first. */
  #waiting: WaitingTurn[] = [];

  /** @param pages pages of its memory */
  constructor(readonly pages: number) {}

  /** What it says in a heartbeat, in the terms of `worker-status.ts`: idle caches count as free pages, and apart. */
  load(): WorkerLoad {
    return {
      running: this.running,
      queued: this.#waiting.length,
      sequences: this.#caches.size,
      pages: this.pages,
      pagesFree: Math.max(0, this.pages - this.#pagesRunning),
      pagesIdle: this.pagesUsed - this.#pagesRunning,
      tokensPerSecond: 0,
    };
  }

  /** Sequences held. */
  get sequences(): number {
    return this.#caches.size;
  }

  /** Tokens of a session that it has. */
  cached(session: SimulatedSession): number {
    return this.#caches.get(session)?.tokens ?? 0;
  }

  /** Calls back when a turn may run: now, or after others. */
  admit(turn: WaitingTurn): void {
    if (this.running < runningMax) turn.start();
    else this.#waiting.push(turn);
  }

  /** A turn runs, whose log will have that many tokens at its end. Idle caches make room. */
  begin(session: SimulatedSession, tokens: number, nowMs: number): void {
    this.drop(session);
    const pages = Math.ceil(tokens / pageTokens);
    this.#caches.set(session, { tokens, pages, running: true, usedMs: nowMs });
    this.running++;
    this.pagesUsed += pages;
    this.#pagesRunning += pages;
    this.#makeRoom();
  }

  /** A turn has ended; its cache rests. */
  end(session: SimulatedSession, nowMs: number): void {
    const cache = this.#caches.get(session);
    if (cache === undefined) throw new Error(`${session.key} has no turn on this worker`);
    cache.running = false;
    cache.usedMs = nowMs;
    this.#caches.delete(session);
    this.#caches.set(session, cache);
    this.running--;
    this.#pagesRunning -= cache.pages;
    if (this.running < runningMax) this.#waiting.shift()?.start();
  }

  /** Drops a session's cache, if it is there. */
  drop(session: SimulatedSession): void {
    const cache = this.#caches.get(session);
    if (cache === undefined) return;
    if (cache.running) throw new Error(`${session.key} runs`);
    this.#caches.delete(session);
    this.pagesUsed -= cache.pages;
  }

  /** Drops what has rested for too long. */
  expire(nowMs: number): void {
    for (const [session, cache] of this.#caches) {
      if (!cache.running && nowMs - cache.usedMs < restMsMax) return;
      if (!cache.running) this.drop(session);
    }
  }

  /** The process ends. Hands back the turns that waited. */
  stop(): readonly WaitingTurn[] {
    const waiting = this.#waiting;
    this.#waiting = [];
    this.#caches.clear();
    this.running = this.pagesUsed = this.#pagesRunning = 0;
    this.process++;
    this.up = this.draining = false;
    return waiting;
  }

  #makeRoom(): void {
    if (this.pagesUsed <= this.pages) return;
    for (const [session, cache] of this.#caches) {
      if (this.pagesUsed <= this.pages) return;
      if (!cache.running) this.drop(session);
    }
  }
}
