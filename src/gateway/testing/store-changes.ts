/** What can happen to a session's store, and all that a store says: for tests of session-store.ts. */
import { runInDurableObject } from "cloudflare:test";
import { create } from "@bufbuild/protobuf";
import { SamplingParamsSchema } from "../../gen/leanedge/v1/sampling_pb.js";
import { Backend, FinishReason, PlacementReason, Role } from "../../gen/leanedge/v1/session_pb.js";
import { FingerprintsSchema } from "../../gen/leanedge/worker/v1/worker_pb.js";
import type { SessionKey } from "../objects/session-key.js";
import type { SessionStore } from "../objects/session-store.js";
import { testEnv } from "./gateway-clients.js";

/** Key of a session of many in an object; nobody notes that its number is taken. */
export function keyOf(number: number): SessionKey {
  return { number, taken: () => undefined, undone: () => undefined };
}

/** Runs a test on the storage of an object of its own. */
export function withStorage(test: (storage: DurableObjectStorage) => void): Promise<void> {
  const stub = testEnv.SESSION.getByName(crypto.randomUUID());
  return runInDurableObject(stub, (_instance, state) => test(state.storage));
}

/** All that a store says. */
export function seen(store: SessionStore): unknown {
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
    snapshotRows: [...store.cache.snapshotRows(store.cache.snapshot()?.number ?? 0)],
    left: store.left.all(),
  });
}

const sampling = create(SamplingParamsSchema, { seed: 7n, stop: ["x"] });
const fingerprints = create(FingerprintsSchema, { model: "m1", template: "t1", plan: "p1" });

/** Begins a turn. */
export function begin(store: SessionStore, number: number, text = "hello"): void {
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

/** A worker accepts a turn. */
export function accept(
  store: SessionStore,
  turn: number,
  promptIds: number[],
  rebuilt = false,
): void {
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

/** A turn ends, its answer with `rest`. */
export function end(
  store: SessionStore,
  number: number,
  rest: string,
  generatedTokens?: number,
): void {
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

/** Saves a cache of two rows. */
function saveSnapshot(store: SessionStore, tokens: number): void {
  const number = store.cache.beginSnapshot();
  store.cache.appendSnapshotRow(number, 0, Uint8Array.of(number, 1));
  store.cache.appendSnapshotRow(number, 1, Uint8Array.of(number, 2));
  const sha256 = new Uint8Array(32).fill(tokens);
  store.cache.finishSnapshot({
    ...{ number, tokens, sha256, fingerprints },
    ...{ engineVersion: "e", bytes: 4 },
  });
}

/** A change of a session, and what it is. */
export type NamedChange = readonly [name: string, change: (store: SessionStore) => void];

function named(name: string, change: (store: SessionStore) => void): NamedChange {
  return [name, change];
}

/** What happens to a session, one change after the other. */
export const changes: readonly NamedChange[] = [
  named("a session is made", (store) =>
    store.insertSession({
      ...{ tenant: "t", sessionId: "s", model: "m", title: "", keyId: "k" },
      ...{ titleGiven: false, implicit: true, nowMs: 1 },
    }),
  ),
  named("a turn begins", (store) => begin(store, 1)),
  named("it gets a title", (store) => store.setTitle("title")),
  named("it is detached", (store) => store.setDetached()),
  named("it is orphaned", (store) => store.setOrphaned(77)),
  named("a generation is issued", (store) => {
    store.issueGeneration();
    store.commit();
  }),
  named("a worker is asked in vain", (store) => store.noteTried({ worker: "v", address: "a" }, 1)),
  named("an attempt is counted", (store) => void store.countAttempt(1)),
  named("a worker accepts", (store) => accept(store, 1, [1, 2, 3])),
  named("a plan is named", (store) => store.cache.setPlan({ name: "p", pagesMax: 3, bytesMax: 4 })),
  named("it is bound", (store) => store.bind({ worker: "w", address: "b" }, 1, 10)),
  named("a piece comes", (store) => append(store, [10, 11], "é a")),
  named("ids without text come", (store) => append(store, [12], "")),
  named("an attempt follows the piece", (store) => void store.countAttempt(1)),
  named("another piece comes", (store) => append(store, [13], "b")),
  named("the turn ends", (store) => end(store, 1, "cd")),
  named("pages are told", (store) => store.cache.setPages(5)),
  named("a save is due", (store) => store.cache.setSaveDue(123)),
  named("the cache is saved", (store) => saveSnapshot(store, 7)),
  named("a save is given up", (store) => {
    const number = store.cache.beginSnapshot();
    store.cache.appendSnapshotRow(number, 0, Uint8Array.of(9));
    store.cache.abandonSnapshot(number);
  }),
  named("the index knows", (store) => store.raiseIndexVersion(5_000)),
  named("a turn is begun and refused", (store) => begin(store, 2)),
  named("it is withdrawn", (store) => store.withdrawTurn(2)),
  named("the turn begins again", (store) => begin(store, 2, "again")),
  named("another worker answers", (store) => store.bind({ worker: "x", address: "c" }, 2, 20)),
  named("the log is made anew", (store) => accept(store, 2, [4, 5, 6, 7], true)),
  named("the left one does not hear", (store) => store.left.countTry("w")),
  named("the left one hears", (store) => store.left.forget("v")),
  named("ids after a stop are dropped", (store) => end(store, 2, "efg", 1)),
  named("the cache is saved anew", (store) => saveSnapshot(store, 8)),
  named("it is unbound", (store) => store.unbind()),
  named("a turn without an answer", (store) => begin(store, 3)),
  named("is cancelled", (store) => end(store, 3, "")),
  named("the session is deleted", (store) => store.deleteSession(9_000)),
  named("the index has forgotten it", (store) => store.forgetDeletion()),
];
