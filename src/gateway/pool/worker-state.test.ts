import { describe, expect, it } from "vitest";
import { heartbeatMs, workerForgetMs, workerLostMs, workerPendingMsMax } from "../limits.js";
import { seededRandom } from "./testing/seeded-random.js";
import {
  after,
  entered,
  isForgotten,
  reasonOf,
  silenceMsMax,
  stateOf,
  stateSinceMs,
} from "./worker-state.js";
import type { WorkerEvent, WorkerFacts, WorkerState } from "./worker-state.js";

const start = 1_000_000;
const beat: WorkerEvent = { kind: "heard", shutsDown: false };

/** A registered worker after events, each at its time. */
function history(
  events: readonly (readonly [afterMs: number, event: WorkerEvent])[],
  reports = true,
): WorkerFacts {
  return events.reduce(
    (facts, [afterMs, event]) => after(facts, event, start + afterMs),
    entered(start, { reports }),
  );
}

describe("a worker that registers", () => {
  it("is pending until its address has answered, whatever it says", () => {
    const facts = history([[2_000, beat]]);
    expect(stateOf(facts, start + 2_000)).toBe("pending");
    expect(stateOf(after(facts, { kind: "answered" }, start + 2_000), start + 2_000)).toBe("ready");
  });

  it("fails when its address has not answered for a minute", () => {
    const facts = history([[59_000, beat]]);
    expect(stateOf(facts, start + workerPendingMsMax - 1)).toBe("pending");
    expect(stateOf(facts, start + workerPendingMsMax)).toBe("failed");
    expect(reasonOf(facts, start + workerPendingMsMax)).toBe("its address never answered");
  });

  it("is not ready once three heartbeats are missing, and ready with the next one", () => {
    const facts = history([[0, { kind: "answered" }]]);
    expect(stateOf(facts, start + 3 * heartbeatMs - 1)).toBe("ready");
    expect(stateOf(facts, start + 3 * heartbeatMs)).toBe("notReady");
    const back = after(facts, beat, start + 100_000);
    expect(stateOf(back, start + 100_000)).toBe("ready");
  });

  it("is missed when it falls silent after the clock was set back", () => {
    const ahead = after(
      entered(start + 3_600_000, { reports: true }),
      { kind: "answered" },
      start + 3_600_000,
    );
    const facts = after(ahead, beat, start + 2_000);
    expect(stateOf(facts, start + 2_000 + silenceMsMax - 1)).toBe("ready");
    expect(stateOf(facts, start + 2_000 + silenceMsMax)).toBe("notReady");
  });

  it("says since when it is in its state, whether an event or the clock brought it there", () => {
    let facts = entered(start, { reports: true });
    const step = (afterMs: number, event: WorkerEvent): void => {
      facts = after(facts, event, start + afterMs);
    };
    const since = (afterMs: number): readonly [WorkerState, number] => [
      stateOf(facts, start + afterMs),
      stateSinceMs(facts, start + afterMs) - start,
    ];
    expect(since(500)).toEqual(["pending", 0]);
    step(1_000, { kind: "answered" });
    step(3_000, beat);
    expect(since(3_500)).toEqual(["ready", 1_000]);
    expect(since(3_000 + silenceMsMax + 7)).toEqual(["notReady", 3_000 + silenceMsMax]);
    expect(since(3_000 + workerLostMs + 7)).toEqual(["failed", 3_000 + workerLostMs]);
    step(20_000, beat);
    expect(since(20_100)).toEqual(["ready", 20_000]);
    step(21_000, { kind: "shutsDown" });
    step(22_000, { kind: "drain" });
    expect(since(22_100)).toEqual(["draining", 21_000]);
    step(23_000, { kind: "evict" });
    expect(since(30_000)).toEqual(["failed", 23_000]);
  });

  it("fails after ten silent minutes, and is forgotten an hour later", () => {
    const facts = history([[0, { kind: "answered" }]]);
    expect(stateOf(facts, start + workerLostMs - 1)).toBe("notReady");
    expect(stateOf(facts, start + workerLostMs)).toBe("failed");
    expect(isForgotten(facts, start + workerLostMs + workerForgetMs - 1)).toBe(false);
    expect(isForgotten(facts, start + workerLostMs + workerForgetMs)).toBe(true);
  });

  it("drains by a wish of people, which a heartbeat does not lift, and resumes", () => {
    const drained = history([
      [0, { kind: "answered" }],
      [1, { kind: "drain" }],
      [2, beat],
    ]);
    expect(stateOf(drained, start + 2)).toBe("draining");
    expect(reasonOf(drained, start + 2)).toBe("drained by an operator");
    expect(stateOf(after(drained, { kind: "resume" }, start + 3), start + 3)).toBe("ready");
  });

  it("drains when it says that it shuts down, which resuming does not lift", () => {
    const leaving = history([
      [0, { kind: "answered" }],
      [1, { kind: "heard", shutsDown: true }],
    ]);
    const resumed = after(leaving, { kind: "resume" }, start + 2);
    expect(stateOf(resumed, start + 2)).toBe("draining");
    expect(reasonOf(resumed, start + 2)).toBe("it shuts down");
  });

  it("keeps a wish to drain it through silence", () => {
    const drained = history([
      [0, { kind: "answered" }],
      [1, { kind: "drain" }],
    ]);
    expect(stateOf(drained, start + silenceMsMax)).toBe("notReady");
    expect(stateOf(after(drained, beat, start + silenceMsMax), start + silenceMsMax)).toBe(
      "draining",
    );
  });
});

