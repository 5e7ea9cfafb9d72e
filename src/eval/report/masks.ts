/** What masks keep: by RoPE frequency, by head, and how alike scores are that were learned apart. */
import type { CachePlan } from "../../engine/plan/plan.js";

/** Bands of RoPE frequency that kept rates are told in, the fastest first. */
export const bandCount = 8;

/** [layer][kvHead][channel]. */
export type Scores = readonly (readonly (readonly number[])[])[];

/** What make_plans of the training package made masks from. */
export interface MaskScores {
  /** Name of the model in its file. */
  readonly model: string;
  readonly modelFingerprint: string;
  /** Mean square of queries times that of keys, over calibration prompts. */
  readonly magnitude: Scores;
  /** Factors of stage 1 by what they were learned from. */
  readonly factorsByTask: ReadonlyMap<string, Scores>;
}

/** A line of the chart of kept rates: a published mask, as rates only. */
export interface PublishedRates {
  readonly name: string;
  readonly keptByBand: readonly number[];
}

/** Share of K channels that a plan keeps in each band of RoPE frequency; channel i turns with i + headDim / 2. */
export function keptByBand({ kept, headDim }: Pick<CachePlan, "kept" | "headDim">): number[] {
  const half = headDim / 2;
  const heads = kept.flat();
  const counts = new Array<number>(bandCount).fill(0);
  const sizes = new Array<number>(bandCount).fill(0);
  for (let pair = 0; pair < half; pair++) {
    const band = Math.floor((pair * bandCount) / half);
    sizes[band] = (sizes[band] ?? 0) + 2 * heads.length;
  }
  for (const channel of heads.flat()) {
    const band = Math.floor(((channel % half) * bandCount) / half);
    counts[band] = (counts[band] ?? 0) + 1;
  }
  return counts.map((count, band) => count / Math.max(1, sizes[band] ?? 0));
}

/** How many channels of each RoPE pair a head keeps: 0, 1 or 2. */
export function keptOfPairs(channels: readonly number[], headDim: number): number[] {
  const pairs = new Array<number>(headDim / 2).fill(0);
  for (const channel of channels) {
    const pair = channel % (headDim / 2);
    pairs[pair] = (pairs[pair] ?? 0) + 1;
  }
  return pairs;
}

/**
 * A head's high-frequency ratio: the share of its magnitude (mean square of queries times mean square
 * of keys, summed over channels) that lies in the fast half of its RoPE pairs.
 */
export function highFrequencyRatio(magnitude: readonly number[]): number {
  const half = magnitude.length / 2;
  let fast = 0;
  let all = 0;
  for (const [channel, value] of magnitude.entries()) {
    all += value;
    if (channel % half < half / 2) fast += value;
  }
  return all === 0 ? 0 : fast / all;
}

/** Pearson's correlation; 0 where one side does not vary. */
export function correlation(a: readonly number[], b: readonly number[]): number {
  const meanOf = (values: readonly number[]): number =>
    values.reduce((sum, value) => sum + value, 0) / values.length;
  const meanA = meanOf(a);
  const meanB = meanOf(b);
  let both = 0;
  let squareA = 0;
  let squareB = 0;
  for (const [index, value] of a.entries()) {
    const da = value - meanA;
    const db = (b[index] ?? NaN) - meanB;
    both += da * db;
    squareA += da * da;
    squareB += db * db;
  }
  return squareA * squareB === 0 ? 0 : both / Math.sqrt(squareA * squareB);
}

/** Rank of each value; equal values share the mean of theirs. */
export function ranks(values: readonly number[]): number[] {
  const order = values.map((value, index) => ({ value, index })).sort((a, b) => a.value - b.value);
  const found = new Array<number>(values.length).fill(0);
  for (let first = 0; first < order.length;) {
    let end = first;
    while (end < order.length && order[end]?.value === order[first]?.value) end++;
    for (const { index } of order.slice(first, end)) found[index] = (first + end - 1) / 2;
    first = end;
  }
  return found;
}

/** Spearman's correlation. */
export function rankCorrelation(a: readonly number[], b: readonly number[]): number {
  return correlation(ranks(a), ranks(b));
}

/**
 * Reads scores.json of make_plans.
 *
 * @param name of the file, for messages
 * @throws Error that names what is missing
 */
export function readMaskScores(text: string, name: string): MaskScores {
  const file = JSON.parse(text) as Readonly<Record<string, unknown>>;
  const words = (field: string): string => {
    const value = file[field];
    if (typeof value !== "string") throw new Error(`${name}: ${field} is missing, a text expected`);
    return value;
  };
  const byTask = (file["factors_by_task"] ?? {}) as Readonly<Record<string, unknown>>;
  return {
    model: words("model"),
    modelFingerprint: words("model_fingerprint"),
    magnitude: checkScores(file["magnitude"], `${name}: magnitude`),
    factorsByTask: new Map(
      Object.entries(byTask).map(([task, value]) => [
        task,
        checkScores(value, `${name}: factors_by_task.${task}`),
      ]),
    ),
  };
}

function checkScores(value: unknown, name: string): Scores {
  const isNumbers = (x: unknown): boolean =>
    Array.isArray(x) && x.every((y) => typeof y === "number");
  const isScores =
    Array.isArray(value) &&
    value.every((layer) => Array.isArray(layer) && layer.every((head) => isNumbers(head)));
  if (!isScores) throw new Error(`${name}: numbers by layer, head and channel expected`);
  return value as Scores;
}
