/** One simulated day of a pool under one way to route turns. Time is simulated, and everything follows from the seed. */
import { heartbeatMs } from "../../src/gateway/limits.js";
import { EventQueue } from "./event-queue.js";
import type { Route } from "./routes.js";
import { SimulatedWorker } from "./simulated-worker.js";
import type { SimulatedSession } from "./simulated-worker.js";
import {
  dayCurve,
  drawTurn,
  exponential,
  peakRate,
  restMsMax,
  seededRandom,
  tokenBytes,
} from "./workload.js";
import type { TurnDraw, Workload } from "./workload.js";

/** The pool at one moment; only workers that are there and do not drain. */
export interface Sample {
  readonly atMs: number;
  /** Largest over mean: pages that caches hold, sequences, turns that run. */
  readonly pages: number;
  readonly sequences: number;
  readonly running: number;
  /** Sequences held in the whole pool, and the mean share of pages that is used. */
  readonly sequencesTotal: number;
  readonly usedShare: number;
}

/** What came of a day. */
export interface Outcome {
  readonly name: string;
  readonly samples: readonly Sample[];
  readonly sessions: number;
  readonly turns: number;
  /** Turns that follow another one before the cache's time is over, and how many found all of their log cached. */
  readonly continuing: number;
  readonly hits: number;
  /** Tokens of the logs of those turns, and those computed anew. */
  readonly logTokens: number;
  readonly recomputedTokens: number;
  /** Caches that went from worker to worker. */
  readonly moves: number;
  readonly movedBytes: number;
  /** Times that a turn found no room and came again; turns that a worker's stop cut off. */
  readonly refused: number;
  readonly cut: number;
}

/** Speeds of a worker: prompt tokens a second, milliseconds of a token alone, and what each other turn adds. */
const prefillPerSecond = 8_000;
const stepMs = 12;
const stepMsEach = 0.4;
/** When a turn without a place comes again. */
const retryMs = 500;
const sampleMs = 60_000;

/**
 * Runs a day.
 *
 * @param name what the outcome is called; the route's name if it has none
 */
