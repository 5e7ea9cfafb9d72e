import { runInDurableObject } from "cloudflare:test";
import { create } from "@bufbuild/protobuf";
import { describe, expect, it } from "vitest";
import { SamplingParamsSchema } from "../../gen/leanedge/v1/sampling_pb.js";
import { Backend, FinishReason, PlacementReason, Role } from "../../gen/leanedge/v1/session_pb.js";
import { FingerprintsSchema, SegmentKind } from "../../gen/leanedge/worker/v1/worker_pb.js";
import { keptCharsMax, keptIdsBytesMax } from "../limits.js";
import { testEnv } from "../testing/gateway-clients.js";
import { SessionStore } from "./session-store.js";

/** Runs a test on the storage of an object of its own. */
function withStorage(test: (storage: DurableObjectStorage) => void): Promise<void> {
  const stub = testEnv.SESSION.getByName(crypto.randomUUID());
  return runInDurableObject(stub, (_instance, state) => test(state.storage));
}

/** All that a store says. */
function seen(store: SessionStore): unknown {
  const turns = Array.from({ length: store.lastTurn() + 2 }, (_, number) => store.turn(number));
  return structuredClone({
    session: store.session(),
    deletion: store.deletion(),
    binding: store.binding(),
    lastTurn: store.lastTurn(),
    running: store.runningTurn(),
    turns,
    turnsUpTo: store.turnsUpTo(store.lastTurn()),
    keyed: store.turnByIdempotencyKey("key-1"),
    pieces: store.pieces(),
    piecesFrom: store.piecesFrom(3),
    messages: store.messages(0, Number.MAX_SAFE_INTEGER),
    page: store.messages(1, 2),
    each: [...store.eachMessage(1)],
    count: store.messageCount(),
    answers: turns.map((turn) => store.answerText(turn?.number ?? 0)),
    segments: store.segments().map(({ kind, ids }) => ({ kind, ids: [...ids] })),
    upTo: store.segmentsUpTo(1).map(({ turn, ids }) => [turn, ...ids]),
    logName: store.logName(),
    tokens: store.tokenCount(),
    plan: store.cache.plan(),
    pages: store.cache.pages(),
    saveDueMs: store.cache.saveDueMs(),
    snapshot: store.cache.snapshot(),
    left: store.left.all(),
  });
}

const sampling = create(SamplingParamsSchema, { seed: 7n, stop: ["x"] });
const fingerprints = create(FingerprintsSchema, { model: "m1", template: "t1", plan: "p1" });

function begin(store: SessionStore, number: number, text = "hello"): void {
  store.insertTurn({
    number,
    messagesHash: new Uint8Array(32).fill(number),
    requestHash: new Uint8Array(0),
    idempotencyKey: `key-${number}`,
    sampling,
    detach: false,
    requestId: `request-${number}`,
    model: "m",
    allowFallback: number === 1 ? false : undefined,
    nowMs: 1_000 * number,
  });
  store.insertMessage(number, Role.USER, text, false, 1_000 * number);
  store.touch(1_000 * number);
}

function accept(store: SessionStore, turn: number, promptIds: number[], rebuilt = false): void {
  const resolved = create(SamplingParamsSchema, { ...sampling, maxTokens: 20 });
  store.acceptPrompt({ turn, sampling: resolved, promptIds, fingerprints, rebuilt });
  store.setServedBy(turn, {
    promptTokens: promptIds.length,
    cachedTokens: 1,
    model: "m",
    backend: Backend.WASM,
    worker: "w",
    placement: PlacementReason.BOUND,
  });
}

/** Appends to the running answer, and stores it. */
function append(store: SessionStore, ids: number[], text: string): void {
  store.appendPiece(1, ids, text);
  store.commit();
}

function end(store: SessionStore, number: number, rest: string, generatedTokens?: number): void {
  if (rest !== "") {
    const ids = [...rest].map((_, index) => 500 + index);
    store.appendPiece(number, ids, rest);
  }
  store.endTurn(number, {
    finishReason: FinishReason.STOP,
    errorMessage: "",
    generatedTokens,
    cacheBytes: 99,
    nowMs: 5_000 * number,
  });
}

/** What happens to a session, one change after the other. */
const changes: readonly (readonly [string, (store: SessionStore) => void])[] = [
  [
    "a session is made",
    (store) =>
      store.insertSession({
        ...{ tenant: "t", sessionId: "s", model: "m", title: "", keyId: "k" },
        ...{ titleGiven: false, implicit: true, nowMs: 1 },
      }),
  ],
  ["a turn begins", (store) => begin(store, 1)],
  ["it gets a title", (store) => store.setTitle("title")],
  ["it is detached", (store) => store.setDetached()],
  ["it is orphaned", (store) => store.setOrphaned(77)],
  [
    "a generation is issued",
    (store) => {
      store.issueGeneration();
      store.commit();
    },
  ],
  ["a worker is asked in vain", (store) => store.noteTried({ worker: "v", address: "a" }, 1)],
  ["an attempt is counted", (store) => void store.countAttempt(1)],
  ["a worker accepts", (store) => accept(store, 1, [1, 2, 3])],
  ["a plan is named", (store) => store.cache.setPlan({ name: "p", pagesMax: 3, bytesMax: 4 })],
  ["it is bound", (store) => store.bind({ worker: "w", address: "b" }, 1, 10)],
  ["a piece comes", (store) => append(store, [10, 11], "é a")],
  ["ids without text come", (store) => append(store, [12], "")],
  ["an attempt follows the piece", (store) => void store.countAttempt(1)],
  ["another piece comes", (store) => append(store, [13], "b")],
  ["the turn ends", (store) => end(store, 1, "cd")],
  ["pages are told", (store) => store.cache.setPages(5)],
  ["a save is due", (store) => store.cache.setSaveDue(123)],
  ["the index knows", (store) => store.raiseIndexVersion(5_000)],
  ["a turn is begun and refused", (store) => begin(store, 2)],
  ["it is withdrawn", (store) => store.withdrawTurn(2)],
  ["the turn begins again", (store) => begin(store, 2, "again")],
  ["another worker answers", (store) => store.bind({ worker: "x", address: "c" }, 2, 20)],
  ["the log is made anew", (store) => accept(store, 2, [4, 5, 6, 7], true)],
  ["the left one does not hear", (store) => store.left.countTry("w")],
  ["the left one hears", (store) => store.left.forget("v")],
  ["ids after a stop are dropped", (store) => end(store, 2, "efg", 1)],
  ["it is unbound", (store) => store.unbind()],
  ["a turn without an answer", (store) => begin(store, 3)],
  ["is cancelled", (store) => end(store, 3, "")],
  ["the session is deleted", (store) => store.deleteSession(9_000)],
  ["the index has forgotten it", (store) => store.forgetDeletion()],
];

