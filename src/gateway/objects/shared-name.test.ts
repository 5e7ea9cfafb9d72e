import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import { sessionObjectName } from "./session-name.js";
import {
  parseSessionObjects,
  sessionObjectsMax,
  sharedIndex,
  sharedName,
  sharedOf,
} from "./shared-name.js";

describe("the name of a shared object", () => {
  it("says which one it is", () => {
    for (const index of [0, 7, 10, 999, sessionObjectsMax - 1]) {
      expect(sharedIndex(sharedName(index))).toBe(index);
    }
  });

  it.each([
    sessionObjectName("shared:1", "a"),
    sessionObjectName("", "shared:1"),
    "shared:",
    "shared:01",
    "shared:-1",
    "shared:1/2",
    "xshared:1",
  ])("is not %j", (name) => {
    expect(sharedIndex(name)).toBeUndefined();
  });
});

describe("sharedOf()", () => {
  it.each([
    ["counted", (index: number) => `session-${index}`],
    ["hashes", (index: number) => createHash("sha256").update(`${index}`).digest("hex")],
    ["alike but for their first characters", (index: number) => `${index}-of-the-same-client`],
  ])("spreads ids that are %s evenly", (_, idOf) => {
    for (const count of [2, 3, 16, 64]) {
      const mean = 500;
      const held = Array.from({ length: count }, () => 0);
      for (let index = 0; index < mean * count; index++) {
        const at = sharedOf(sessionObjectName("acme", idOf(index)), count);
        held[at] = (held[at] ?? NaN) + 1;
      }
      // Six standard deviations of a binomial distribution.
      for (const some of held) expect(Math.abs(some - mean)).toBeLessThan(6 * Math.sqrt(mean));
    }
  });

  it("stays as it is: sessions are stored by it", () => {
    const names = ["dev/a", "dev/b", "acme/session-1", "acme/%F0%9F%98%80"];
    expect(names.map((name) => sharedOf(name, 16))).toEqual([2, 9, 1, 2]);
  });
});

describe("parseSessionObjects()", () => {
  it("reads a number, and takes one object a session for none", () => {
    for (const none of [undefined, "", "0"]) expect(parseSessionObjects(none)).toBe(0);
    expect(parseSessionObjects("16")).toBe(16);
    expect(parseSessionObjects("1024")).toBe(sessionObjectsMax);
  });

  it.each(["1025", "-1", "1.5", "1e1", "many", " 1", "99999"])("refuses %j", (wrong) => {
    expect(() => parseSessionObjects(wrong)).toThrow(
      `LEANEDGE_SESSION_OBJECTS is "${wrong}"; it must be a whole number from 0 to 1024`,
    );
  });
});
