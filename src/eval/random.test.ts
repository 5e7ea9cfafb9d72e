import { describe, expect, it } from "vitest";
import { SeededRandom } from "./random.js";

describe("seeded random numbers", () => {
  it("are the same for the same seed, and others for a near one", () => {
    const drawn = (seed: string): number[] => {
      const random = new SeededRandom(seed);
      return Array.from({ length: 8 }, () => random.uint32());
    };
    expect(drawn("a/1")).toEqual(drawn("a/1"));
    expect(new Set([...drawn("a/1"), ...drawn("a/2"), ...drawn("b/1")]).size).toBe(24);
    // Results would no longer be comparable with earlier ones.
    expect(drawn("a/1").slice(0, 2)).toEqual([3042242379, 1861626457]);
  });

  it("are even, from the first draw of a seed on", () => {
    const counts = Array.from({ length: 10 }, () => 0);
    const many = 20_000;
    for (let seed = 0; seed < many; seed++) {
      const at = new SeededRandom(`even/${seed}`).below(10);
      counts[at] = (counts[at] ?? 0) + 1;
    }
    // Within five standard deviations.
    for (const count of counts) expect(Math.abs(count - many / 10)).toBeLessThan(5 * 43);
  });

  it("draws different items, few or many, and refuses more than there are", () => {
    const items = Array.from({ length: 20 }, (_, at) => at);
    for (const count of [0, 3, 20]) {
      const drawn = new SeededRandom(String(count)).sample(items, count);
      expect(new Set(drawn).size).toBe(count);
      expect(drawn.every((item) => items.includes(item))).toBe(true);
    }
    const random = new SeededRandom("s");
    expect(() => random.sample(items, 21)).toThrow("21 items wanted, 20 are there");
    expect(() => random.different(3, () => random.pick(["a", "b"]))).toThrow(/3 wanted/);
    expect(() => random.pick([])).toThrow("0 items to draw from, at least 1 needed");
  });

  it("makes numbers and UUIDs of the right form", () => {
    const random = new SeededRandom("forms");
    for (let draw = 0; draw < 100; draw++) {
      expect(random.digits(7)).toMatch(/^[1-9]\d{6}$/);
      expect(random.uuid()).toMatch(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
    }
  });
});
