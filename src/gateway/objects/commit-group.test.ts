import { describe, expect, it } from "vitest";
import { commitGroupMsMax, commitGroupTurns } from "../limits.js";
import { CommitGroup, commitGroupMs } from "./commit-group.js";

/** A group whose storage and clock the test drives. */
function group(turns: number) {
  const log: string[] = [];
  const timers: { readonly ms: number; readonly wake: () => void }[] = [];
  const syncs: { readonly resolve: () => void; readonly reject: (error: unknown) => void }[] = [];
  const commits = new CommitGroup({
    storage: {
      sync: () => {
        log.push("sync");
        return new Promise<void>((resolve, reject) => syncs.push({ resolve, reject }));
      },
    },
    clock: {
      timer: (ms, wake) => {
        timers.push({ ms, wake });
        return () => undefined;
      },
    },
    turns: () => turns,
  });
  const store = (name: string): Promise<string> =>
    commits
      .store(() => {
        if (name.startsWith("bad")) throw new Error(name);
        log.push(name);
      })
      .then(
        () => `${name} stored`,
        (error: unknown) => `${name}: ${error instanceof Error ? error.message : "?"}`,
      );
  return { log, timers, syncs, store };
}

describe("commits of an object's sessions", () => {
  it("are made at once where few turns run", async () => {
    const { log, syncs, store, timers } = group(commitGroupTurns - 1);
    const a = store("a");
    const b = store("b");
    expect(log).toEqual(["a", "sync", "b", "sync"]);
    expect(timers).toEqual([]);
    for (const { resolve } of syncs) resolve();
    expect(await Promise.all([a, b])).toEqual(["a stored", "b stored"]);
  });

  it("are one where many run: nobody is told before it is durable", async () => {
    const { log, syncs, store, timers } = group(4 * commitGroupTurns);
    const told: string[] = [];
    const all = ["a", "b", "c"].map(async (name) => told.push(await store(name)));
    expect(log).toEqual([]);
    expect(timers.map(({ ms }) => ms)).toEqual([4]);
    timers[0]?.wake();
    expect(log).toEqual(["a", "b", "c", "sync"]);
    await Promise.resolve();
    expect(told).toEqual([]);
    syncs[0]?.resolve();
    await Promise.all(all);
    expect(told).toEqual(["a stored", "b stored", "c stored"]);
  });

  it("fail alone where one cannot be written, and together where the disk refuses", async () => {
    const { log, store, syncs, timers } = group(commitGroupTurns);
    const all = ["a", "bad b", "c"].map(store);
    timers[0]?.wake();
    expect(log).toEqual(["a", "c", "sync"]);
    syncs[0]?.reject(new Error("the disk is full"));
    expect(await Promise.all(all)).toEqual([
      "a: the disk is full",
      "bad b: bad b",
      "c: the disk is full",
    ]);
  });

  it("that come while others become durable are the next", async () => {
    const { log, store, syncs, timers } = group(commitGroupTurns);
    const a = store("a");
    timers[0]?.wake();
    const b = store("b");
    expect(timers.length).toBe(2);
    timers[1]?.wake();
    expect(log).toEqual(["a", "sync", "b", "sync"]);
    syncs[1]?.resolve();
    expect(await b).toBe("b stored");
    syncs[0]?.resolve();
    expect(await a).toBe("a stored");
  });

  it("wait for longer the more turns run, and never long", () => {
    expect(commitGroupMs(0)).toBe(0);
    expect(commitGroupMs(commitGroupTurns)).toBe(1);
    expect(commitGroupMs(10_000)).toBe(commitGroupMsMax);
  });
});
