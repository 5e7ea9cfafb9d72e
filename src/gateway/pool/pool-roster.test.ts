import { beforeEach, describe, expect, it } from "vitest";
import {
  heartbeatMs,
  movesPerMinuteMax,
  placeQueuedMax,
  poolWorkersMax,
  workerForgetMs,
  workerLostMs,
  workerPendingMsMax,
} from "../limits.js";
import type { Beat, PlaceRequest, Registration } from "./pool-calls.js";
import { newEntry, noLoad } from "./pool-entry.js";
import type { WorkerLoad } from "./pool-entry.js";
import { PoolRoster } from "./pool-roster.js";
import type { MoveOffer } from "./rebalance.js";
import { seededRandom } from "./testing/seeded-random.js";
import { silenceMsMax, stateOf } from "./worker-state.js";

const start = 1_000_000;
const model = { model: "m", fingerprint: "f", templateFingerprint: "t", planFingerprints: ["p"] };

function registration(name: string, more: Partial<Registration> = {}): Registration {
  return {
    name,
    incarnation: `${name}-1`,
    address: `http://${name}:9000`,
    startMs: start,
    models: [model],
    load: noLoad,
    shutsDown: false,
    ...more,
  };
}

function beat(name: string, more: Partial<Beat> = {}): Beat {
  return { name, incarnation: `${name}-1`, load: noLoad, shutsDown: false, ...more };
}

function session(more: Partial<PlaceRequest> = {}): PlaceRequest {
  return {
    model: "m",
    key: "s",
    avoid: [],
    fingerprint: "",
    planFingerprint: "",
    waitMs: 0,
    ...more,
  };
}

const a = { worker: "pool:p/a", address: "http://a:9000" };

let roster: PoolRoster;

beforeEach(() => {
  roster = new PoolRoster("p", seededRandom(1));
});

/** Registers a worker whose address has answered. */
function ready(name: string, more: Partial<Registration> = {}): void {
  roster.register(registration(name, more), start);
  const entry = roster.byName(name);
  if (entry === undefined) throw new Error(`${name} did not enter`);
  roster.apply(entry, { kind: "answered" }, start);
}

function state(name: string, nowMs = start): string {
  const entry = roster.byName(name);
  return entry === undefined ? "gone" : stateOf(entry.facts, nowMs);
}

