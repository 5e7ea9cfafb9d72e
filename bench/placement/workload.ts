/**
 * What people do in the simulation: sessions open along the curve of a day, take turns, rest, and end without a word. A
 * session's draws hang on its number alone, so that every way of routing sees the same sessions.
 */

/** The size of a simulation. Times in milliseconds, sizes in tokens. */
export interface Workload {
  readonly seed: number;
  readonly workers: number;
  /** Sessions whose cache is kept somewhere, at the peak of the day; the rate of opening follows from it. */
  readonly sessionsAtPeak: number;
  /** Length of the day that is simulated, from one trough to the next. */
  readonly dayMs: number;
  /** What is not measured at the start, while the pool fills. */
  readonly warmUpMs: number;
  /** Pages of a worker. */
  readonly pages: number;
  /** How long a worker drains before it stops, and how long it is away then. */
  readonly drainMs: number;
  readonly awayMs: number;
  /** Whether workers restart at all. */
  readonly restarts: boolean;
}

/** The day of the documentation: 6 hours long, so that load changes four times as fast as on earth. */
export const wholeDay: Workload = {
  seed: 20_261_122,
  workers: 200,
  sessionsAtPeak: 50_000,
  dayMs: 6 * 3_600_000,
  warmUpMs: 3_600_000,
  pages: 16_384,
  drainMs: 600_000,
  awayMs: 60_000,
  restarts: true,
};

/** So small that it runs within the tests; its figures mean little. */
export const tinyDay: Workload = {
  ...wholeDay,
  workers: 8,
  sessionsAtPeak: 400,
  dayMs: 2 * 3_600_000,
  warmUpMs: 1_200_000,
  drainMs: 300_000,
};

/** Tokens of a page. */
export const pageTokens = 64;
/** Bytes of a token's cache: 32 layers, 8 heads of 128 for keys and for values, int8. */
export const tokenBytes = 64 * 1024;
/** How long a cache rests before its worker has saved and dropped it, and the binding ends; `bindingTtlMs`. */
export { bindingTtlMs as restMsMax } from "../../src/gateway/limits.js";

/** Turns of a session, on average (geometric); median of a pause and its spread (lognormal). */
const turnsMean = 8;
const pauseMsMedian = 60_000;
const pauseSigma = 1;
/** Medians and spread of what a turn adds (lognormal): the first question brings instructions along. */
const firstTokensMedian = 600;
const askTokensMedian = 80;
const answerTokensMedian = 200;
const tokensSigma = 0.8;
/** Longest log of a session; a longer one ends. */
export const sessionTokensMax = 32_768;
/** Time that an average session's cache is held, without the rest at its end. */
const sessionMsMean = (turnsMean - 1) * pauseMsMedian * Math.exp(pauseSigma ** 2 / 2) + 60_000;

/** Draws from [0, 1) that a seed fixes (mulberry32). */
export function seededRandom(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Share of the peak's rate at a time: a fifth at the ends of the day, all of it in the middle. */
export function dayCurve(atMs: number, dayMs: number): number {
  return 0.6 - 0.4 * Math.cos((2 * Math.PI * atMs) / dayMs);
}

/** Sessions that open at the peak, a millisecond. */
export function peakRate({ sessionsAtPeak }: Workload, restMsMax: number): number {
  return sessionsAtPeak / (sessionMsMean + restMsMax);
}

/** One turn: what it adds to the log, and the pause before the next one. */
export interface TurnDraw {
  readonly askTokens: number;
  readonly answerTokens: number;
  readonly pauseMs: number;
  readonly last: boolean;
}

/** A person's draws. */
export function drawTurn(random: () => number, logTokens: number): TurnDraw {
  const ask = logTokens === 0 ? firstTokensMedian : askTokensMedian;
  const askTokens = Math.ceil(lognormal(random, ask, tokensSigma));
  const answerTokens = Math.ceil(lognormal(random, answerTokensMedian, tokensSigma));
  return {
    askTokens,
    answerTokens,
    pauseMs: lognormal(random, pauseMsMedian, pauseSigma),
    last: random() < 1 / turnsMean || logTokens + askTokens + answerTokens > sessionTokensMax,
  };
}

/** Time to the next event of a process of a rate. */
export function exponential(random: () => number, perMs: number): number {
  return -Math.log(1 - random()) / perMs;
}

function lognormal(random: () => number, median: number, sigma: number): number {
  const normal = Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  return median * Math.exp(sigma * normal);
}
