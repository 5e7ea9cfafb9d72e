/** The headers that tell clients how much of their limits is left: OpenAI's names and formats. */

import type { HeadWriter } from "../objects/answer-format.js";

/** One bucket. */
export interface RateState {
  /** Its size: the limit a minute. */
  readonly limit: number;
  /** What it can still give. */
  readonly remaining: number;
  /** Milliseconds until it is full. */
  readonly fullInMs: number;
}

/** The buckets of a key; one without a limit is not there. */
export interface RateStates {
  readonly requests?: RateState;
  readonly tokens?: RateState;
}

const prefix = "x-ratelimit-";

/** All of the headers, for CORS. */
export const rateHeaderNames: readonly string[] = ["requests", "tokens"].flatMap((what) =>
  ["limit", "remaining", "reset"].map((figure) => `${prefix}${figure}-${what}`),
);

/** Writes the headers. */
export function setRateHeaders(headers: HeadWriter, states: RateStates): void {
  for (const [what, state] of Object.entries(states) as [keyof RateStates, RateState][]) {
    headers.set(`${prefix}limit-${what}`, String(state.limit));
    headers.set(`${prefix}remaining-${what}`, String(state.remaining));
    headers.set(`${prefix}reset-${what}`, durationText(state.fullInMs));
  }
}

/** Calls `set` with each of the headers that is there. */
export function copyRateHeaders(from: Headers, set: (name: string, value: string) => void): void {
  for (const what of ["requests", "tokens"]) {
    // Most keys have no such limits: one question for each tells it.
    for (const figure of ["limit", "remaining", "reset"]) {
      const name = `${prefix}${figure}-${what}`;
      const value = from.get(name);
      if (value === null) {
        break;
      }
      set(name, value);
    }
  }
}

/** A time as OpenAI writes it: `20ms`, `1.5s`, `6m0s`, `1h0m0s`. */
export function durationText(ms: number): string {
  if (ms < 1_000) {
    return `${ms}ms`;
  }
  const seconds = (ms % 60_000) / 1_000;
  const minutes = Math.floor(ms / 60_000);
  if (minutes === 0) {
    return `${seconds}s`;
  }
  const hours = Math.floor(minutes / 60);
  return hours === 0 ? `${minutes}m${seconds}s` : `${hours}h${minutes % 60}m${seconds}s`;
}