describe("registration", () => {
  it("is idempotent for a process, and a heartbeat needs it", () => {
    expect(roster.heartbeat(beat("a"), start)).toEqual({ kind: "unknown" });
    expect(roster.register(registration("a"), start)).toEqual({ kind: "member", state: "pending" });
    ready("a");
    expect(roster.register(registration("a"), start)).toEqual({ kind: "member", state: "ready" });
    expect(roster.heartbeat(beat("a"), start)).toEqual({ kind: "member", state: "ready" });
    expect(roster.entries()).toHaveLength(1);
  });

  it("lets a later process replace an earlier one, which then is out", () => {
    ready("a");
    const later = registration("a", { incarnation: "a-2", startMs: start + 5 });
    expect(roster.register(later, start + 10)).toEqual({ kind: "member", state: "pending" });
    expect(roster.heartbeat(beat("a"), start + 11)).toMatchObject({ kind: "out" });
    expect(roster.register(registration("a"), start + 12)).toEqual({
      kind: "out",
      message: 'a later process of worker "a" is in the pool',
    });
    expect(roster.deregister("a", "a-1")).toBe(false);
    expect(roster.deregister("a", "a-2")).toBe(true);
    expect(state("a")).toBe("gone");
  });

  it("takes an earlier process where the later one is silent", () => {
    ready("a", { incarnation: "a-2", startMs: start + 5 });
    const silent = start + silenceMsMax;
    expect(roster.register(registration("a"), silent)).toMatchObject({ kind: "member" });
  });

  it("asks a worker's new address before it gets sessions", () => {
    ready("a");
    roster.register(registration("a", { address: "http://b:1" }), start);
    expect(state("a")).toBe("pending");
  });

  it("keeps an evicted process out, and lets a new one in", () => {
    ready("a");
    const entry = roster.byName("a");
    if (entry !== undefined) roster.apply(entry, { kind: "evict" }, start);
    const out = { kind: "out", message: 'worker "a" was evicted by an operator' };
    expect(roster.heartbeat(beat("a"), start)).toEqual(out);
    expect(roster.register(registration("a"), start)).toEqual(out);
    expect(roster.deregister("a", "a-1")).toBe(true);
    expect(roster.register(registration("a"), start)).toEqual(out);
    expect(
      roster.register(registration("a", { incarnation: "a-2", startMs: start + 1 }), start),
    ).toEqual({ kind: "member", state: "pending" });
  });

  it("keeps a wish to drain through a new process", () => {
    ready("a");
    const entry = roster.byName("a");
    if (entry !== undefined) roster.apply(entry, { kind: "drain" }, start);
    ready("a", { incarnation: "a-2", startMs: start + 1 });
    expect(state("a")).toBe("draining");
  });

  it("sends a worker that was silent for too long back to register", () => {
    ready("a");
    expect(roster.heartbeat(beat("a"), start + workerLostMs)).toEqual({ kind: "unknown" });
    expect(roster.register(registration("a"), start + workerLostMs)).toEqual({
      kind: "member",
      state: "pending",
    });
  });

  it("forgets those that failed long ago", () => {
    ready("a");
    ready("b");
    roster.heartbeat(beat("b"), start + workerLostMs - 1);
    const later = start + workerLostMs + workerForgetMs;
    expect(roster.prune(later - 1)).toEqual([]);
    expect(roster.prune(later).map(({ name }) => name)).toEqual(["a"]);
  });

  it("has room for a new worker as long as one of its places is a dead one's", () => {
    for (let worker = 0; worker < poolWorkersMax; worker++) {
      roster.register(registration(`w${worker}`), start);
    }
    const later = start + workerPendingMsMax;
    expect(roster.makeRoom("new", later - 1)).toEqual([]);
    expect(roster.register(registration("new"), later - 1)).toMatchObject({ kind: "full" });
    const evicted = roster.byName("w0");
    if (evicted !== undefined) roster.apply(evicted, { kind: "evict" }, start);
    // A process that people put out stays out.
    expect(roster.makeRoom("new", later - 1)).toEqual([]);
    expect(roster.makeRoom("w5", later)).toEqual([]);
    expect(roster.makeRoom("new", later).map(({ name }) => name)).toEqual(["w1"]);
    expect(roster.register(registration("new"), later)).toMatchObject({ kind: "member" });
    expect(roster.entries()).toHaveLength(poolWorkersMax);
  });

  it("refuses the name of a worker of the configuration", () => {
    roster.add(newEntry({ worker: "worker:m/0", name: "taken", origin: "configured" }, start));
    expect(roster.register(registration("taken"), start)).toMatchObject({ kind: "out" });
  });
});

