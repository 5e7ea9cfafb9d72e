import { describe, expect, it } from "vitest";
import { countedTurnMsMax } from "../limits.js";
import { textIntervalMs, turnBegins, turnEnds, turnsRunning } from "./text-interval.js";

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

describe("turnsRunning()", () => {
  it("counts turns between their beginning and their end", () => {
    const [first, second] = [turnBegins(0), turnBegins(1_000)];
    expect(turnsRunning(1_000)).toBe(2);
    turnEnds(first);
    turnEnds(first);
    expect(turnsRunning(1_000)).toBe(1);
    turnEnds(second);
    expect(turnsRunning(1_000)).toBe(0);
  });

  it("forgets turns whose end nobody told", () => {
    const lost = turnBegins(0);
    const later = turnBegins(1);
    expect(turnsRunning(countedTurnMsMax)).toBe(2);
    expect(turnsRunning(countedTurnMsMax + 1)).toBe(1);
    turnEnds(lost);
    turnEnds(later);
    expect(turnsRunning(countedTurnMsMax + 1)).toBe(0);
  });
});
