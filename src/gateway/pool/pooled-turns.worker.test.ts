/** Turns of sessions whose workers are in a pool: where they go, why, and what a pool that does not answer costs. */
import { runInDurableObject } from "cloudflare:test";
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { SamplingParamsSchema } from "../../gen/leanedge/v1/sampling_pb.js";
import { FinishReason, PlacementReason, Role } from "../../gen/leanedge/v1/session_pb.js";
import type { GatewayEnv } from "../bindings.js";
import { parseConfig } from "../config.js";
import { placeQueuedMax } from "../limits.js";
import { systemClock } from "../objects/clock.js";
import type { PoolObject } from "../objects/pool-object.js";
import { SessionSnapshots } from "../objects/session-snapshots.js";
import { SessionStore } from "../objects/session-store.js";
import { TurnRunner } from "../objects/turn-runner.js";
import { testEnv } from "../testing/gateway-clients.js";
import {
  beat,
  cutOffWorker,
  enterReady,
  newPool,
  newWorker,
  pooledModel,
  reachScriptedWorkers,
  reachWorkerAgain,
} from "../testing/pool-bench.js";
import { engineDirectory } from "../worker-client/directory.js";
import type { PlaceRequest } from "./pool-calls.js";
import { noLoad } from "./pool-entry.js";

/** What a turn came to. */
interface SeenTurn {
  readonly worker: string;
  readonly address: string;
  readonly generation: number;
  readonly placement: PlacementReason;
  readonly model: string;
  readonly text: string;
  readonly finishReason: FinishReason | undefined;
  readonly refusal: ConnectError | undefined;
}

/** A session of its own on bindings. */
class TestSession {
  readonly #stub = testEnv.SESSION.getByName(crypto.randomUUID());
  readonly #key = crypto.randomUUID();

  /** Says how many pages its cache holds, as a worker does at a turn's end. */
  hold(pages: number): Promise<void> {
    return runInDurableObject(this.#stub, (_instance, state) => {
      new SessionStore(state.storage).cache.setPages(pages);
    });
  }

  /** Runs a turn to its end. */
  run(
    env: GatewayEnv,
    number: number,
    script = "{}",
    fallback: { readonly unasked?: boolean; readonly allowed?: boolean } = {},
  ): Promise<SeenTurn> {
    return runInDurableObject(this.#stub, async (_instance, state) => {
      const store = new SessionStore(state.storage);
      const nowMs = Date.now();
      if (store.session() === undefined) {
        store.insertSession({
          ...{ tenant: "t", sessionId: "s", model: pooledModel, title: "" },
          ...{ titleGiven: false, implicit: false, nowMs },
        });
      }
      store.insertTurn({
        number,
        messagesHash: new Uint8Array(32),
        requestHash: new Uint8Array(0),
        idempotencyKey: "",
        sampling: create(SamplingParamsSchema, { seed: 7n }),
        detach: false,
        requestId: "r",
        model: pooledModel,
        allowFallback: fallback.allowed,
        nowMs,
      });
      store.insertMessage(number, Role.USER, `!${script}`, false, nowMs);
      const directory = engineDirectory(env);
      await directory.refresh();
      const background: Promise<unknown>[] = [];
      const runner = new TurnRunner({
        store,
        turn: number,
        fresh: true,
        directory,
        snapshots: new SessionSnapshots({
          store,
          directory: () => directory,
          sequenceId: () => this.#key,
        }),
        sequenceId: this.#key,
        fallback: (model) =>
          model === pooledModel
            ? { model: "second", unasked: fallback.unasked ?? false }
            : undefined,
        samplingDefaults: () => Promise.resolve({ sampling: undefined, contextTokensMax: 100 }),
        clock: systemClock,
        background: (work) => background.push(work),
        snapshotIdleMs: 10_000,
        onChange: () => undefined,
        storeNow: () => store.sync(),
      });
      await runner.done;
      await Promise.all(background);
      const turn = store.turn(number);
      const binding = store.binding();
      return {
        worker: binding?.worker ?? "",
        address: binding?.address ?? "",
        generation: binding?.generation ?? 0,
        placement: turn?.placement ?? PlacementReason.UNSPECIFIED,
        model: turn?.model ?? "",
        text: turn === undefined ? "" : store.answerText(number),
        finishReason: turn?.finishReason,
        refusal: runner.refusal,
      };
    });
  }
}