describe("a place", () => {
  it("is none in a pool without a worker of the model", () => {
    ready("a");
    expect(roster.place(session({ model: "other" }), start)).toEqual({ kind: "none" });
  });

  it("names worker, address and reason, and is counted until the next heartbeat", () => {
    ready("a");
    expect(roster.place(session(), start)).toEqual({
      kind: "placed",
      worker: "pool:p/a",
      address: "http://a:9000",
      reason: "only",
    });
    expect(roster.byName("a")).toMatchObject({ placed: 1, placedTotal: 1 });
    roster.heartbeat(beat("a"), start);
    expect(roster.byName("a")).toMatchObject({ placed: 0, placedTotal: 1 });
    expect(roster.placed).toEqual({ only: 1, load: 0, hash: 0, lastResort: 0, relief: 0 });
  });

  it("is on no worker that is pending, drains, is silent or has failed", () => {
    roster.register(registration("pending"), start);
    ready("draining", { shutsDown: true });
    ready("silent");
    ready("a");
    const later = start + silenceMsMax;
    roster.heartbeat(beat("a"), later);
    roster.heartbeat(beat("draining", { shutsDown: true }), later);
    for (let index = 0; index < 20; index++) {
      expect(roster.place(session({ key: String(index) }), later)).toMatchObject({
        worker: "pool:p/a",
      });
    }
  });

  it("is not with a worker to be avoided, unless there is no other", () => {
    ready("a");
    ready("b");
    const avoid = ["pool:p/a"];
    expect(roster.place(session({ avoid }), start)).toMatchObject({ worker: "pool:p/b" });
    roster.deregister("b", "b-1");
    expect(roster.place(session({ avoid }), start)).toMatchObject({ worker: "pool:p/a" });
  });

  it("is with a worker that understands the log, where there is one", () => {
    ready("a", { models: [{ ...model, planFingerprints: ["p"] }] });
    ready("b", { models: [{ ...model, planFingerprints: ["q"] }] });
    for (let index = 0; index < 10; index++) {
      const request = session({ key: String(index), fingerprint: "f", planFingerprint: "q" });
      expect(roster.place(request, start)).toMatchObject({ worker: "pool:p/b" });
    }
    expect(roster.place(session({ planFingerprint: "none" }), start)).toMatchObject({
      kind: "placed",
    });
  });

  it("waits where all are full, and not for an engine", () => {
    ready("a", { load: { ...noLoad, queued: placeQueuedMax } });
    expect(roster.place(session(), start)).toEqual({ kind: "full" });
    roster.add(
      newEntry({ worker: "engine:m/0", name: "engine:m/0", origin: "embedded" }, start, {
        models: [model],
        facts: {
          ...newEntry({ worker: "", name: "", origin: "embedded" }, start).facts,
          answered: true,
        },
      }),
    );
    expect(roster.place(session(), start)).toMatchObject({
      worker: "engine:m/0",
      reason: "lastResort",
    });
  });

  it("takes a worker at its word that it is full, until it says its load again", () => {
    ready("a");
    roster.report(a, "full", start);
    expect(roster.place(session(), start)).toEqual({ kind: "full" });
    roster.heartbeat(beat("a"), start);
    expect(roster.place(session(), start)).toMatchObject({ kind: "placed" });
  });

  it("is not with a worker that failed three times, for a while, and then for one trial", () => {
    ready("a");
    ready("b");
    for (let call = 0; call < 3; call++) roster.report(a, "failed", start);
    for (let index = 0; index < 20; index++) {
      expect(roster.place(session({ key: String(index) }), start)).toMatchObject({
        worker: "pool:p/b",
      });
    }
    const later = start + 5_000;
    const trials = Array.from({ length: 20 }, () => roster.place(session(), later)).filter(
      (answer) => answer.kind === "placed" && answer.worker === "pool:p/a",
    );
    expect(trials).toHaveLength(1);
    roster.report(a, "succeeded", later);
    expect(roster.byName("a")?.breaker.failures).toBe(0);
  });

  it("takes a call that ended well on a worker of the configuration for an answer of it", () => {
    const entry = newEntry({ worker: "worker:m/0", name: "asked", origin: "configured" }, start);
    roster.add(entry);
    roster.apply(entry, { kind: "answered" }, start);
    roster.apply(entry, { kind: "unanswered" }, start + 1);
    expect(stateOf(entry.facts, start + 1)).toBe("notReady");
    roster.report(entry, "succeeded", start + 2);
    expect(stateOf(entry.facts, start + 2)).toBe("ready");
    expect(roster.place(session(), start + 2)).toMatchObject({ kind: "placed" });
  });

  it("takes no blame for what was found at an address that the worker has left", () => {
    ready("a", { address: "http://a:9001" });
    for (let call = 0; call < 3; call++) roster.report(a, "failed", start);
    expect(roster.byName("a")).toMatchObject({ failuresTotal: 0, breaker: { failures: 0 } });
  });
});

