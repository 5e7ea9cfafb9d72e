import { describe, expect, it } from "vitest";
import { placeQueuedMax } from "../limits.js";
import { choose as chooseOf, isFull } from "./placement.js";
import type { Candidate, CandidateLoad, ChoiceReason } from "./placement.js";
import { highestWeight } from "./rendezvous.js";
import { seededRandom } from "./testing/seeded-random.js";

const idle: CandidateLoad = {
  running: 0,
  queued: 0,
  sequences: 0,
  pages: 1_000,
  pagesFree: 1_000,
  pagesIdle: 0,
  placed: 0,
  pagesMoved: 0,
};

function worker(name: string, load: Partial<CandidateLoad> = {}): Candidate {
  return { worker: name, lastResort: false, load: { ...idle, ...load } };
}

/** Name and reason of a choice. */
function choose(
  candidates: readonly Candidate[],
  key: string,
  random: () => number,
): { readonly worker: string; readonly reason: ChoiceReason } | undefined {
  const choice = chooseOf(candidates, (one) => one, key, random);
  return choice && { worker: choice.chosen.worker, reason: choice.reason };
}

function engine(name: string): Candidate {
  return { worker: name, lastResort: true, load: idle };
}

describe("a first placement", () => {
  const random = seededRandom(1);

  it("takes the only worker, and says so", () => {
    expect(choose([worker("a"), engine("e")], "s", random)).toEqual({
      worker: "a",
      reason: "only",
    });
  });

  it("takes the one of two with less to do", () => {
    const choice = choose([worker("a", { running: 3 }), worker("b", { queued: 1 })], "s", random);
    expect(choice).toEqual({ worker: "b", reason: "load" });
  });

  it("counts what was placed since the last report", () => {
    const choice = choose([worker("a", { placed: 2 }), worker("b", { running: 1 })], "s", random);
    expect(choice).toEqual({ worker: "b", reason: "load" });
  });

  it("counts sixteen idle sequences as one that runs", () => {
    const choice = choose(
      [worker("a", { sequences: 32 }), worker("b", { running: 1, sequences: 1 })],
      "s",
      random,
    );
    expect(choice).toEqual({ worker: "b", reason: "load" });
  });

  it("takes more free pages where work is equal", () => {
    const choice = choose([worker("a", { pagesFree: 400 }), worker("b")], "s", random);
    expect(choice).toEqual({ worker: "b", reason: "load" });
  });

  it("counts the pages of resting caches as used, though they could be given back", () => {
    const choice = choose([worker("a", { pagesIdle: 600 }), worker("b")], "s", random);
    expect(choice).toEqual({ worker: "b", reason: "load" });
    const both = [worker("a", { pagesIdle: 600 }), worker("b", { pagesFree: 300 })];
    expect(choose(both, "s", random)?.worker).toBe("a");
  });

  it("counts pages that came with moved sessions since the last report", () => {
    const both = [worker("a", { pagesMoved: 300 }), worker("b", { pagesIdle: 200 })];
    expect(choose(both, "s", random)).toEqual({ worker: "b", reason: "load" });
  });

  it("lets rendezvous hashing decide between equals, the same way each time", () => {
    for (const key of ["s1", "s2", "s3", "s4"]) {
      const expected = { worker: highestWeight(["a", "b"], key), reason: "hash" };
      expect(choose([worker("a"), worker("b")], key, random)).toEqual(expected);
      expect(choose([worker("b"), worker("a")], key, random)).toEqual(expected);
    }
  });

  it("passes by full workers, and takes an engine only when all are", () => {
    const full = { queued: placeQueuedMax };
    expect(choose([worker("a", full), worker("b")], "s", random)?.worker).toBe("b");
    expect(choose([worker("a", full), engine("e")], "s", random)).toEqual({
      worker: "e",
      reason: "lastResort",
    });
    expect(choose([worker("a", full)], "s", random)).toBeUndefined();
    expect(choose([], "s", random)).toBeUndefined();
  });

  it("holds a worker without free pages for full only while something runs there", () => {
    expect(isFull({ ...idle, pagesFree: 0, running: 1 })).toBe(true);
    expect(isFull({ ...idle, pagesFree: 0 })).toBe(false);
    expect(isFull({ ...idle, pages: 0, pagesFree: 0, running: 9 })).toBe(false);
  });

  it("spreads sessions within 15 % of the mean over 200 workers", () => {
    const draw = seededRandom(42);
    const placed = new Map<string, number>();
    const names = Array.from({ length: 200 }, (_, index) => `w${index}`);
    for (let session = 0; session < 20_000; session++) {
      const candidates = names.map((name) =>
        worker(name, { sequences: placed.get(name) ?? 0, placed: 0 }),
      );
      const choice = choose(candidates, `s${session}`, draw);
      placed.set(choice?.worker ?? "", (placed.get(choice?.worker ?? "") ?? 0) + 1);
    }
    expect(Math.max(...placed.values()) / (20_000 / 200)).toBeLessThan(1.15);
    expect(placed.size).toBe(200);
  });
});

describe("rendezvous hashing", () => {
  const names = ["a", "b", "c", "d"];
  const keys = Array.from({ length: 2_000 }, (_, index) => `session-${index}`);

  it("moves only the sessions of a name that goes", () => {
    for (const key of keys) {
      const before = highestWeight(names, key);
      const after = highestWeight(["a", "b", "d"], key);
      if (before !== "c") expect(after).toBe(before);
    }
  });

  it("spreads keys evenly", () => {
    const counts = names.map((name) => keys.filter((key) => highestWeight(names, key) === name));
    for (const { length } of counts) {
      expect(length).toBeGreaterThan(400);
      expect(length).toBeLessThan(600);
    }
  });
});
