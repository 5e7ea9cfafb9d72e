import { describe, expect, it } from "vitest";
import { commitPauseMsMax, commitQuietMs } from "../limits.js";
import { CommitPace } from "./commit-pace.js";

/** The pace after commits that took `ms`, behind a first one that was quick. */
function paceAfter(ms: number, commits: number): CommitPace {
  const pace = new CommitPace();
  pace.took(0);
  for (let commit = 0; commit < commits; commit++) {
    pace.took(ms);
  }
  return pace;
}

describe("the pace of commits", () => {
  it("makes nothing wait where they are durable soon", () => {
    expect(new CommitPace().pauseMs).toBe(0);
    expect(paceAfter(commitQuietMs, 1_000).pauseMs).toBe(0);
  });

  it("makes changes wait longer the longer commits take, up to a bound", () => {
    const late = paceAfter(commitQuietMs + 5, 20).pauseMs;
    const later = paceAfter(commitQuietMs + 10, 20).pauseMs;
    expect(late).toBeGreaterThan(0);
    expect(later).toBeGreaterThan(late);
    expect(paceAfter(60_000, 20).pauseMs).toBe(commitPauseMsMax);
  });

  it("makes nothing wait where storage is far away and every commit takes as long", () => {
    const pace = new CommitPace();
    for (let commit = 0; commit < 1_000; commit++) {
      pace.took(30 + (commit % 7));
      expect(pace.pauseMs).toBe(0);
    }
    // Others came: commits take three times as long, and what follows waits.
    for (let commit = 0; commit < 20; commit++) {
      pace.took(100);
    }
    expect(pace.pauseMs).toBeGreaterThan(0);
  });

  it("takes for quiet what stays so", () => {
    expect(paceAfter(30, 20).pauseMs).toBeGreaterThan(0);
    expect(paceAfter(30, 2_000).pauseMs).toBe(0);
  });

  it("forgets one slow commit within a few quick ones", () => {
    const pace = paceAfter(0, 10);
    pace.took(60_000);
    for (let commit = 0; commit < 40; commit++) {
      pace.took(0);
    }
    expect(pace.pauseMs).toBe(0);
  });
});
