import { runInDurableObject } from "cloudflare:test";
import { create } from "@bufbuild/protobuf";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import { SamplingParamsSchema } from "../../gen/leanedge/v1/sampling_pb.js";
import { Backend, FinishReason, PlacementReason, Role } from "../../gen/leanedge/v1/session_pb.js";
import type { GenerateResponse as ClientEvent } from "../../gen/leanedge/v1/session_pb.js";
import { GenerateResponseSchema, SegmentKind } from "../../gen/leanedge/worker/v1/worker_pb.js";
import type { GenerateRequest, GenerateResponse } from "../../gen/leanedge/worker/v1/worker_pb.js";
import {
  answerBytesMax,
  attemptBackoffMsMax,
  heartbeatIntervalMs,
  storeBehindMs,
  workerSilenceMsMax,
} from "../limits.js";
import { restartingError } from "../../worker/process/unavailable.js";
import { testEnv } from "../testing/gateway-clients.js";
import { SteeredClock, settle } from "../testing/steered-clock.js";
import { workerWithoutPool } from "../pool/standing.js";
import type { WorkerDirectory } from "../worker-client/directory.js";
import type { WorkerClient } from "../worker-client/worker-client.js";
import { ChangeBell, streamAnswer } from "./answer-stream.js";
import type { EventSource } from "./answer-streams.js";
import { SessionSnapshots } from "./session-snapshots.js";
import { ResumePoint } from "./resume-point.js";
import { SessionStore } from "./session-store.js";
import { StoreBehind } from "./store-behind.js";
import { TurnRunner } from "./turn-runner.js";

type EventInit = MessageInitShape<typeof GenerateResponseSchema>["event"];

/** One call of the worker, steered by the test. */
interface Call {
  readonly request: GenerateRequest;
  readonly signal: AbortSignal;
  send(...events: EventInit[]): Promise<void>;
  fail(error: Error): Promise<void>;
}

/** A turn of a fresh session and the hands that steer it. */
interface Bench {
  readonly store: SessionStore;
  readonly clock: SteeredClock;
  /** The session as an object would read it that has lost its memory now. */
  readonly stored: () => SessionStore;
  /** Commits so far. */
  readonly commits: () => number;
  /** How often the pools were looked at so far. */
  readonly looks: () => number;
  readonly calls: Call[];
  readonly runner: TurnRunner;
  /** The call of an attempt, counted from 0. */
  readonly call: (attempt: number) => Call;
  /** What a client reads. */
  readonly events: (signal?: AbortSignal) => AsyncGenerator<ClientEvent, void, undefined>;
}

/** Its events one by one. */
async function* eventsOf(source: EventSource): AsyncGenerator<ClientEvent, void, undefined> {
  for (let events = await source.next(); events.length > 0; events = await source.next()) {
    yield* events;
  }
}

