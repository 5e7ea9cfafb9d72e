import { describe, expect, it } from "vitest";
import {
  bandCount,
  correlation,
  highFrequencyRatio,
  keptByBand,
  keptOfPairs,
  rankCorrelation,
  ranks,
  readMaskScores,
} from "./masks.js";

describe("masks", () => {
  it("are told by band of RoPE frequency: channel i turns with i + headDim / 2", () => {
    // 16 pairs: two of each band. The slowest two pairs whole, one channel of the fastest.
    const kept = [[[0, 14, 15, 30, 31]], [[]]];
    const rates = keptByBand({ kept, headDim: 32 });
    expect(rates).toHaveLength(bandCount);
    expect(rates[0]).toBeCloseTo(1 / 8);
    expect(rates[7]).toBeCloseTo(4 / 8);
    expect(rates.slice(1, 7)).toEqual([0, 0, 0, 0, 0, 0]);
    expect(keptOfPairs([0, 3, 4, 7], 8)).toEqual([2, 0, 0, 2]);
  });

  it("lie in heads whose magnitude is fast or slow", () => {
    expect(highFrequencyRatio([1, 0, 0, 0, 1, 0, 0, 0])).toBe(1);
    expect(highFrequencyRatio([1, 0, 0, 3, 0, 0, 0, 0])).toBe(0.25);
    expect(highFrequencyRatio([0, 0, 0, 0])).toBe(0);
  });

  it("have correlations by value and by rank", () => {
    expect(correlation([1, 2, 3], [2, 4, 6])).toBeCloseTo(1);
    expect(correlation([1, 2, 3], [1, 1, 1])).toBe(0);
    expect(rankCorrelation([1, 2, 3], [1, 10, 100])).toBeCloseTo(1);
    expect(ranks([3, 1, 1, 2])).toEqual([3, 0.5, 0.5, 2]);
  });

  it("are read as the training package writes what they were made from", () => {
    const magnitude = [[[1, 2]]];
    const text = JSON.stringify({
      model: "m",
      model_fingerprint: "ab",
      magnitude,
      factors_by_task: { retrieval: magnitude },
    });
    expect(readMaskScores(text, "f")).toEqual({
      model: "m",
      modelFingerprint: "ab",
      magnitude,
      factorsByTask: new Map([["retrieval", magnitude]]),
    });
    expect(() => readMaskScores('{"model":"m"}', "f")).toThrow("f: model_fingerprint is missing");
    expect(() => readMaskScores('{"model":"m","model_fingerprint":"a"}', "f")).toThrow(
      "f: magnitude: numbers by layer, head and channel expected",
    );
  });
});
