import { describe, expect, it } from "vitest";
import { identityPlan } from "./plan.js";
import { thinkPlan, thinkScores } from "./think.js";

const base = identityPlan({ layers: 1, kvHeads: 2, headDim: 32 });

/** Sums whose scores are given: keys carry the score, each of two query heads a half. */
function sumsOf(scores: readonly (readonly number[])[]): {
  k: Float64Array;
  q: Float64Array;
} {
  return { k: Float64Array.from(scores.flat()), q: new Float64Array(4 * 32).fill(0.5) };
}

const rising = Array.from({ length: 32 }, (_, channel) => channel + 1);

describe("thinkScores", () => {
  it("are keys' squares times those of all query heads of the group", () => {
    const k = new Float64Array(64).fill(2);
    const q = Float64Array.from({ length: 128 }, (_, i) => Math.floor(i / 32) + 1);
    const [layer = []] = thinkScores(base, [{ k, q }]);
    expect(layer.map((head) => head[5])).toEqual([2 * (1 + 2), 2 * (3 + 4)]);
  });
});

describe("thinkPlan", () => {
  it("keeps the best channels of each head, in order", () => {
    const falling = [...rising].reverse();
    const plan = thinkPlan(base, [sumsOf([rising, falling])], 16);
    expect(plan.kept[0]?.[0]).toEqual(rising.slice(15, 31));
    expect(plan.kept[0]?.[1]).toEqual(rising.slice(0, 16).map((channel) => channel - 1));
  });

  it("keeps the lower channel where scores are equal, and all where asked to", () => {
    const equal = rising.map(() => 1);
    expect(thinkPlan(base, [sumsOf([equal, equal])], 16).kept[0]?.[0]?.at(-1)).toBe(15);
    expect(thinkPlan(base, [sumsOf([equal, equal])], 32).kept).toEqual(base.kept);
  });

  it.each([0, 8, 24, 48, NaN])("refuses a width of %d", (width) => {
    expect(() => thinkPlan(base, [sumsOf([rising, rising])], width)).toThrow(/width/);
  });

  it("refuses sums of another shape", () => {
    expect(() => thinkPlan(base, [], 16)).toThrow(/of 0 layers, must be of 1 with 2 KV heads/);
    expect(() => thinkPlan(base, [sumsOf([rising])], 16)).toThrow(/sums/);
  });
});
