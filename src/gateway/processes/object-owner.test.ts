import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import {
  ownerOfEngine,
  ownerOfId,
  ownerOfShared,
  parseProcesses,
  processesMax,
} from "./object-owner.js";

describe("parseProcesses()", () => {
  it("reads an index and a count, and takes one process for none", () => {
    expect(parseProcesses("2/3")).toEqual({ index: 2, count: 3 });
    expect(parseProcesses(`63/${processesMax}`)).toEqual({ index: 63, count: 64 });
    for (const one of [undefined, "", "0/1"]) expect(parseProcesses(one)).toBeUndefined();
  });

  it.each(["3/3", "4/3", "0/0", "0/65", "1", "a/b", "-1/2", "0/2/", "1.5/3"])(
    "refuses %j",
    (wrong) => {
      expect(() => parseProcesses(wrong)).toThrow(`LEANEDGE_PROCESS is "${wrong}"`);
    },
  );
});

describe("ownerOfId()", () => {
  it("spreads ids evenly, whatever their number of processes", () => {
    const ids = Array.from({ length: 6_000 }, (_, index) =>
      createHash("sha256").update(`${index}`).digest("hex"),
    );
    for (const count of [2, 3, 7, 64]) {
      const kept = Array.from({ length: count }, () => 0);
      for (const id of ids) {
        const owner = ownerOfId(id, count);
        kept[owner] = (kept[owner] ?? NaN) + 1;
      }
      const mean = ids.length / count;
      // Five standard deviations of a binomial distribution.
      for (const some of kept) expect(Math.abs(some - mean)).toBeLessThan(5 * Math.sqrt(mean));
    }
  });

  it("knows only ids", () => {
    expect(() => ownerOfId("session-7", 2)).toThrow('"session-7" is no id of an object');
  });
});

describe("ownerOfEngine()", () => {
  it("gives each process as many of a model's engines as any other, or one less", () => {
    const owners = Array.from({ length: 8 }, (_, index) => ownerOfEngine(`a/b/${index}`, 3));
    expect(owners).toEqual([0, 1, 2, 0, 1, 2, 0, 1]);
  });

  it("knows only engines", () => {
    expect(() => ownerOfEngine("model", 2)).toThrow('"model" is no name of an engine');
  });
});

describe("ownerOfShared()", () => {
  it("gives each process as many shared objects as any other, or one less", () => {
    const owners = Array.from({ length: 7 }, (_, index) => ownerOfShared(index, 3));
    expect(owners).toEqual([0, 1, 2, 0, 1, 2, 0]);
  });
});
