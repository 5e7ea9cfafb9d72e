import { describe, expect, it } from "vitest";
import { PlacementReason } from "../../gen/leanedge/v1/session_pb.js";
import { poolServedMax, poolServedMs } from "../limits.js";
import { ServedBatches } from "./served-turns.js";

const a = { worker: "pool:default/a", address: "http://a" };
const b = { worker: "pool:default/b", address: "http://b" };
const { LOAD, ONLY } = PlacementReason;

describe("turns that were served", () => {
  it("are counted by worker and reason, and carried by who adds the first", () => {
    const batches = new ServedBatches();
    expect(batches.add("p", a, LOAD, 0)).toBe(true);
    expect(batches.add("p", a, LOAD, 1)).toBe(false);
    expect(batches.add("p", a, ONLY, 2)).toBe(false);
    expect(batches.add("p", b, LOAD, 3)).toBe(false);
    expect(batches.add("q", a, LOAD, 4)).toBe(true);
    expect(batches.take("p")).toEqual([
      { ...a, reason: LOAD, turns: 2 },
      { ...a, reason: ONLY, turns: 1 },
      { ...b, reason: LOAD, turns: 1 },
    ]);
    expect(batches.take("p")).toEqual([]);
    expect(batches.add("p", a, LOAD, 5)).toBe(true);
  });

  it("find another who carries them where the first one is late", () => {
    const batches = new ServedBatches();
    batches.add("p", a, LOAD, 0);
    expect(batches.add("p", b, LOAD, 2 * poolServedMs - 1)).toBe(false);
    expect(batches.add("p", b, LOAD, 2 * poolServedMs)).toBe(true);
    expect(batches.take("p")).toHaveLength(2);
  });

  it("are of poolServedMax workers at most", () => {
    const batches = new ServedBatches();
    for (let at = 0; at <= poolServedMax; at++) {
      batches.add("p", { worker: `w${at}`, address: "" }, LOAD, 0);
    }
    batches.add("p", { worker: "w0", address: "" }, LOAD, 0);
    const told = batches.take("p");
    expect(told).toHaveLength(poolServedMax);
    expect(told[0]?.turns).toBe(2);
  });
});
