import { describe, expect, it } from "vitest";
import { fullBucket, fullInMs, refilled, remaining, taken, waitMs } from "./token-bucket.js";
import type { TokenBucket } from "./token-bucket.js";

/** Uniform numbers in [0, 1) from a seed (mulberry32). */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

describe("token bucket", () => {
  it("gives its size at once, then as it fills", () => {
    let bucket = refilled(fullBucket, 60, 1_000_000);
    expect(remaining(bucket, 60)).toBe(60);
    bucket = taken(bucket, 60);
    expect(remaining(bucket, 60)).toBe(0);
    expect(waitMs(bucket, 60, 1)).toBe(1_000);
    expect(waitMs(bucket, 60, 5)).toBe(5_000);
    expect(fullInMs(bucket, 60)).toBe(60_000);
    bucket = refilled(bucket, 60, 1_001_000);
    expect(waitMs(bucket, 60, 1)).toBe(0);
    expect(remaining(bucket, 60)).toBe(1);
    expect(remaining(refilled(bucket, 60, 9_000_000), 60)).toBe(60);
  });

  it("gives more than its size when it is full, and lets the rest flow back first", () => {
    let bucket = refilled(fullBucket, 100, 0);
    expect(waitMs(bucket, 100, 250)).toBe(0);
    bucket = taken(bucket, 250);
    expect(remaining(bucket, 100)).toBe(0);
    expect(waitMs(bucket, 100, 1)).toBe(Math.ceil((151 / 100) * 60_000));
    expect(waitMs(refilled(bucket, 100, 90_600), 100, 1)).toBe(0);
  });

  it("takes back no more than it gave", () => {
    expect(taken(taken(refilled(fullBucket, 10, 0), 3), -100).used).toBe(0);
  });

  it("lets nothing flow while a clock goes back", () => {
    const bucket = taken(refilled(fullBucket, 60, 100_000), 60);
    const back = refilled(bucket, 60, 40_000);
    expect(back.used).toBe(60);
    expect(refilled(back, 60, 100_000).used).toBe(60);
    expect(refilled(back, 60, 130_000).used).toBe(30);
  });

  it("is full again within two minutes, however far a clock goes back", () => {
    const bucket = taken(refilled(fullBucket, 60, 7_200_000), 60);
    const back = refilled(bucket, 60, 3_600_000);
    expect(back.used).toBe(60);
    expect(refilled(back, 60, 3_600_000 + 60_000).used).toBe(60);
    expect(refilled(back, 60, 3_600_000 + 90_000).used).toBe(30);
    expect(refilled(back, 60, 3_600_000 + 120_000).used).toBe(0);
  });

  it("keeps what was taken when its size changes", () => {
    const bucket = taken(refilled(fullBucket, 60, 0), 30);
    expect(remaining(bucket, 20)).toBe(0);
    expect(waitMs(bucket, 20, 1)).toBe(33_000);
    expect(remaining(bucket, 100)).toBe(70);
  });

  it.each([1, 2, 3, 4, 5, 6, 7, 8])(
    "never gives more than its size and what flowed, in any interval (seed %i)",
    (seed) => {
      const draw = random(seed);
      const perMinute = 1 + Math.floor(draw() * 500);
      const grants: { atMs: number; amount: number }[] = [];
      let bucket: TokenBucket = fullBucket;
      let nowMs = 1_000_000;
      for (let step = 0; step < 600; step++) {
        nowMs += Math.floor(draw() ** 3 * 20_000);
        bucket = refilled(bucket, perMinute, nowMs);
        const amount = 1 + Math.floor(draw() * Math.min(perMinute, 50));
        const wait = waitMs(bucket, perMinute, amount);
        if (wait > 0) {
          // What it says is the time: a millisecond earlier would be too early, and then is in time.
          expect(waitMs(refilled(bucket, perMinute, nowMs + wait), perMinute, amount)).toBe(0);
          expect(
            waitMs(refilled(bucket, perMinute, nowMs + wait - 1), perMinute, amount),
          ).toBeGreaterThan(0);
          continue;
        }
        bucket = taken(bucket, amount);
        grants.push({ atMs: nowMs, amount });
      }
      expect(grants.length).toBeGreaterThan(10);
      let excess = -Infinity;
      for (const [index, first] of grants.entries()) {
        let sum = 0;
        for (const { atMs, amount } of grants.slice(index)) {
          sum += amount;
          const bound = perMinute * (1 + (atMs - first.atMs) / 60_000);
          excess = Math.max(excess, sum - bound);
        }
      }
      expect(excess).toBeLessThanOrEqual(1e-6);
    },
  );
});