/** Bindings whose pool does what is told. */
function withPool(env: GatewayEnv, pool: Partial<PoolObject>): GatewayEnv {
  return { ...env, POOL: { getByName: () => pool } as unknown as GatewayEnv["POOL"] };
}

const refuses = {
  place: () => Promise.reject(new Error("the pool's object is overloaded")),
  view: () => Promise.reject(new Error("the pool's object is overloaded")),
  report: () => Promise.reject(new Error("the pool's object is overloaded")),
} as unknown as Partial<PoolObject>;

beforeEach(reachScriptedWorkers);
afterEach(() => {
  vi.unstubAllGlobals();
});

describe("a session of a pool", () => {
  it("is placed once and then bound, with the address and a generation", async () => {
    const { env, name, stub } = newPool();
    const [a, b] = [newWorker(), newWorker()];
    await enterReady(stub, a, b);
    const session = new TestSession();
    const first = await session.run(env, 1);
    expect([`pool:${name}/${a}`, `pool:${name}/${b}`]).toContain(first.worker);
    expect([PlacementReason.LOAD, PlacementReason.HASH]).toContain(first.placement);
    expect(first.address).toBe(`http://${first.worker.split("/")[1] ?? ""}`);
    expect(first).toMatchObject({ generation: 1, finishReason: FinishReason.STOP });
    for (const turn of [2, 3]) {
      expect(await session.run(env, turn)).toMatchObject({
        worker: first.worker,
        generation: 1,
        placement: PlacementReason.BOUND,
      });
    }
    expect((await stub.list()).map(({ placedTotal }) => placedTotal).sort()).toEqual([0, 1]);
  });

  it("goes on elsewhere when its worker is gone, and the pool hears of it", async () => {
    const { env, stub } = newPool();
    await enterReady(stub, newWorker(), newWorker());
    const session = new TestSession();
    const first = await session.run(env, 1);
    cutOffWorker(new URL(first.address).hostname);
    const second = await session.run(env, 2, '{"tokens":3}');
    expect(second).toMatchObject({
      text: "w0 w1 w2 ",
      placement: PlacementReason.FAILOVER,
      generation: 2,
    });
    expect(second.worker).not.toBe(first.worker);
    const failures = (await stub.list()).map(({ failuresTotal }) => failuresTotal);
    expect(failures.sort()).toEqual([0, 1]);
  });

  it("stays with its binding until another worker has answered", async () => {
    const { env, stub } = newPool();
    await enterReady(stub, newWorker());
    const session = new TestSession();
    const first = await session.run(env, 1);
    const refused = await session.run(env, 2, '{"refuse":{"code":8,"message":"no memory"}}');
    expect([refused.refusal?.code, refused.refusal?.rawMessage]).toEqual([
      Code.ResourceExhausted,
      'all workers of model "scripted" are full; come again in 2 s',
    ]);
    expect(refused).toMatchObject({ worker: first.worker, generation: first.generation });
  });

  it("leaves a worker that drains, and one that drains in vain stays", async () => {
    const { env, stub } = newPool();
    const a = newWorker();
    await enterReady(stub, a);
    const session = new TestSession();
    const first = await session.run(env, 1);
    await stub.operate(a, "drain");
    // Nobody else is there: an answer is better than a refusal.
    await new Promise((resolve) => setTimeout(resolve, 2_100));
    expect(await session.run(env, 2)).toMatchObject({
      worker: first.worker,
      placement: PlacementReason.BOUND,
    });
    const b = newWorker();
    await enterReady(stub, b);
    expect(await session.run(env, 3)).toMatchObject({
      address: `http://${b}`,
      placement: PlacementReason.MOVED,
      finishReason: FinishReason.STOP,
    });
  });

  it("stays with a worker that answered it after the pool was last heard to have lost it", async () => {
    const { env, stub } = newPool();
    const [a, b] = [newWorker(), newWorker()];
    await enterReady(stub, a, b);
    const view = await stub.view();
    const workers = view.workers.map((record) => ({ ...record, state: "notReady" as const }));
    const lost = { view: () => Promise.resolve({ ...view, workers }) };
    const session = new TestSession();
    const directory = engineDirectory(withPool(env, lost as unknown as Partial<PoolObject>));
    await directory.refresh();
    expect(directory.standing(workers[0]?.worker ?? "")).toMatchObject({ kind: "gone" });
    const first = await session.run(env, 1);
    expect(await session.run(env, 2)).toMatchObject({
      worker: first.worker,
      generation: 1,
      placement: PlacementReason.BOUND,
    });
    // Whoever has not heard from it since has nothing better than what the pool said.
    expect(directory.standing(first.worker, Date.now() - 60_000)).toMatchObject({ kind: "gone" });
  });

  it("leaves a crowded worker on purpose unless it is small, and then stays where it went", async () => {
    const { env, stub } = newPool();
    const names = [newWorker(), newWorker()];
    await enterReady(stub, ...names);
    const [large, small] = [new TestSession(), new TestSession()];
    const first = await large.run(env, 1);
    const home = new URL(first.address).hostname;
    let other = small;
    while (new URL((await other.run(env, 1)).address).hostname !== home) other = new TestSession();
    await large.hold(60);
    await other.hold(3);
    const directory = engineDirectory(env);
    await vi.waitFor(
      async () => {
        for (const name of names) {
          const load = { ...noLoad, sequences: 10, pages: 1_000, pagesFree: 1_000 };
          const pagesIdle = name === home ? 600 : 300;
          await stub.heartbeat(beat(name, { load: { ...load, pagesIdle } }));
        }
        await directory.refresh();
        expect(directory.standing(first.worker)).toMatchObject({ kind: "serving", crowded: true });
      },
      { timeout: 20_000, interval: 200 },
    );
    expect(await other.run(env, 2)).toMatchObject({
      worker: first.worker,
      generation: 1,
      placement: PlacementReason.BOUND,
    });
    // Whoever would move waits for no pool.
    const asked = vi.fn(() => new Promise<never>(() => undefined));
    const silent = { ...refuses, place: asked } as unknown as Partial<PoolObject>;
    expect(await large.run(withPool(env, silent), 2)).toMatchObject({
      worker: first.worker,
      placement: PlacementReason.BOUND,
    });
    expect(asked).toHaveBeenCalledTimes(1);
    await large.hold(60);
    const moved = await large.run(env, 3, '{"tokens":3}');
    expect(moved).toMatchObject({
      text: "w0 w1 w2 ",
      placement: PlacementReason.MOVED,
      finishReason: FinishReason.STOP,
    });
    expect(moved.worker).not.toBe(first.worker);
    expect((await stub.counts()).placed.relief).toBe(1);
    // The worker that it left has forgotten it.
    const left = testEnv.ENGINE.getByName(home);
    expect(await left.released()).toHaveLength(1);
    expect(await large.run(env, 4)).toMatchObject({
      worker: moved.worker,
      placement: PlacementReason.BOUND,
    });
  });

  it("is refused when all workers are full, with the time to come again", async () => {
    const { env, stub } = newPool();
    const worker = newWorker();
    await enterReady(stub, worker);
    await stub.heartbeat(beat(worker, { load: { ...noLoad, queued: placeQueuedMax } }));
    const directory = engineDirectory(env);
    const error: unknown = await directory
      .place({ model: pooledModel, key: "s", waitMs: 100 })
      .catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(ConnectError);
    if (!(error instanceof ConnectError)) return;
    expect([error.code, error.rawMessage, error.metadata.get("retry-after")]).toEqual([
      Code.ResourceExhausted,
      'all workers of model "scripted" are full; come again in 2 s',
      "2",
    ]);
  });

  it("reaches workers through the private network, where one is bound", async () => {
    const { env, stub } = newPool();
    await enterReady(stub, newWorker());
    const asked = vi.fn((url: string, init?: RequestInit) => fetch(url, init));
    const network = { fetch: asked } as unknown as Fetcher;
    const turn = await new TestSession().run({ ...env, WORKER_NETWORK: network }, 1);
    expect(turn).toMatchObject({ finishReason: FinishReason.STOP });
    expect(asked).toHaveBeenCalled();
    expect(asked.mock.calls.every(([url]) => url.startsWith(turn.address))).toBe(true);
  });

  it("tries the pools in order, and a farther worker before the last resort", async () => {
    const near = newPool();
    const far = newPool();
    const env = { ...near.env, LEANEDGE_POOLS: `${near.name},${far.name},default` };
    expect(parseConfig(env).pools.map(({ name }) => name)).toEqual([
      near.name,
      far.name,
      "default",
    ]);
    const directory = engineDirectory(env);
    expect(await directory.place({ model: pooledModel, key: "s" })).toMatchObject({
      worker: "engine:scripted/0",
      reason: PlacementReason.LAST_RESORT,
    });
    const b = newWorker();
    await enterReady(far.stub, b);
    const place = { model: pooledModel, key: "s" };
    expect(await directory.place(place)).toMatchObject({ address: `http://${b}` });
    const a = newWorker();
    await enterReady(near.stub, a);
    expect(await directory.place(place)).toMatchObject({ address: `http://${a}` });
  });
});