describe("a store that keeps what it wrote", () => {
  it("says after each change what a store says that reads all of it anew", () =>
    withStorage((storage) => {
      const kept = new SessionStore(storage);
      for (const [name, change] of changes) {
        change(kept);
        expect(seen(kept), name).toEqual(seen(new SessionStore(storage)));
      }
    }));

  it("goes on from any change as one that lost nothing", () =>
    withStorage((storage) => {
      const states: unknown[] = [];
      const kept = new SessionStore(storage);
      for (const [, change] of changes) {
        change(kept);
        states.push(seen(kept));
      }
      for (const [index, [name, change]] of changes.entries()) {
        // Nothing is remembered from one change to the next.
        change(new SessionStore(storage));
        expect(seen(new SessionStore(storage)), name).toEqual(states[index]);
      }
    }));

  it("writes nothing of a transaction that throws, and forgets it", () =>
    withStorage((storage) => {
      const kept = new SessionStore(storage);
      for (const [, change] of changes.slice(0, 12)) change(kept);
      const before = seen(kept);
      expect(() =>
        kept.atomically(() => {
          kept.appendPiece(1, [20], "lost");
          kept.bind({ worker: "lost", address: "" }, 9, 9);
          end(kept, 1, "lost");
          // Reads in between see it.
          expect(kept.answerText(1)).toContain("lost");
          throw new Error("no");
        }),
      ).toThrow("no");
      expect(seen(kept)).toEqual(before);
      expect(seen(new SessionStore(storage))).toEqual(before);
    }));

  it("stores what was put off with the next change, all of it at once", () =>
    withStorage((storage) => {
      const kept = new SessionStore(storage);
      kept.later(() => {
        for (const [, change] of changes.slice(0, 3)) change(kept);
      });
      kept.later(() => accept(kept, 1, [1, 2, 3]));
      expect(kept.turn(1)?.accepted).toBe(true);
      const other = new SessionStore(storage);
      expect(other.session()).toBeUndefined();
      kept.appendPiece(1, [10], "a");
      expect(other.session()).toBeUndefined();
      kept.touch(2_000);
      expect(seen(new SessionStore(storage))).toEqual(seen(kept));
    }));

  it("says whenever something waits, until it is stored", () =>
    withStorage((storage) => {
      const kept = new SessionStore(storage);
      for (const [, change] of changes.slice(0, 2)) change(kept);
      let told = 0;
      kept.onWaiting(() => told++);
      kept.setTitle("stored at once");
      expect([told, kept.waiting]).toEqual([0, false]);
      kept.appendPiece(1, [10], "a");
      kept.appendPiece(1, [11], "b");
      expect([told, kept.waiting]).toEqual([2, true]);
      kept.commit();
      expect([told, kept.waiting]).toEqual([2, false]);
      // What came between two commits is one row, and no row is left of an answer that has ended.
      expect(storage.sql.exec("SELECT * FROM piece").toArray()).toHaveLength(1);
      end(kept, 1, "c");
      expect(storage.sql.exec("SELECT * FROM piece").toArray()).toEqual([]);
      expect(new SessionStore(storage).answerText(1)).toBe("abc");
    }));

  it("keeps what waits when a later change is refused before it changed anything", () =>
    withStorage((storage) => {
      const kept = new SessionStore(storage);
      kept.later(() => {
        for (const [, change] of changes.slice(0, 3)) change(kept);
      });
      const refuse = (): void => {
        throw new Error("refused");
      };
      expect(() => kept.later(refuse)).toThrow("refused");
      kept.commit();
      expect(new SessionStore(storage).turn(1)).toEqual(kept.turn(1));
      expect(kept.turn(1)?.running).toBe(true);
    }));

  it("reads what is too long to keep", () =>
    withStorage((storage) => {
      const kept = new SessionStore(storage);
      changes[0]?.[1](kept);
      begin(kept, 1, "x".repeat(keptCharsMax));
      accept(
        kept,
        1,
        Array.from({ length: keptIdsBytesMax / 4 }, () => 1),
      );
      end(kept, 1, "yz");
      begin(kept, 2, "short");
      accept(kept, 2, [2, 3]);
      expect(seen(kept)).toEqual(seen(new SessionStore(storage)));
      expect(kept.messageCount()).toBe(3);
      expect(kept.segments().map(({ kind }) => kind)).toEqual([
        SegmentKind.PROMPT,
        SegmentKind.GENERATED,
        SegmentKind.PROMPT,
      ]);
      expect(kept.logName().segmentTokens).toEqual([keptIdsBytesMax / 4, 2, 2]);
    }));
});
