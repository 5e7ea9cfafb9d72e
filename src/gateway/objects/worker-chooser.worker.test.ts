import { runInDurableObject } from "cloudflare:test";
import { create } from "@bufbuild/protobuf";
import { describe, expect, it } from "vitest";
import { SamplingParamsSchema } from "../../gen/leanedge/v1/sampling_pb.js";
import { FinishReason, PlacementReason } from "../../gen/leanedge/v1/session_pb.js";
import { bindingTtlMs } from "../limits.js";
import { workerWithoutPool } from "../pool/standing.js";
import { testEnv } from "../testing/gateway-clients.js";
import { SteeredClock } from "../testing/steered-clock.js";
import type { WorkerDirectory } from "../worker-client/directory.js";
import type { WorkerClient } from "../worker-client/worker-client.js";
import { SessionStore } from "./session-store.js";
import { WorkerChooser } from "./worker-chooser.js";

const clock = new SteeredClock();
const place = { worker: "w", address: "", reason: PlacementReason.CONFIGURED };
const directory: WorkerDirectory = {
  workers: () => [place],
  served: () => Promise.resolve([place]),
  place: () => Promise.resolve(place),
  open: () => ({}) as WorkerClient,
  standing: () => workerWithoutPool,
  report: () => Promise.resolve(),
  refresh: () => Promise.resolve(),
};

function withStorage(test: (storage: DurableObjectStorage) => Promise<void>): Promise<void> {
  const stub = testEnv.SESSION.getByName(crypto.randomUUID());
  return runInDurableObject(stub, (_instance, state) => test(state.storage));
}

/** Begins a turn as turn-start.ts does: nothing of it is stored yet. */
function begin(store: SessionStore, number: number): void {
  store.later(() => {
    if (store.session() === undefined) {
      store.insertSession({
        ...{ tenant: "t", sessionId: "s", model: "m", title: "" },
        ...{ titleGiven: false, implicit: true, nowMs: clock.nowMs() },
      });
    }
    store.insertTurn({
      ...{ number, messagesHash: new Uint8Array(32), requestHash: new Uint8Array(0) },
      ...{ idempotencyKey: "", sampling: create(SamplingParamsSchema), detach: false },
      ...{ requestId: "r", model: "m", nowMs: clock.nowMs() },
    });
  });
}

/** The generation under which the first attempt of the running turn goes to a worker. */
async function generation(store: SessionStore): Promise<number> {
  const turn = store.runningTurn();
  if (turn === undefined) {
    throw new Error("no turn runs");
  }
  const options = { store, directory, sequenceId: "q", fresh: true, clock };
  const chooser = new WorkerChooser({ ...options, background: (work) => void work });
  return (await chooser.choose(turn)).generation;
}

describe("a turn whose begin is lost before anything of it was stored", () => {
  it("begins again under the session's first generation", () =>
    withStorage(async (storage) => {
      const lost = new SessionStore(storage);
      begin(lost, 1);
      expect(await generation(lost)).toBe(1);

      const found = new SessionStore(storage);
      expect(found.session()).toBeUndefined();
      expect(found.binding()).toBeUndefined();
      begin(found, 1);
      expect(await generation(found)).toBe(1);
      found.commit();
      expect(new SessionStore(storage).binding()?.issued).toBe(1);
    }));

  it("begins again under the generation of its binding", () =>
    withStorage(async (storage) => {
      const store = new SessionStore(storage);
      begin(store, 1);
      expect(await generation(store)).toBe(1);
      store.bind(place, 1, clock.nowMs() + bindingTtlMs);
      store.endTurn(1, {
        ...{ finishReason: FinishReason.STOP, errorMessage: "", generatedTokens: undefined },
        ...{ cacheBytes: 0, nowMs: clock.nowMs() },
      });
      begin(store, 2);
      expect(await generation(store)).toBe(1);

      const found = new SessionStore(storage);
      expect(found.lastTurn()).toBe(1);
      begin(found, 2);
      expect(await generation(found)).toBe(1);
    }));

  it("leaves no number to be issued twice once anything was stored", () =>
    withStorage(async (storage) => {
      const store = new SessionStore(storage);
      begin(store, 1);
      expect(await generation(store)).toBe(1);
      store.noteTried(place, 1);

      const found = new SessionStore(storage);
      expect(found.runningTurn()?.number).toBe(1);
      expect(await generation(found)).toBe(2);
    }));
});
