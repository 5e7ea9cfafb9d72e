import { describe, expect, it } from "vitest";
import { coresOf, onCores, splitCores } from "./cores.js";

describe("coresOf()", () => {
  it("reads ranges and single cores", () => {
    expect(coresOf("0-2,5,8-8")).toEqual([0, 1, 2, 5, 8]);
  });

  it("refuses what is no list", () => {
    for (const list of ["", "a", "3-1", "1-", "0,,1"]) {
      expect(() => coresOf(list), list).toThrow(`${list} is no list of cores`);
    }
  });
});

describe("splitCores()", () => {
  it("gives each part as many, and leaves the rest", () => {
    expect(splitCores([4, 5, 6, 7, 8, 9, 10], 3)).toEqual(["4,5", "6,7", "8,9"]);
  });

  it("gives none where a part would have one core only", () => {
    expect(splitCores([0, 1, 2, 3, 4], 3)).toBeUndefined();
  });
});

describe("onCores()", () => {
  it("leaves a program alone without cores, and has taskset start it with them", () => {
    expect(onCores(undefined, "a", ["b"])).toEqual({ command: "a", args: ["b"] });
    const args = ["--cpu-list", "0,1", "a", "b"];
    expect(onCores("0,1", "a", ["b"])).toEqual({ command: "taskset", args });
  });
});
