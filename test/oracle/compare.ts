/** How far two sets of logits are apart, in a measure that no constant shift of a row changes. */
import { logitsAt } from "./oracle.js";
import type { Logits } from "./oracle.js";

/** Differences of log-probabilities over all positions and tokens. */
export type LogitError = {
  rms: number;
  max: number;
  /**
   * How far two logits of one row can have moved apart: the largest difference less the smallest, of
   * the worst row. A lead of one token over another that exceeds it cannot be lost to this error.
   */
  spread: number;
};

/** Log-probabilities of one row of logits. */
export function logSoftmax(row: Float64Array): Float64Array {
  const max = row.reduce((a, b) => Math.max(a, b), -Infinity);
  const total = row.reduce((sum, value) => sum + Math.exp(value - max), 0);
  const shift = max + Math.log(total);
  return row.map((value) => value - shift);
}

/** Error of `actual` against `expected`; both must have the same shape and finite values. */
export function logitError(actual: Logits, expected: Logits): LogitError {
  if (actual.positions !== expected.positions || actual.vocabulary !== expected.vocabulary) {
    throw new Error(
      `logits of (${actual.positions}, ${actual.vocabulary}) compared with ` +
        `(${expected.positions}, ${expected.vocabulary})`,
    );
  }
  let squares = 0;
  let max = 0;
  let spread = 0;
  for (let position = 0; position < actual.positions; position++) {
    const a = logSoftmax(logitsAt(actual, position));
    const b = logSoftmax(logitsAt(expected, position));
    let lowest = Infinity;
    let highest = -Infinity;
    for (let token = 0; token < a.length; token++) {
      const difference = (a[token] ?? NaN) - (b[token] ?? NaN);
      if (Number.isNaN(difference)) {
        throw new Error(`logit of token ${token} at position ${position} is not a number`);
      }
      squares += difference * difference;
      max = Math.max(max, Math.abs(difference));
      lowest = Math.min(lowest, difference);
      highest = Math.max(highest, difference);
    }
    spread = Math.max(spread, highest - lowest);
  }
  return { rms: Math.sqrt(squares / actual.values.length), max, spread };
}

/** The best token of a row, and by how much it leads the second best. The first of equals wins. */
export function topTwo(row: Float64Array): { token: number; margin: number } {
  let token = 0;
  let best = -Infinity;
  let second = -Infinity;
  for (const [id, value] of row.entries()) {
    if (value > best) {
      second = best;
      best = value;
      token = id;
    } else if (value > second) second = value;
  }
  return { token, margin: best - second };
}