export function simulate(workload: Workload, route: Route, name = route.name): Outcome {
  const { dayMs, seed, warmUpMs } = workload;
  const random = seededRandom(seed);
  const workers = Array.from({ length: workload.workers }, (_, worker) => {
    route.enter(worker, 0);
    return new SimulatedWorker(workload.pages);
  });
  const events = new EventQueue<(nowMs: number) => void>();
  const samples: Sample[] = [];
  const counts = {
    sessions: 0,
    turns: 0,
    continuing: 0,
    hits: 0,
    logTokens: 0,
    recomputedTokens: 0,
    moves: 0,
    movedBytes: 0,
    refused: 0,
    cut: 0,
  };

  function open(nowMs: number): void {
    const session: SimulatedSession = {
      key: `session-${counts.sessions}`,
      random: seededRandom(Math.imul(seed + ++counts.sessions, 0x9e3779b1)),
      tokens: 0,
      turns: 0,
      lastMs: nowMs,
      bound: -1,
    };
    arrive(session, drawTurn(session.random, 0), nowMs);
  }

  function arrive(
    session: SimulatedSession,
    turn: TurnDraw,
    nowMs: number,
    again: "first" | "again" = "first",
  ): void {
    const choice = route.choose(session, nowMs);
    const worker = choice === undefined ? undefined : workers[choice.worker];
    if (choice === undefined || worker === undefined) {
      counts.refused++;
      events.push(nowMs + retryMs, (laterMs) => {
        arrive(session, turn, laterMs, again);
      });
      return;
    }
    const brought = choice.from < 0 ? 0 : move(session, choice.from);
    const cached = Math.max(brought, worker.cached(session));
    if (again === "first" && session.turns > 0) count(session, cached, nowMs);
    const missing = session.tokens - cached;
    session.bound = choice.worker;
    worker.admit({
      start: () => {
        begin(session, turn, worker, missing, clock.nowMs);
      },
      elsewhere: () => {
        arrive(session, turn, clock.nowMs, "again");
      },
    });
  }

  /** Takes a session's cache off a worker; the tokens of it, 0 where the worker has dropped it. */
  function move(session: SimulatedSession, from: number): number {
    const source = workers[from];
    const tokens = source?.cached(session) ?? 0;
    if (source === undefined || tokens === 0) return 0;
    source.drop(session);
    counts.moves++;
    counts.movedBytes += tokens * tokenBytes;
    return tokens;
  }

  function count({ lastMs, tokens }: SimulatedSession, cached: number, nowMs: number): void {
    if (nowMs < warmUpMs || lastMs + restMsMax <= nowMs) return;
    counts.continuing++;
    counts.hits += cached >= tokens ? 1 : 0;
    counts.logTokens += tokens;
    counts.recomputedTokens += Math.max(0, tokens - cached);
  }

  function begin(
    session: SimulatedSession,
    turn: TurnDraw,
    worker: SimulatedWorker,
    missing: number,
    nowMs: number,
  ): void {
    const { process } = worker;
    session.tokens += turn.askTokens + turn.answerTokens;
    worker.begin(session, session.tokens, nowMs);
    counts.turns++;
    session.turns++;
    const prefillMs = ((missing + turn.askTokens) / prefillPerSecond) * 1000;
    const decodeMs = turn.answerTokens * (stepMs + stepMsEach * worker.running);
    events.push(nowMs + prefillMs + decodeMs, (endMs) => {
      if (worker.process === process) worker.end(session, endMs);
      else counts.cut++;
      session.lastMs = endMs;
      if (turn.last) return;
      const next = drawTurn(session.random, session.tokens);
      events.push(endMs + turn.pauseMs, (nextMs) => {
        arrive(session, next, nextMs);
      });
    });
  }

  /** Restarts every worker once, evenly over the measured day. */
  function planRestarts(): void {
    const everyMs = (dayMs - warmUpMs) / workers.length;
    for (const [index, worker] of workers.entries()) {
      const atMs = warmUpMs + index * everyMs;
      events.push(atMs, (nowMs) => {
        worker.draining = true;
        route.drain?.(index, nowMs);
      });
      events.push(atMs + workload.drainMs, () => {
        route.leave(index);
        for (const turn of worker.stop()) turn.elsewhere();
      });
      events.push(atMs + workload.drainMs + workload.awayMs, (nowMs) => {
        worker.up = true;
        route.enter(index, nowMs);
      });
    }
  }

  const clock = { nowMs: 0 };
  const rate = peakRate(workload, restMsMax);
  if (workload.restarts) planRestarts();
  let beat = 0;
  let openMs = exponential(random, rate);
  let sampledMs = warmUpMs;
  for (;;) {
    // Heartbeats of the workers are spread over their interval.
    const beatMs = (beat * heartbeatMs) / workers.length;
    const nowMs = Math.min(events.nextMs, beatMs, openMs, sampledMs);
    if (nowMs >= dayMs) return { name, samples, ...counts };
    clock.nowMs = nowMs;
    if (nowMs === events.nextMs) {
      events.pop()?.(nowMs);
    } else if (nowMs === beatMs) {
      const index = beat++ % workers.length;
      const worker = workers[index];
      if (worker?.up === true) {
        worker.expire(nowMs);
        route.hear?.(index, worker.load(), nowMs);
      }
    } else if (nowMs === openMs) {
      // Thinned: of the peak's openings those that the time of day has.
      if (random() < dayCurve(nowMs, dayMs)) open(nowMs);
      openMs += exponential(random, rate);
    } else {
      samples.push(look(workers, nowMs));
      sampledMs += sampleMs;
    }
  }
}

function look(workers: readonly SimulatedWorker[], atMs: number): Sample {
  const serving = workers.filter(({ up, draining }) => up && !draining);
  const all = serving.map((worker) => worker.pagesUsed);
  const sequences = serving.map((worker) => worker.sequences);
  return {
    atMs,
    pages: imbalance(all),
    sequences: imbalance(sequences),
    running: imbalance(serving.map(({ running }) => running)),
    sequencesTotal: sum(workers.map((worker) => worker.sequences)),
    usedShare: sum(all) / sum(serving.map(({ pages }) => pages)),
  };
}

/** Largest over mean; 1 of nothing. */
function imbalance(values: readonly number[]): number {
  const total = sum(values);
  return total === 0 ? 1 : (Math.max(...values) * values.length) / total;
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