describe("a pool that does not answer", () => {
  it("keeps no bound session waiting", async () => {
    const { env, stub } = newPool();
    await enterReady(stub, newWorker(), newWorker());
    const session = new TestSession();
    const first = await session.run(env, 1);
    const asked = vi.fn(() => new Promise<never>(() => undefined));
    const silent = { ...refuses, place: asked, report: asked } as unknown as Partial<PoolObject>;
    for (const turn of [2, 3, 4]) {
      expect(await session.run(withPool(env, silent), turn)).toMatchObject({
        worker: first.worker,
        placement: PlacementReason.BOUND,
        finishReason: FinishReason.STOP,
      });
    }
    expect(asked).not.toHaveBeenCalled();
  });

  it("lets new sessions go where its workers were last seen", async () => {
    const { env, stub } = newPool();
    const worker = newWorker();
    await enterReady(stub, worker);
    await engineDirectory(env).refresh();
    expect(await new TestSession().run(withPool(env, refuses), 1)).toMatchObject({
      address: `http://${worker}`,
      placement: PlacementReason.CONFIGURED,
      finishReason: FinishReason.STOP,
    });
  });

  it("lets the configuration decide where nothing was seen of it", async () => {
    const { env } = newPool();
    expect(await new TestSession().run(withPool(env, refuses), 1)).toMatchObject({
      worker: "engine:scripted/0",
      placement: PlacementReason.CONFIGURED,
      finishReason: FinishReason.STOP,
    });
  });
});

