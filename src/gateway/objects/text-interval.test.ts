import { describe, expect, it } from "vitest";
import { textIntervalMs } from "./text-interval.js";

describe("textIntervalMs()", () => {
  it("asks for none while few turns run, then for a millisecond a turn, up to the longest", () => {
    const turns = [0, 1, 7, 8, 9, 49, 50, 51, 128, 10_000];
    expect(turns.map((running) => textIntervalMs(running, 50))).toEqual([
      0, 0, 0, 8, 9, 49, 50, 50, 50, 50,
    ]);
    expect(turns.map((running) => textIntervalMs(running, 10))).toEqual([
      0, 0, 0, 8, 9, 10, 10, 10, 10, 10,
    ]);
  });

  it("asks for none where it is switched off", () => {
    for (const running of [1, 8, 10_000]) expect(textIntervalMs(running, 0)).toBe(0);
  });

  it("makes no more than about a thousand events a second of all turns, down to 20 of each", () => {
    for (let running = 8; running <= 50; running++) {
      expect((running * 1_000) / textIntervalMs(running, 50)).toBe(1_000);
    }
    expect(1_000 / textIntervalMs(10_000, 50)).toBe(20);
  });
});
