import { describe, expect, it } from "vitest";
import {
  breakerFailuresMax,
  breakerOpenMs,
  breakerOpenMsMax,
  breakerTrialMsMax,
} from "../limits.js";
import { admits, breakerState, closedBreaker, failed, placedOn, succeeded } from "./breaker.js";
import type { Breaker } from "./breaker.js";
import { seededRandom } from "./testing/seeded-random.js";

const start = 1_000_000;

function failTimes(breaker: Breaker, times: number, nowMs: number): Breaker {
  return times === 0 ? breaker : failTimes(failed(breaker, nowMs), times - 1, nowMs);
}

describe("a circuit breaker", () => {
  it("opens at the third failure in a row, not before", () => {
    const two = failTimes(closedBreaker, breakerFailuresMax - 1, start);
    expect([breakerState(two, start), admits(two, start)]).toEqual(["closed", true]);
    const three = failed(two, start);
    expect([breakerState(three, start), admits(three, start)]).toEqual(["open", false]);
  });

  it("forgets failures at a success", () => {
    const two = failTimes(closedBreaker, breakerFailuresMax - 1, start);
    expect(succeeded(two, start)).toEqual(closedBreaker);
  });

  it("lets one trial through after its time, and no second one", () => {
    const open = failTimes(closedBreaker, breakerFailuresMax, start);
    const later = start + breakerOpenMs;
    expect([breakerState(open, later), admits(open, later)]).toEqual(["halfOpen", true]);
    const trial = placedOn(open, later);
    expect(admits(trial, later)).toBe(false);
    expect(admits(trial, later + breakerTrialMsMax - 1)).toBe(false);
    expect(admits(trial, later + breakerTrialMsMax)).toBe(true);
  });

  it("closes when the trial succeeds, and stays open twice as long when it fails", () => {
    const open = failTimes(closedBreaker, breakerFailuresMax, start);
    const later = start + breakerOpenMs;
    const trial = placedOn(open, later);
    expect(succeeded(trial, later + 10)).toEqual(closedBreaker);
    const again = failed(trial, later + 10);
    expect(breakerState(again, later + 10 + 2 * breakerOpenMs - 1)).toBe("open");
    expect(breakerState(again, later + 10 + 2 * breakerOpenMs)).toBe("halfOpen");
  });

  it("takes no success for one that began before it opened", () => {
    const open = failTimes(closedBreaker, breakerFailuresMax, start);
    expect(succeeded(open, start + 1)).toBe(open);
  });

  it("lets a trial through when the clock was set back, however far", () => {
    const open = failTimes(closedBreaker, breakerFailuresMax, start);
    const back = start - 3_600_000;
    expect([breakerState(open, back), admits(open, back)]).toEqual(["halfOpen", true]);
    const trial = placedOn({ ...open, openedMs: back - breakerOpenMs }, start);
    expect(admits(trial, back)).toBe(true);
  });

  it("never stays open longer than its bound, and never admits while open (seeded)", () => {
    const random = seededRandom(11);
    for (let run = 0; run < 300; run++) {
      let breaker = closedBreaker;
      let nowMs = start;
      for (let step = 0; step < 60; step++) {
        nowMs += Math.floor(random() * 20_000);
        const draw = random();
        breaker =
          draw < 0.6
            ? failed(breaker, nowMs)
            : draw < 0.8
              ? placedOn(breaker, nowMs)
              : succeeded(breaker, nowMs);
        expect(breaker.openMs).toBeLessThanOrEqual(breakerOpenMsMax);
        if (breakerState(breaker, nowMs) === "open") expect(admits(breaker, nowMs)).toBe(false);
        expect(breakerState(breaker, nowMs + breakerOpenMsMax)).not.toBe("open");
        expect(admits(breaker, nowMs + breakerOpenMsMax + breakerTrialMsMax)).toBe(true);
      }
    }
  });
});