describe("a model whose workers are all full", () => {
  /** Bindings where only the other model has a place. */
  function fullFor(env: GatewayEnv): GatewayEnv {
    return withPool(env, {
      ...refuses,
      report: () => Promise.resolve(),
      place: ({ model }: PlaceRequest) =>
        Promise.resolve(
          model === pooledModel
            ? { kind: "full" }
            : { kind: "placed", worker: "engine:second/0", address: "", reason: "lastResort" },
        ),
    } as unknown as Partial<PoolObject>);
  }

  it.each([
    [{}, false],
    [{ unasked: true }, true],
    [{ allowed: true }, true],
    [{ unasked: true, allowed: false }, false],
  ])(
    "is stood in for by its fallback only where that is allowed: %j",
    async (fallback, answers) => {
      const { env } = newPool();
      const turn = await new TestSession().run(fullFor(env), 1, '{"tokens":2}', fallback);
      expect(turn).toMatchObject(
        answers
          ? { model: "second", placement: PlacementReason.FALLBACK, text: "w0 w1 ", worker: "" }
          : { text: "", refusal: { code: Code.ResourceExhausted } },
      );
    },
  );

  it("answers its session again when it has room, from where it is bound", async () => {
    const { env, stub } = newPool();
    await enterReady(stub, newWorker());
    const session = new TestSession();
    const first = await session.run(env, 1);
    const name = new URL(first.address).hostname;
    cutOffWorker(name);
    const second = await session.run(fullFor(env), 2, '{"tokens":2}', { unasked: true });
    expect(second).toMatchObject({ model: "second", worker: first.worker, text: "w0 w1 " });
    reachWorkerAgain(name);
    expect(await session.run(env, 3, '{"tokens":3}', { unasked: true })).toMatchObject({
      model: pooledModel,
      worker: first.worker,
      placement: PlacementReason.BOUND,
      text: "w0 w1 w2 ",
    });
  });
});