function onBench(test: (bench: Bench) => Promise<void>): Promise<void> {
  const stub = testEnv.SESSION.getByName(crypto.randomUUID());
  return runInDurableObject(stub, async (_instance, state) => {
    const store = new SessionStore(state.storage);
    let commits = 0;
    const clock = new SteeredClock();
    const calls: Call[] = [];
    let looks = 0;
    const bell = new ChangeBell();
    const behind = new StoreBehind({
      store,
      clock,
      before: () => (commits += Number(store.waiting)),
      after: () => undefined,
    });
    const nowMs = clock.nowMs();
    store.insertSession({
      tenant: "t",
      sessionId: "s",
      model: "m",
      title: "",
      titleGiven: false,
      implicit: false,
      nowMs,
    });
    store.insertTurn({
      number: 1,
      messagesHash: new Uint8Array(32),
      requestHash: new Uint8Array(0),
      idempotencyKey: "",
      sampling: create(SamplingParamsSchema, { seed: 7n }),
      detach: false,
      requestId: "r",
      model: "m",
      nowMs,
    });
    store.insertMessage(1, Role.USER, "hello", false, nowMs);
    const worker = steeredWorker(calls);
    const place = { worker: "w", address: "", reason: PlacementReason.CONFIGURED };
    const directory: WorkerDirectory = {
      workers: () => [place],
      served: async () => [place],
      place: async () => place,
      open: (name) => (name === "w" ? worker : undefined),
      standing: () => workerWithoutPool,
      report: () => Promise.resolve(),
      refresh: () => {
        looks++;
        return Promise.resolve();
      },
    };
    const runner = new TurnRunner({
      store,
      turn: 1,
      fresh: true,
      directory,
      snapshots: new SessionSnapshots({
        store,
        directory: () => directory,
        sequenceId: () => "q",
      }),
      sequenceId: "q",
      snapshotIdleMs: 10_000,
      fallback: () => undefined,
      samplingDefaults: () => Promise.resolve({ sampling: undefined, contextTokensMax: 100 }),
      clock,
      background: (work) => void work,
      onChange: () => bell.ring(),
      storeNow: () => behind.now(),
    });
    let live = true;
    void runner.done.then(() => {
      live = false;
      bell.ring();
    });
    await settle();
    await test({
      store,
      stored: () => new SessionStore(state.storage),
      commits: () => commits,
      looks: () => looks,
      clock,
      calls,
      runner,
      call(attempt) {
        const call = calls[attempt];
        if (call === undefined) throw new Error(`attempt ${attempt} was not made`);
        return call;
      },
      events: (signal = new AbortController().signal) =>
        eventsOf(
          streamAnswer({
            store,
            sessionId: "s",
            turn: 1,
            offset: 0,
            resume: new ResumePoint({ offset: 0, hash: new Uint8Array(0) }),
            resumed: false,
            runner,
            live: () => live,
            bell,
            clock,
            signal,
          }),
        ),
    });
    runner.cancel();
    await runner.done;
  });
}

/** A worker whose streams say what the test sends. */
function steeredWorker(calls: Call[]): WorkerClient {
  async function* generate(
    request: GenerateRequest,
    options: { readonly signal: AbortSignal },
  ): AsyncGenerator<GenerateResponse, void, undefined> {
    const queue: (EventInit | Error)[] = [];
    let wake = Promise.withResolvers<undefined>();
    const push = async (...items: (EventInit | Error)[]): Promise<void> => {
      queue.push(...items);
      wake.resolve(undefined);
      await settle();
    };
    calls.push({ request, signal: options.signal, send: push, fail: push });
    const gone = new Promise<never>((_, reject) => {
      options.signal.addEventListener("abort", () =>
        reject(new ConnectError("aborted", Code.Canceled)),
      );
    });
    gone.catch(() => undefined);
    for (;;) {
      const item = queue.shift();
      if (item instanceof Error) throw item;
      if (item !== undefined) {
        yield create(GenerateResponseSchema, { event: item });
        continue;
      }
      wake = Promise.withResolvers<undefined>();
      await Promise.race([wake.promise, gone]);
    }
  }
  return { generate, release: () => Promise.resolve({}) } as unknown as WorkerClient;
}

const accepted: EventInit = {
  case: "accepted",
  value: { promptIds: [1, 2, 3], promptTokens: 3, backend: Backend.WASM, worker: "w" },
};

function tokens(ids: number[], text: string, offset: number): EventInit {
  return { case: "tokens", value: { ids, text, offset: BigInt(offset) } };
}

function finished(generatedTokens: number, textBytes: number): EventInit {
  return {
    case: "finished",
    value: { finishReason: FinishReason.STOP, generatedTokens, textBytes: BigInt(textBytes) },
  };
}

async function next(events: AsyncGenerator<ClientEvent, void, undefined>): Promise<ClientEvent> {
  const result = await events.next();
  if (result.done === true) throw new Error("the stream has ended");
  return result.value;
}

