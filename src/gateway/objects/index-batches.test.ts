import { describe, expect, it } from "vitest";
import { indexAnswersMax, indexBatchMax, indexPushMs, indexTenantsMax } from "../limits.js";
import { IndexBatches } from "./index-batches.js";
import type { IndexEntry } from "./index-entry.js";

function entry(sessionId: string, version = 1): IndexEntry {
  return {
    ...{ sessionId, version, model: "m", title: "", createMs: 1, updateMs: version },
    ...{ lastTurn: 1, runningTurn: 0, messageCount: 2, forkedFrom: "", keyId: "" },
  };
}

describe("what sessions tell an index together", () => {
  it("is carried by the first of them, with the newest of each", () => {
    const batches = new IndexBatches();
    expect(batches.add("t", entry("a", 1), 0)).toBe(true);
    expect(batches.add("t", entry("b", 1), 1)).toBe(false);
    expect(batches.add("t", entry("a", 3), 2)).toBe(false);
    expect(batches.add("t", entry("a", 2), 3)).toBe(false);
    expect(batches.take("t")).toEqual([entry("a", 3), entry("b", 1)]);
    expect(batches.take("t")).toEqual([]);
    expect(batches.add("t", entry("b", 2), 4)).toBe(true);
  });

  it("is apart for each tenant", () => {
    const batches = new IndexBatches();
    expect(batches.add("t", entry("a"), 0)).toBe(true);
    expect(batches.add("u", entry("a"), 0)).toBe(true);
    expect(batches.take("u")).toHaveLength(1);
    expect(batches.take("t")).toHaveLength(1);
  });

  it("is carried by another one when its carrier is late, or it is full", () => {
    const batches = new IndexBatches();
    expect(batches.add("t", entry("a"), 0)).toBe(true);
    expect(batches.add("t", entry("b"), 2 * indexPushMs - 1)).toBe(false);
    expect(batches.add("t", entry("c"), 2 * indexPushMs)).toBe(true);
    expect(batches.add("t", entry("d"), 2 * indexPushMs + 1)).toBe(false);
    for (let index = 4; index < indexBatchMax - 1; index++) {
      expect(batches.add("t", entry(`s${index}`), 2 * indexPushMs + 1)).toBe(false);
    }
    expect(batches.add("t", entry("last"), 2 * indexPushMs + 1)).toBe(true);
    expect(batches.take("t")).toHaveLength(indexBatchMax);
  });

  it("waits for so many tenants at most", () => {
    const batches = new IndexBatches();
    for (let index = 0; index <= indexTenantsMax; index++) {
      expect(batches.add(`t${index}`, entry("a"), 0)).toBe(true);
    }
    expect(batches.take("t0")).toEqual([]);
    expect(batches.take("t1")).toHaveLength(1);
  });

  it("has answers that each session reads once, and so many at most", () => {
    const batches = new IndexBatches();
    batches.answered("t", "a", { version: 1, held: 5 });
    expect(batches.answer("u", "a")).toBeUndefined();
    expect(batches.answer("t", "a")).toEqual({ version: 1, held: 5 });
    expect(batches.answer("t", "a")).toBeUndefined();
    for (let index = 0; index <= indexAnswersMax; index++) {
      batches.answered("t", `s${index}`, { version: 1, held: 1 });
    }
    expect(batches.answer("t", "s0")).toBeUndefined();
    expect(batches.answer("t", "s1")).toEqual({ version: 1, held: 1 });
  });
});
