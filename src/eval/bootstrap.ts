/**
 * Intervals by bootstrap: what is known of a mean, from its samples alone. Methods are compared on the
 * same samples, by their differences, so that a hard sample is hard for both and cancels out.
 */
import { SeededRandom } from "./random.js";

/** A mean and its interval. */
export interface Interval {
  readonly mean: number;
  readonly low: number;
  readonly high: number;
  /** Samples, or pairs of them. */
  readonly count: number;
}

/** How an interval is found. */
export interface BootstrapOptions {
  /** Resamples; default 2,000. */
  readonly resamples?: number;
  /** Share of resampled means inside, above 0 and below 1; default 0.95. */
  readonly confidence?: number;
  /** Default "bootstrap". */
  readonly seed?: string;
}

/** Default of `resamples`: ends of a 95 % interval lie between the 50th and 51st mean from outside. */
export const resamplesDefault = 2_000;

/** Linear interpolation between the two nearest of sorted values; `share` is 0 .. 1. */
function quantile(sorted: Float64Array, share: number): number {
  const at = share * (sorted.length - 1);
  const below = sorted[Math.floor(at)] ?? Number.NaN;
  const above = sorted[Math.ceil(at)] ?? Number.NaN;
  return below + (above - below) * (at - Math.floor(at));
}

/** Draws that are kept: most samples of a resample, all resamples together, and how many sets of them. */
const keptDrawsMax = 5_000_000;
const keptSetsMax = 12;
const keptDraws = new Map<string, Uint32Array>();

/** Which of `count` values each resample takes, one resample behind the other; the same for the same arguments. */
function drawsOf(seed: string, count: number, resamples: number): Uint32Array {
  const key = `${resamples}/${count}/${seed}`;
  const known = keptDraws.get(key);
  if (known !== undefined) {
    // The oldest goes first: this one is young again.
    keptDraws.delete(key);
    keptDraws.set(key, known);
    return known;
  }
  const random = new SeededRandom(seed);
  const draws = new Uint32Array(resamples * count);
  for (let index = 0; index < draws.length; index++) draws[index] = random.below(count);
  if (draws.length <= keptDrawsMax) {
    const [oldest] = keptDraws.keys();
    if (keptDraws.size >= keptSetsMax && oldest !== undefined) keptDraws.delete(oldest);
    keptDraws.set(key, draws);
  }
  return draws;
}

/** Mean of values and its percentile interval. @throws RangeError without values */
export function bootstrapMean(values: readonly number[], options: BootstrapOptions = {}): Interval {
  const { resamples = resamplesDefault, confidence = 0.95, seed = "bootstrap" } = options;
  const count = values.length;
  if (count === 0) throw new RangeError("0 values, at least 1 needed for a mean");
  if (!(confidence > 0 && confidence < 1)) {
    throw new RangeError(`confidence of ${confidence}, between 0 and 1 expected`);
  }
  const draws = drawsOf(seed, count, resamples);
  const from = Float64Array.from(values);
  const means = new Float64Array(resamples);
  for (let resample = 0; resample < resamples; resample++) {
    let sum = 0;
    const first = resample * count;
    for (let at = first; at < first + count; at++) sum += from[draws[at] ?? 0] ?? 0;
    means[resample] = sum / count;
  }
  means.sort();
  const outside = (1 - confidence) / 2;
  return {
    mean: values.reduce((sum, value) => sum + value, 0) / count,
    low: quantile(means, outside),
    high: quantile(means, 1 - outside),
    count,
  };
}

/**
 * Mean of `after - before` over pairs, and its interval.
 *
 * @param before score of each sample under one method, by a name of the sample
 * @param after the same under the other method; samples that only one has are left out
 * @throws RangeError if no sample is in both
 */
export function pairedBootstrap(
  before: ReadonlyMap<string, number>,
  after: ReadonlyMap<string, number>,
  options: BootstrapOptions = {},
): Interval {
  const differences: number[] = [];
  for (const [sample, score] of before) {
    const other = after.get(sample);
    if (other !== undefined) differences.push(other - score);
  }
  if (differences.length === 0) {
    throw new RangeError(`no pairs: ${before.size} and ${after.size} samples, none in both`);
  }
  return bootstrapMean(differences, options);
}