describe("TurnRunner", () => {
  it("sends all defaults resolved", () =>
    onBench(async ({ call }) => {
      expect(call(0).request).toMatchObject({
        sequenceId: "q",
        generation: 1n,
        model: "m",
        requestId: "r",
        messages: [{ text: "hello" }],
        sampling: {
          temperature: 1,
          topK: 0,
          topP: 1,
          minP: 0,
          repetitionPenalty: 1,
          repetitionWindow: 64,
          maxTokens: 100,
          seed: 7n,
        },
      });
    }));

  it("shows what comes at once, and stores it a quarter of a second behind", () =>
    onBench(async ({ call, clock, commits, store, stored, runner }) => {
      await call(0).send(accepted, tokens([10], "a", 0));
      expect(store.turn(1)).toMatchObject({ accepted: true, textBytes: 1 });
      await clock.advance(storeBehindMs - 1);
      await call(0).send(tokens([11], "b", 1));
      expect(store.pieces().map((piece) => piece.text)).toEqual(["a", "b"]);
      expect(stored().pieces()).toEqual([]);
      expect(stored().turn(1)).toMatchObject({ accepted: false, textBytes: 0 });
      expect(commits()).toBe(0);
      await clock.advance(1);
      expect(commits()).toBe(1);
      // What came between two commits is one row.
      expect(
        stored()
          .pieces()
          .map((piece) => piece.text),
      ).toEqual(["ab"]);
      expect(stored().turn(1)).toMatchObject({ accepted: true, completionTokens: 2, textBytes: 2 });
      // The next change that waits has its own quarter of a second.
      await clock.advance(storeBehindMs);
      await call(0).send(tokens([12], "c", 2));
      expect(commits()).toBe(1);
      await call(0).send(tokens([13], "d", 3), finished(4, 4));
      await runner.done;
      expect(commits()).toBe(2);
      expect(stored().answerText(1)).toBe("abcd");
      expect(stored().pieces()).toEqual([]);
      expect(
        stored()
          .segments()
          .map((segment) => segment.kind),
      ).toEqual([SegmentKind.PROMPT, SegmentKind.GENERATED]);
    }));

  it("stores a turn that ends at once in one commit", () =>
    onBench(async ({ call, clock, commits, stored, runner }) => {
      await call(0).send(accepted, tokens([10], "a", 0), finished(1, 1));
      await runner.done;
      expect(commits()).toBe(1);
      expect(stored().answerText(1)).toBe("a");
      await clock.advance(storeBehindMs);
      expect(commits()).toBe(1);
    }));

  it.each([
    [16, 1],
    [40, 2],
  ])("stores %i tokens at 10 ms each in %i commits", (count, expected) =>
    onBench(async ({ call, clock, commits, stored, runner }) => {
      await call(0).send(accepted);
      for (let index = 0; index < count; index++) {
        await clock.advance(10);
        await call(0).send(tokens([10 + index], "a", index));
      }
      await call(0).send(finished(count, count));
      await runner.done;
      expect(commits()).toBe(expected);
      expect(stored().answerText(1)).toBe("a".repeat(count));
    }),
  );

  it("keeps what waited when it is cancelled", () =>
    onBench(async ({ call, stored, runner }) => {
      await call(0).send(accepted, tokens([10], "a", 0));
      runner.cancel();
      await runner.done;
      expect(stored().turn(1)).toMatchObject({
        finishReason: FinishReason.CANCELLED,
        textBytes: 1,
      });
      expect(stored().answerText(1)).toBe("a");
    }));

  it("gives a worker up that says nothing, and goes on from what is stored", () =>
    onBench(async ({ call, clock, calls, runner, store }) => {
      await call(0).send(accepted, tokens([10], "é", 0));
      await clock.advance(workerSilenceMsMax - 1);
      expect(call(0).signal.aborted).toBe(false);
      await clock.advance(1);
      expect(call(0).signal.aborted).toBe(true);
      await clock.advance(2_000);
      expect(calls).toHaveLength(2);
      expect(call(1).request).toMatchObject({
        generation: 2n,
        messages: [],
        prefix: { tokens: 4, segmentTokens: [3, 1] },
        // The worker that failed may have sent text that does not go with its ids: the next one tells all of it.
        resume: { generatedTokens: 1, textBytes: 0n, promptTokens: 3 },
      });
      const again: EventInit = {
        case: "accepted",
        value: { promptTokens: 3, cachedTokens: 0, backend: Backend.WASM, worker: "w" },
      };
      // A worker may repeat text that is known; it is not shown twice.
      await call(1).send(again, tokens([11], "éa", 0), finished(2, 3));
      await runner.done;
      expect(store.answerText(1)).toBe("éa");
      expect(store.turn(1)).toMatchObject({ completionTokens: 2, textBytes: 3 });
    }));

  it("gives a worker up that does not even answer, five times, and withdraws the turn", () =>
    onBench(async ({ clock, calls, runner, store }) => {
      for (let attempt = 1; attempt <= 5; attempt++) {
        expect(calls).toHaveLength(attempt);
        await clock.advance(workerSilenceMsMax);
        await clock.advance(2_000);
      }
      await runner.done;
      expect(calls).toHaveLength(5);
      expect(runner.refusal).toMatchObject({
        code: Code.Unavailable,
        rawMessage: "no worker completed turn 1 in 5 attempts",
      });
      expect(store.turn(1)).toBeUndefined();
      expect(store.messageCount()).toBe(0);
    }));

  it("takes progress for a sign of life", () =>
    onBench(async ({ call, clock, runner }) => {
      await call(0).send(accepted);
      for (let done = 1; done <= 3; done++) {
        await clock.advance(workerSilenceMsMax - 1);
        await call(0).send({ case: "progress", value: { promptTokensDone: done } });
      }
      expect(call(0).signal.aborted).toBe(false);
      expect(runner.progress).toEqual({ promptTokensDone: 3, promptTokens: 3 });
    }));

  it("waits longer before each further attempt, and is cancelled while it waits", () =>
    onBench(async ({ call, clock, calls, runner, store }) => {
      await call(0).send(accepted, tokens([10], "a", 0));
      await call(0).fail(new ConnectError("gone", Code.Unavailable));
      // The token counted as progress: this is a first attempt again, without a pause.
      expect(calls).toHaveLength(2);
      await call(1).fail(new ConnectError("gone", Code.Unavailable));
      expect(clock.sleeping).toContain(100);
      await clock.advance(100);
      await call(2).fail(new ConnectError("gone", Code.Unavailable));
      expect(clock.sleeping).toContain(200);
      runner.cancel();
      await runner.done;
      expect(calls).toHaveLength(3);
      expect(store.turn(1)).toMatchObject({ running: false, finishReason: FinishReason.CANCELLED });
      expect(store.answerText(1)).toBe("a");
    }));

  it("gives an engine that starts again the time that it takes", () =>
    onBench(async ({ call, clock, calls, runner, store }) => {
      await call(0).fail(restartingError());
      expect(clock.sleeping).toContain(attemptBackoffMsMax);
      await clock.advance(attemptBackoffMsMax);
      expect(calls).toHaveLength(2);
      await call(1).send(accepted, tokens([10], "a", 0), finished(1, 1));
      await runner.done;
      expect(store.answerText(1)).toBe("a");
    }));

  it("keeps what arrived before a cancel, ids without text included", () =>
    onBench(async ({ call, runner, store }) => {
      await call(0).send(accepted, tokens([10], "a", 0), tokens([11], "", 1));
      runner.cancel();
      await runner.done;
      expect(call(0).signal.aborted).toBe(true);
      expect(store.answerText(1)).toBe("a");
      expect(store.tokenCount()).toBe(5);
    }));

  it("drops ids that the worker does not count: they stand after a stop string", () =>
    onBench(async ({ call, runner, store }) => {
      await call(0).send(accepted, tokens([10, 11, 12], "a", 0), finished(2, 1));
      await runner.done;
      expect(store.turn(1)?.completionTokens).toBe(2);
      expect(store.tokenCount()).toBe(5);
    }));

  it("does not believe a worker that goes on after max_tokens", () =>
    onBench(async ({ call, calls, clock, store }) => {
      const ids = Array.from({ length: 100 }, (_, index) => index);
      await call(0).send(accepted, tokens(ids, "a", 0), tokens([100], "", 1));
      expect(call(0).signal.aborted).toBe(true);
      await clock.advance(2_000);
      expect(calls[1]?.request.resume?.generatedTokens).toBe(100);
      expect(store.turn(1)).toMatchObject({ running: true, completionTokens: 100 });
    }));

  it("ends an answer at its bound in bytes", () =>
    onBench(async ({ call, runner, store }) => {
      const text = "x".repeat(answerBytesMax);
      await call(0).send(accepted, tokens([10], text, 0), tokens([11], "y", answerBytesMax));
      await runner.done;
      expect(call(0).signal.aborted).toBe(true);
      expect(store.turn(1)).toMatchObject({
        finishReason: FinishReason.LENGTH,
        textBytes: answerBytesMax + 1,
      });
    }));

  it("does not show what went wrong inside", () =>
    onBench(async ({ call, calls, clock, runner, store }) => {
      await call(0).send(accepted);
      for (let attempt = 0; attempt < 5; attempt++) {
        await calls[attempt]?.fail(new ConnectError("row 7 of a secret", Code.Internal));
        await clock.advance(2_000);
      }
      await runner.done;
      expect(store.turn(1)).toMatchObject({
        finishReason: FinishReason.ERROR,
        errorMessage: "no worker completed turn 1 in 5 attempts",
      });
    }));
});

