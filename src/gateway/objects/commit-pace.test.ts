import { describe, expect, it } from "vitest";
import { commitPauseMsMax, commitQuietMs } from "../limits.js";
import { CommitPace } from "./commit-pace.js";

function paceAfter(ms: number, commits: number): CommitPace {
  const pace = new CommitPace();
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
    const late = paceAfter(commitQuietMs + 5, 100).pauseMs;
    const later = paceAfter(commitQuietMs + 10, 100).pauseMs;
    expect(late).toBeGreaterThan(0);
    expect(later).toBeGreaterThan(late);
    expect(paceAfter(60_000, 100).pauseMs).toBe(commitPauseMsMax);
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
