import { evictDurableObject, runInDurableObject } from "cloudflare:test";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { PlacementReason } from "../../gen/leanedge/v1/session_pb.js";
import {
  placeQueuedMax,
  placeWaitMsMax,
  poolWorkersMax,
  workerPendingMsMax,
  workerProbeMsMax,
} from "../limits.js";
import { noLoad } from "../pool/pool-entry.js";
import {
  beat,
  cutOffWorker,
  enterReady,
  newPool,
  newWorker,
  pooledModel,
  reachScriptedWorkers,
  registration,
  session,
  stateIn,
} from "../testing/pool-bench.js";
import { PoolObject } from "./pool-object.js";

const full = { ...noLoad, queued: placeQueuedMax };

beforeEach(reachScriptedWorkers);
afterEach(() => {
  vi.unstubAllGlobals();
});

describe("PoolObject", () => {
  it("takes a worker in once its address answers with its name", async () => {
    const { stub, name } = newPool();
    const worker = newWorker();
    expect(await stub.register(registration(worker))).toEqual({ kind: "member", state: "pending" });
    await vi.waitFor(async () => expect(await stateIn(stub, worker)).toBe("ready"));
    expect(await stub.place(session())).toEqual({
      kind: "placed",
      worker: `pool:${name}/${worker}`,
      address: `http://${worker}`,
      reason: "only",
    });
    const [record] = await stub.list();
    expect(record).toMatchObject({
      pool: name,
      origin: "registered",
      reason: "",
      breaker: "closed",
      placedTotal: 1,
      // What the worker says of itself counts, not what was registered.
      models: [{ model: "scripted", fingerprint: "model-1" }, { model: "second" }],
    });
  });

  it("leaves a worker pending whose address is another one's, or answers nothing", async () => {
    const { stub } = newPool();
    const [real, liar, lost] = [newWorker(), newWorker(), newWorker()];
    await enterReady(stub, real);
    await stub.register(registration(liar, { address: `http://${real}` }));
    await stub.register(registration(lost, { address: "http://nowhere" }));
    await stub.heartbeat(beat(liar));
    await stub.heartbeat(beat(lost));
    expect(await stateIn(stub, liar)).toBe("pending");
    expect(await stateIn(stub, lost)).toBe("pending");
    for (const key of ["a", "b", "c"]) {
      expect(await stub.place(session({ key }))).toMatchObject({ address: `http://${real}` });
    }
  });

  it("asks a pending worker again with each heartbeat", async () => {
    const { stub } = newPool();
    const worker = newWorker();
    await stub.register(registration(worker, { address: "http://nowhere" }));
    await stub.register(registration(worker));
    await vi.waitFor(async () => {
      await stub.heartbeat(beat(worker));
      expect(await stateIn(stub, worker)).toBe("ready");
    });
  });

  it("takes a worker in whose first answer is late", async () => {
    const { stub } = newPool();
    const worker = newWorker();
    const send = globalThis.fetch;
    vi.stubGlobal("fetch", async (input: string, init?: RequestInit) => {
      await new Promise((resolve) => setTimeout(resolve, workerProbeMsMax + 200));
      return send(input, init);
    });
    await stub.register(registration(worker));
    await vi.waitFor(async () => expect(await stateIn(stub, worker)).toBe("ready"));
  });

  it("keeps workers and wishes over an eviction, and counts the workers as heard", async () => {
    const { stub } = newPool();
    const [stays, drains, out] = [newWorker(), newWorker(), newWorker()];
    await enterReady(stub, stays, drains, out);
    await stub.operate(drains, "drain");
    await stub.operate(out, "evict");
    await evictDurableObject(stub);
    expect(await stateIn(stub, stays)).toBe("ready");
    expect(await stateIn(stub, drains)).toBe("draining");
    expect(await stateIn(stub, out)).toBe("failed");
    expect(await stub.heartbeat(beat(stays))).toEqual({ kind: "member", state: "ready" });
    expect(await stub.heartbeat(beat(out))).toMatchObject({ kind: "out" });
    expect(await stub.place(session())).toMatchObject({ address: `http://${stays}` });
    expect(await stub.operate(drains, "resume")).toMatchObject({ state: "ready" });
    await evictDurableObject(stub);
    expect(await stateIn(stub, drains)).toBe("ready");
  });

  it("forgets over an eviction who had left", async () => {
    const { stub } = newPool();
    const worker = newWorker();
    await enterReady(stub, worker);
    expect(await stub.deregister(worker, "another")).toBe(false);
    expect(await stub.deregister(worker, `${worker}-1`)).toBe(true);
    await evictDurableObject(stub);
    expect(await stateIn(stub, worker)).toBe("gone");
    expect(await stub.heartbeat(beat(worker))).toEqual({ kind: "unknown" });
  });

  describe("a worker that answers when its process has left", () => {
    /** Holds the first answer back. Flags, since no object may wait for what another one does. */
    async function registerHeld(
      stub: ReturnType<typeof newPool>["stub"],
      worker: string,
    ): Promise<{ readonly release: () => Promise<void> }> {
      const send = globalThis.fetch;
      const first = { asked: false, held: true, answered: false };
      vi.stubGlobal("fetch", async (input: string, init?: RequestInit) => {
        const isFirst = !first.asked;
        first.asked = true;
        const response = await send(input, init);
        while (isFirst && first.held) {
          await new Promise((resolve) => setTimeout(resolve, 5));
        }
        first.answered ||= isFirst;
        return response;
      });
      await stub.register(registration(worker));
      await vi.waitFor(() => expect(first.asked).toBe(true));
      return {
        async release() {
          first.held = false;
          await vi.waitFor(() => expect(first.answered).toBe(true));
          // The object reads it and stores what it says.
          await new Promise((resolve) => setTimeout(resolve, 100));
        },
      };
    }

    it("does not come back with the next start of the pool", async () => {
      const { stub } = newPool();
      const worker = newWorker();
      const { release } = await registerHeld(stub, worker);
      expect(await stub.deregister(worker, `${worker}-1`)).toBe(true);
      await release();
      await evictDurableObject(stub);
      expect(await stateIn(stub, worker)).toBe("gone");
    });

    it("does not put its later process out with the next start of the pool", async () => {
      const { stub } = newPool();
      const worker = newWorker();
      const { release } = await registerHeld(stub, worker);
      const later = { incarnation: `${worker}-2`, startMs: 2 };
      await stub.register(registration(worker, later));
      await vi.waitFor(async () => expect(await stateIn(stub, worker)).toBe("ready"));
      await release();
      await evictDurableObject(stub);
      expect(await stub.heartbeat(beat(worker, { incarnation: later.incarnation }))).toEqual({
        kind: "member",
        state: "ready",
      });
    });
  });

  it("takes in a new worker where all of its places are those of processes that never answered", async () => {
    const { stub } = newPool();
    const states = await runInDurableObject(stub, (instance) => {
      const now = Date.now();
      const clock = vi.spyOn(Date, "now").mockReturnValue(now);
      for (let worker = 0; worker < poolWorkersMax; worker++) {
        instance.register(registration(`lost-${worker}`, { address: "http://nowhere" }));
      }
      const refused = instance.register(registration("new"));
      clock.mockReturnValue(now + workerPendingMsMax);
      const taken = instance.register(registration("new"));
      clock.mockRestore();
      return [refused.kind, taken.kind];
    });
    expect(states).toEqual(["full", "member"]);
    await evictDurableObject(stub);
    expect(await stub.list()).toHaveLength(poolWorkersMax);
  });

  it("knows no worker that people name wrongly", async () => {
    expect(await newPool().stub.operate("nobody", "drain")).toBeUndefined();
  });

  it("lets requests wait for room, in order, until a worker says that it has some", async () => {
    const { stub } = newPool();
    const worker = newWorker();
    await enterReady(stub, worker);
    await stub.heartbeat(beat(worker, { load: full }));
    const served: string[] = [];
    const waiting = ["first", "second"].map(async (key) => {
      const answer = await stub.place(session({ key, waitMs: 5_000 }));
      served.push(key);
      return answer;
    });
    await vi.waitFor(async () => expect((await stub.counts()).waiting).toBe(2));
    await stub.heartbeat(beat(worker, { load: full }));
    expect((await stub.counts()).waiting).toBe(2);
    await stub.heartbeat(beat(worker));
    for (const answer of await Promise.all(waiting)) {
      expect(answer).toMatchObject({ kind: "placed", address: `http://${worker}` });
    }
    expect(served).toEqual(["first", "second"]);
    expect(await stub.counts()).toMatchObject({ waiting: 0, refused: 0 });
  });

  it("refuses when the wait is over, which it counts, and at once where none is allowed", async () => {
    const { stub } = newPool();
    const worker = newWorker();
    await enterReady(stub, worker);
    await stub.heartbeat(beat(worker, { load: full }));
    expect(await stub.place(session())).toEqual({ kind: "full" });
    const startMs = Date.now();
    expect(await stub.place(session({ waitMs: 200 }))).toEqual({ kind: "full" });
    expect(Date.now() - startMs).toBeGreaterThanOrEqual(190);
    expect(await stub.counts()).toMatchObject({ waiting: 0, refused: 1 });
  });

  it("asks a configured worker that was full again while requests wait and nobody else comes", async () => {
    const { stub, name, env } = newPool();
    const address = `http://${newWorker()}`;
    const answers = await runInDurableObject(stub, async (_instance, state) => {
      const pool = new PoolObject(state, {
        ...env,
        LEANEDGE_WORKERS: `${pooledModel}=${address}`,
        // The last resort stands in the last pool.
        LEANEDGE_POOLS: `${name},other`,
      });
      const worker = `worker:${pooledModel}/0`;
      const first = await pool.place(session());
      pool.report(worker, address, "full", PlacementReason.ONLY);
      const second = await pool.place(session());
      return [first, second, await pool.place(session({ waitMs: placeWaitMsMax }))];
    });
    const placed = { kind: "placed", worker: `worker:${pooledModel}/0`, address, reason: "only" };
    expect(answers).toEqual([placed, { kind: "full" }, placed]);
  });

  it("asks a configured worker again after the clock was set back", async () => {
    const { stub, name, env } = newPool();
    const address = newWorker();
    const states = await runInDurableObject(stub, async (_instance, state) => {
      const pool = new PoolObject(state, {
        ...env,
        LEANEDGE_WORKERS: `${pooledModel}=http://${address}`,
        LEANEDGE_POOLS: `${name},other`,
      });
      const now = Date.now;
      vi.spyOn(Date, "now").mockImplementation(() => now() + 3_600_000);
      const before = await pool.list();
      vi.restoreAllMocks();
      cutOffWorker(address);
      await pool.list();
      return [before, await pool.list()].map((list) => list.map((worker) => worker.state));
    });
    expect(states).toEqual([["ready"], ["notReady"]]);
  });

  it("has no place for a model that no worker serves", async () => {
    const { stub } = newPool();
    await enterReady(stub, newWorker());
    expect(await stub.place(session({ model: "none", waitMs: 5_000 }))).toEqual({ kind: "none" });
  });

  it("has the engines of the configuration as the last resort, in the last pool", async () => {
    const { testEnv } = await import("../testing/gateway-clients.js");
    const stub = testEnv.POOL.getByName("default");
    expect(await stub.place(session({ model: "second" }))).toMatchObject({
      kind: "placed",
      worker: expect.stringMatching(/^engine:second\/[0-2]$/) as unknown,
      address: "",
      reason: "lastResort",
    });
    const worker = newWorker();
    await stub.register(registration(worker));
    await vi.waitFor(async () => expect(await stateIn(stub, worker)).toBe("ready"));
    expect(await stub.place(session({ model: "second" }))).toMatchObject({
      address: `http://${worker}`,
    });
    await stub.deregister(worker, `${worker}-1`);
  });
});
