import { describe, expect, it } from "vitest";
import { commitLostMs, commitOthersQuiet, commitPauseMsMax, commitQuietMs } from "../limits.js";
import { CommitPace } from "./commit-pace.js";
import { crowd } from "./testing/crowded-pace.js";

async function pauseAfter(ms: number, sessions?: number): Promise<number> {
  const pace = new CommitPace();
  await crowd(pace, ms, sessions);
  return pace.pauseMs;
}

describe("the pace of commits", () => {
  it("makes nothing wait where they are durable soon", async () => {
    expect(new CommitPace().pauseMs).toBe(0);
    expect(await pauseAfter(commitQuietMs)).toBe(0);
  });

  it("makes nothing wait where few sessions store at once, however long that takes", async () => {
    for (const sessions of [1, 4, commitOthersQuiet]) {
      expect(await pauseAfter(60_000, sessions)).toBe(0);
    }
  });

  it("makes changes wait longer the longer many commits take, up to a bound", async () => {
    const late = await pauseAfter(commitQuietMs + 2);
    const later = await pauseAfter(commitQuietMs + 4);
    expect(late).toBeGreaterThan(0);
    expect(later).toBeGreaterThan(late);
    expect(await pauseAfter(60_000)).toBe(commitPauseMsMax);
  });

  it("forgets a crowd within a few commits that were alone", async () => {
    const pace = new CommitPace();
    await crowd(pace);
    expect(pace.pauseMs).toBeGreaterThan(0);
    for (let commit = 0; commit < 20; commit++) {
      await crowd(pace, 60_000, 1);
    }
    expect(pace.pauseMs).toBe(0);
  });

  it("counts a commit that failed, and one that never ended, as over", async () => {
    const pace = new CommitPace();
    const lost = 4 * commitOthersQuiet;
    for (let commit = 0; commit < lost; commit++) {
      await expect(
        pace.during(
          () => Promise.reject(new Error("the object is gone")),
          () => 0,
        ),
      ).rejects.toThrow("gone");
      void pace.during(
        () => new Promise(() => undefined),
        () => 0,
      );
    }
    for (let commit = 0; commit < lost; commit++) {
      await pace.during(
        () => Promise.resolve(),
        () => commitLostMs + 60 * commit,
      );
    }
    expect(pace.pauseMs).toBe(0);
    await crowd(pace, 60_000, 2);
    expect(pace.pauseMs).toBe(0);
  });
});