describe("a worker of the configuration", () => {
  it("is not ready while it does not answer, however long, and never fails by silence", () => {
    const facts = history([[0, { kind: "unanswered" }]], false);
    expect(stateOf(facts, start + workerLostMs)).toBe("pending");
    const lost = history(
      [
        [0, { kind: "answered" }],
        [1, { kind: "unanswered" }],
      ],
      false,
    );
    expect(stateOf(lost, start + workerLostMs)).toBe("notReady");
    expect(stateOf(after(lost, { kind: "answered" }, start + 2), start + 2)).toBe("ready");
  });

  it("stays ready while an answer is late, until it was silent for as long as three heartbeats", () => {
    const late: WorkerEvent = { kind: "unanswered", late: true };
    const busy = history(
      [
        [0, { kind: "answered" }],
        [silenceMsMax - 1, late],
      ],
      false,
    );
    expect(stateOf(busy, start + silenceMsMax)).toBe("ready");
    const silent = after(busy, late, start + silenceMsMax);
    expect(stateOf(silent, start + silenceMsMax)).toBe("notReady");
    const back = after(silent, { kind: "answered" }, start + silenceMsMax + 1);
    expect(stateOf(back, start + silenceMsMax + 1)).toBe("ready");
  });

  it("stays ready between two questions", () => {
    const facts = history([[0, { kind: "answered" }]], false);
    expect(stateOf(facts, start + workerLostMs)).toBe("ready");
  });

  it("comes back from an eviction when it is resumed", () => {
    const out = history(
      [
        [0, { kind: "answered" }],
        [1, { kind: "evict" }],
      ],
      false,
    );
    expect(stateOf(out, start + 1)).toBe("failed");
    expect(stateOf(after(out, { kind: "resume" }, start + 2), start + 2)).toBe("ready");
    expect(isForgotten(out, start + workerForgetMs * 2)).toBe(false);
  });
});

describe("any history", () => {
  const kinds = ["answered", "unanswered", "heard", "leaves", "drain", "resume", "evict"] as const;

  function draw(random: () => number): WorkerEvent {
    const kind = kinds[Math.floor(random() * kinds.length)] ?? "heard";
    return kind === "leaves"
      ? { kind: "heard", shutsDown: true }
      : kind === "heard"
        ? beat
        : { kind };
  }

  /** What an event may lead to, from each state. */
  const allowed: Record<WorkerState, readonly WorkerState[]> = {
    pending: ["pending", "ready", "draining", "failed"],
    ready: ["ready", "draining", "notReady", "failed"],
    draining: ["draining", "ready", "notReady", "failed"],
    notReady: ["notReady", "ready", "draining", "failed"],
    failed: ["failed"],
  };

  it.each([1, 2, 3, 4, 5])("keeps the rules (seed %i)", (seed) => {
    const random = seededRandom(seed);
    for (let run = 0; run < 100; run++) {
      let nowMs = start;
      let facts = entered(nowMs, { reports: true });
      for (let step = 0; step < 40; step++) {
        nowMs += Math.floor(random() * (random() < 0.1 ? workerLostMs : 4_000));
        const event = draw(random);
        const before = stateOf(facts, nowMs);
        const next = after(facts, event, nowMs);
        const state = stateOf(next, nowMs);
        expect(allowed[before]).toContain(state);
        if (event.kind === "evict") expect(state).toBe("failed");
        if (before === "failed") expect(next).toBe(facts);
        if (state === "ready") {
          expect(next.answered && !next.drainWanted && !next.shutsDown).toBe(true);
          expect(nowMs - next.heardMs).toBeLessThan(silenceMsMax);
        }
        // The same event again changes nothing more.
        expect(stateOf(after(next, event, nowMs), nowMs)).toBe(state);
        // A reason is given exactly where one is needed.
        expect(reasonOf(next, nowMs) === "").toBe(state === "ready");
        facts = next;
      }
    }
  });

  it("only loses by waiting: time alone makes no worker ready", () => {
    const random = seededRandom(7);
    const rank: Record<WorkerState, number> = {
      ready: 3,
      draining: 3,
      pending: 2,
      notReady: 1,
      failed: 0,
    };
    for (let run = 0; run < 500; run++) {
      let facts = entered(start, { reports: true });
      let nowMs = start;
      for (let step = 0; step < 10; step++) {
        nowMs += Math.floor(random() * 3_000);
        facts = after(facts, draw(random), nowMs);
      }
      let last = rank[stateOf(facts, nowMs)];
      for (let look = 0; look < 20; look++) {
        nowMs += Math.floor(random() * 60_000);
        const next = rank[stateOf(facts, nowMs)];
        expect(next).toBeLessThanOrEqual(last);
        last = next;
      }
    }
  });
});
