import { describe, expect, it } from "vitest";
import { bootstrapMean, pairedBootstrap } from "./bootstrap.js";
import { SeededRandom } from "./random.js";

/** About normal: the sum of twelve even numbers. */
function normal(random: SeededRandom): number {
  let sum = -6;
  for (let draw = 0; draw < 12; draw++) sum += random.unit();
  return sum;
}

function scores(values: readonly number[]): Map<string, number> {
  return new Map(values.map((value, index) => [`t/1024/${index}`, value]));
}

describe("bootstrap", () => {
  it("has no width where all values are one", () => {
    expect(bootstrapMean([0.5, 0.5, 0.5])).toEqual({ mean: 0.5, low: 0.5, high: 0.5, count: 3 });
  });

  it("is as wide as theory says: 1.96 standard errors to each side", () => {
    // 300 of 1,000 are right: the standard error is sqrt(0.3 x 0.7 / 1000).
    const values = Array.from({ length: 1_000 }, (_, index) => (index < 300 ? 1 : 0));
    const half = 1.96 * Math.sqrt((0.3 * 0.7) / 1_000);
    const { mean, low, high } = bootstrapMean(values, { resamples: 4_000 });
    expect(mean).toBeCloseTo(0.3, 12);
    expect(low).toBeGreaterThan(0.3 - 1.08 * half);
    expect(low).toBeLessThan(0.3 - 0.92 * half);
    expect(high).toBeGreaterThan(0.3 + 0.92 * half);
    expect(high).toBeLessThan(0.3 + 1.08 * half);
  });

  it("holds the true mean about 95 times of 100", () => {
    let inside = 0;
    for (let trial = 0; trial < 200; trial++) {
      const random = new SeededRandom(`trial/${trial}`);
      const values = Array.from({ length: 50 }, () => 2 + normal(random));
      const { low, high } = bootstrapMean(values, { resamples: 400, seed: `seed/${trial}` });
      if (low <= 2 && 2 <= high) inside++;
    }
    expect(inside).toBeGreaterThanOrEqual(180);
    expect(inside).toBeLessThanOrEqual(198);
  });

  it("sees a small loss through large differences between samples, because it pairs", () => {
    const random = new SeededRandom("pairs");
    const before = Array.from({ length: 400 }, () => 0.5 + normal(random));
    const after = before.map((score) => score - 0.02 + 0.05 * normal(random));
    const paired = pairedBootstrap(scores(before), scores(after));
    expect(paired.count).toBe(400);
    expect(paired.high).toBeLessThan(0);
    expect(paired.high - paired.low).toBeLessThan(0.02);
    // Apart, the two means cannot be told from each other.
    expect(bootstrapMean(after).high).toBeGreaterThan(bootstrapMean(before).low);
  });

  it("leaves out what only one method has answered", () => {
    const before = scores([1, 1, 0, 0]);
    const after = new Map([...scores([1, 0, 0]), ["other", 1] as const]);
    expect(pairedBootstrap(before, after)).toMatchObject({ count: 3, mean: -1 / 3 });
    expect(() => pairedBootstrap(before, new Map([["other", 1]]))).toThrow(
      "no pairs: 4 and 1 samples, none in both",
    );
  });

  it("is the same again, and refuses what has no mean", () => {
    const values = [0, 1, 1, 0, 1];
    expect(bootstrapMean(values)).toEqual(bootstrapMean(values));
    expect(() => bootstrapMean([])).toThrow("0 values, at least 1 needed for a mean");
    expect(() => bootstrapMean(values, { confidence: 1 })).toThrow("confidence of 1");
  });
});
