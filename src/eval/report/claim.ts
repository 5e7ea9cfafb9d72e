/** A line of what a model is held against, and what becomes of it. */
import type { Interval } from "../bootstrap.js";
import { pairsWanted } from "./tables.js";

/** What stands in the column of verdicts. */
export type Verdict = "met" | "not met" | "not settled" | "not measured" | "reported";

/** A line of the table. */
export interface Claim {
  readonly figure: string;
  /** What it must be; empty where it is only told. */
  readonly wanted: string;
  readonly found: string;
  /** Samples or pairs; 0: none. */
  readonly count: number;
  /** Who measured. */
  readonly by: string;
  readonly verdict: Verdict;
}

/** What a claim has that nothing was measured for. */
export const unmeasured = { found: "", count: 0, by: "", verdict: "not measured" } as const;

/** Whether the whole of an interval of costs, larger being worse, lies below a bound. */
export function verdictOf({ low, high }: Pick<Interval, "low" | "high">, bound: number): Verdict {
  if (high <= bound) return "met";
  return low > bound ? "not met" : "not settled";
}

/** The same of differences of scores, which are settled from 2,000 pairs on. */
export function scoreVerdict({ low, high, count }: Interval, bound: number): Verdict {
  const found = verdictOf({ low: -high, high: -low }, bound);
  return found === "met" && count < pairsWanted ? "not settled" : found;
}

/** An interval in words. */
export function told(
  { mean: middle, low, high }: Interval,
  show: (share: number) => string,
): string {
  return `${show(middle)} (${show(low)} to ${show(high)})`;
}

/** Of several evaluators of a model the one with the most to say. */
export function most<T extends { readonly count: number }>(found: readonly T[]): T | undefined {
  return found.reduce<T | undefined>(
    (best, one) => (best === undefined || one.count > best.count ? one : best),
    undefined,
  );
}