describe("streamAnswer()", () => {
  it("sends a heartbeat after 10 seconds of silence, and again", () =>
    onBench(async ({ call, clock, events }) => {
      const stream = events();
      expect((await next(stream)).event.case).toBe("started");
      for (let beat = 0; beat < 2; beat++) {
        const waiting = next(stream);
        await settle();
        await clock.advance(heartbeatIntervalMs - 1);
        expect(await Promise.race([waiting, Promise.resolve("silent")])).toBe("silent");
        await clock.advance(1);
        expect((await waiting).event.case).toBe("heartbeat");
        // The worker is alive all the while.
        if (beat === 0) await call(0).send(accepted);
        if (beat === 0) expect((await next(stream)).event.case).toBe("started");
      }
    }));

  it("looks at the pools once a worker has the turn, or failed it, and not before", () =>
    onBench(async ({ call, clock, looks }) => {
      expect(call(0).request.requestId).toBe("r");
      expect(looks()).toBe(0);
      await call(0).fail(new ConnectError("gone", Code.Unavailable));
      expect(looks()).toBe(1);
      await clock.advance(attemptBackoffMsMax);
      await call(1).send(accepted);
      expect(looks()).toBe(2);
      await call(1).send(tokens([10], "a", 0));
      expect(looks()).toBe(2);
    }));

  it("sends heartbeats to a client whose turn waits in a queue, however often the worker says so", () =>
    onBench(async ({ call, clock, events }) => {
      const stream = events();
      expect((await next(stream)).event.case).toBe("started");
      await call(0).send(accepted);
      expect((await next(stream)).event.case).toBe("started");
      const waiting = next(stream);
      await settle();
      for (let pastMs = 0; pastMs < heartbeatIntervalMs; pastMs += heartbeatIntervalMs / 4) {
        expect(await Promise.race([waiting, Promise.resolve("silent")])).toBe("silent");
        await call(0).send({ case: "progress", value: { promptTokensDone: 0, queued: 1 } });
        await clock.advance(heartbeatIntervalMs / 4);
      }
      expect((await waiting).event.case).toBe("heartbeat");
    }));

  it("reads at its own pace and ends when its client leaves", () =>
    onBench(async ({ call, clock, events, runner }) => {
      const leave = new AbortController();
      const stream = events(leave.signal);
      await next(stream);
      await call(0).send(accepted, tokens([10], "a", 0));
      for (let index = 1; index < 50; index++) {
        await clock.advance(10);
        await call(0).send(tokens([10 + index], "a", index));
      }
      await clock.advance(10);
      expect((await next(stream)).event.case).toBe("started");
      const delta = await next(stream);
      expect(delta.event).toMatchObject({
        case: "delta",
        value: { offset: 0n, text: "a".repeat(50), completionTokens: 50 },
      });
      const waiting = stream.next();
      leave.abort();
      expect(await waiting).toMatchObject({ done: true });
      expect(runner.turn).toBe(1);
    }));

  it("splits a long answer at characters", () =>
    onBench(async ({ call, runner, events }) => {
      const text = "🙂".repeat(40_000);
      await call(0).send(accepted, tokens([10], text, 0), finished(1, 160_000));
      await runner.done;
      let seen = "";
      let deltas = 0;
      for await (const { event } of events()) {
        if (event.case === "delta") {
          expect(event.value.offset).toBe(BigInt(new TextEncoder().encode(seen).byteLength));
          seen += event.value.text;
          deltas++;
        }
      }
      expect(seen).toBe(text);
      expect(deltas).toBe(3);
    }));
});
