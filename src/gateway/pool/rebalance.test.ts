import { describe, expect, it } from "vitest";
import { crowdedFrom, crowdedUntil, moveContextShareMax, movesPerMinuteMax } from "../limits.js";
import type { CandidateLoad } from "./placement.js";
import {
  afterMove,
  fullBudget,
  hasRoomFor,
  isCrowded,
  movesLeft,
  worthMoving,
} from "./rebalance.js";

const now = 1_000_000;
const load: CandidateLoad = {
  running: 0,
  queued: 0,
  sequences: 10,
  pages: 1_000,
  pagesFree: 1_000,
  pagesIdle: 600,
  placed: 0,
  pagesMoved: 0,
};

describe("a budget of moves", () => {
  it("is empty after so many at once, and fills over a minute and no further", () => {
    let budget = fullBudget;
    for (let move = 0; move < movesPerMinuteMax; move++) {
      expect(movesLeft(budget, now)).toBeGreaterThanOrEqual(1);
      budget = afterMove(budget, now);
    }
    expect(movesLeft(budget, now)).toBe(0);
    expect(movesLeft(budget, now + 30_000)).toBeCloseTo(movesPerMinuteMax / 2);
    expect(movesLeft(budget, now + 600_000)).toBe(movesPerMinuteMax);
  });

  it("does not fill while a clock goes back", () => {
    const budget = afterMove(fullBudget, now);
    expect(movesLeft(budget, now - 600_000)).toBe(movesPerMinuteMax - 1);
  });
});

describe("what moves", () => {
  it("changes between crowded and not at two bounds", () => {
    const mean = 0.5;
    const between = (mean * (crowdedFrom + crowdedUntil)) / 2;
    expect(isCrowded(false, between, mean)).toBe(false);
    expect(isCrowded(true, between, mean)).toBe(true);
    expect(isCrowded(false, mean * crowdedFrom + 0.001, mean)).toBe(true);
    expect(isCrowded(true, mean * crowdedUntil - 0.001, mean)).toBe(false);
  });

  it("is never a small session, one about to end, or one too large to help", () => {
    const offer = { from: "a", pages: 60, pagesMax: 0 };
    expect(worthMoving(offer, load, 0.5)).toBe(true);
    expect(worthMoving({ ...offer, pages: 11 }, load, 0.5)).toBe(false);
    expect(worthMoving({ ...offer, pages: 201 }, load, 0.5)).toBe(false);
    expect(worthMoving({ ...offer, pagesMax: 60 / moveContextShareMax }, load, 0.5)).toBe(true);
    expect(worthMoving({ ...offer, pagesMax: 60 }, load, 0.5)).toBe(false);
    // What others took along meanwhile is not there any more.
    expect(worthMoving(offer, { ...load, pagesMoved: -80 }, 0.5)).toBe(false);
  });

  it("goes where the worker stays below the mean and nothing waits", () => {
    const light = { ...load, pagesIdle: 400 };
    expect(hasRoomFor(60, light, 0.5)).toBe(true);
    expect(hasRoomFor(101, light, 0.5)).toBe(false);
    expect(hasRoomFor(60, { ...light, pagesMoved: 50 }, 0.5)).toBe(false);
    expect(hasRoomFor(60, { ...light, queued: 1 }, 0.5)).toBe(false);
    expect(hasRoomFor(60, { ...light, pages: 0 }, 0.5)).toBe(false);
  });
});