describe("a crowded worker", () => {
  const pages = 10_000;
  /** A load whose caches all rest. */
  function rests(used: number, sequences = 100): WorkerLoad {
    return { ...noLoad, sequences, pages, pagesFree: pages, pagesIdle: used };
  }

  const from = "pool:p/a";
  function offer(more: Partial<MoveOffer> = {}): PlaceRequest {
    return session({ move: { from, pages: 60, pagesMax: 500, ...more } });
  }

  /** Three workers, of which `a` holds more than the others. */
  function crowd(used = 6_000): void {
    for (const name of ["a", "b", "c"]) ready(name, { load: rests(4_000) });
    say("a", used);
  }

  function say(name: string, used: number, nowMs = start + heartbeatMs): void {
    roster.heartbeat(beat(name, { load: rests(used) }), nowMs);
  }

  const crowded = () => roster.byName("a")?.crowded;
  const now = start + heartbeatMs;

  it("gives a session to one that is below the mean, and counts its pages there at once", () => {
    crowd();
    expect(crowded()).toBe(true);
    const answer = roster.place(offer(), now);
    expect(answer).toMatchObject({ kind: "placed", reason: "relief" });
    expect(answer).not.toMatchObject({ worker: from });
    expect(roster.placed.relief).toBe(1);
    const moved = roster.entries().map(({ pagesMoved }) => pagesMoved);
    expect(moved.toSorted((x, y) => x - y)).toEqual([-60, 0, 60]);
    expect(roster.entries().map(({ movedTotal }) => movedTotal)).toEqual([1, 0, 0]);
  });

  it("keeps small sessions, those about to end, and those larger than what it has too much", () => {
    crowd();
    for (const move of [
      { pages: 0 },
      { pages: 11 },
      { pages: 451 },
      { pages: 4_000, pagesMax: 0 },
    ]) {
      expect(roster.place(offer(move), now)).toEqual({ kind: "stay" });
    }
    expect(roster.place(offer({ pages: 12 }), now)).toMatchObject({ kind: "placed" });
  });

  it("becomes crowded above one bound, and is so down to a lower one", () => {
    for (const name of ["a", "b", "c"]) ready(name, { load: rests(4_000) });
    // The mean counts the worker itself.
    const at = (over: number): number => (over * 8_000) / (3 - over);
    const steps: readonly [over: number, is: boolean][] = [
      [1.05, false],
      [1.07, true],
      [1.045, true],
      [1.02, false],
      [1.045, false],
    ];
    for (const [index, [over, is]] of steps.entries()) {
      const nowMs = start + (index + 1) * heartbeatMs;
      for (const name of ["b", "c"]) say(name, 4_000, nowMs - 1);
      say("a", at(over), nowMs);
      expect(crowded(), `step ${index}`).toBe(is);
    }
  });

  it("takes part in so many moves a minute, and in as many again a minute later", () => {
    crowd();
    const moves = (nowMs: number): number => {
      let count = 0;
      while (count < 1_000 && roster.place(offer(), nowMs).kind === "placed") {
        say("a", 6_000, nowMs);
        count++;
      }
      return count;
    };
    expect(moves(now)).toBe(movesPerMinuteMax);
    for (const nowMs of [now + 60_000 - heartbeatMs, now + 60_000]) {
      for (const name of ["a", "b", "c"]) say(name, name === "a" ? 6_000 : 4_000, nowMs);
    }
    expect(moves(now + 60_000)).toBe(movesPerMinuteMax);
  });

  it("keeps its sessions where no other has room, is ready, or understands their log", () => {
    crowd();
    expect(roster.place({ ...offer(), fingerprint: "other" }, now)).toEqual({ kind: "stay" });
    for (const name of ["b", "c"]) {
      const entry = roster.byName(name);
      if (entry !== undefined) roster.apply(entry, { kind: "drain" }, now);
    }
    expect(roster.place(offer(), now)).toEqual({ kind: "stay" });
    expect(roster.place(offer({ from: "pool:p/unknown" }), now)).toEqual({ kind: "stay" });
  });

  it("is none alone, nor where hardly any memory is used", () => {
    ready("a", { load: rests(6_000) });
    say("a", 6_000);
    expect(crowded()).toBe(false);
    for (const name of ["b", "c"]) ready(name, { load: rests(0) });
    say("a", 40, start + 2 * heartbeatMs);
    expect(crowded()).toBe(false);
  });
});
