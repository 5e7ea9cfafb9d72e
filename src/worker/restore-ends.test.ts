/** Restores whose snapshot does not come to its end: none holds memory, or keeps others waiting, for longer than it must. */
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError, type Client } from "@connectrpc/connect";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { openEngine, tinyModel } from "../engine/conformance/engine-bench.js";
import type { Engine } from "../engine/engine.js";
import { EngineError } from "../engine/status.js";
import { readEngineModule } from "../engine/wasm/node-module.js";
import { Role } from "../gen/leanedge/v1/session_pb.js";
import {
  RestoreRequestSchema,
  type RestoreRequest,
  type WorkerService,
} from "../gen/leanedge/worker/v1/worker_pb.js";
import { restoreWaitMsMax } from "./limits.js";
import { byteCodec } from "./testing/byte-codec.js";
import { losableEngine, type LosableEngine } from "./testing/losable-engine.js";
import { openWorker } from "./testing/open-worker.js";
import type { RunningWorker } from "./worker-service.js";

const { layers, kvHeads, headDim, dim } = tinyModel;
const module = await readEngineModule();

let engine: Engine;
let lose: LosableEngine["lose"];
let worker: RunningWorker;
let client: Client<typeof WorkerService>;
let snapshot: Uint8Array<ArrayBuffer>;

beforeEach(async () => {
  ({ engine, lose } = losableEngine(await openEngine(module, tinyModel)));
  ({ client, worker } = openWorker(engine, {
    codec: { ...byteCodec, templateFingerprint: "cd".repeat(32) },
    geometry: { layers, kvHeads, headDim, dim },
    modelFingerprint: "ab".repeat(32),
  }));
  const messages = [{ role: Role.USER, text: "x".repeat(200) }];
  const request = { sequenceId: "s", generation: 1n, model: "m", messages };
  for await (const { event } of client.generate({ ...request, sampling: { maxTokens: 4 } })) {
    if (event.case === "finished") break;
  }
  const pieces: number[] = [];
  for await (const { data } of client.snapshot({ sequenceId: "s" })) pieces.push(...data);
  snapshot = Uint8Array.from(pieces);
});

afterEach(() => {
  vi.useRealTimers();
});

/** The first half of the snapshot, and then nothing; `begun` once that is taken. */
function half(sequenceId: string): { call: Promise<unknown>; begun: Promise<undefined> } {
  const begun = Promise.withResolvers<undefined>();
  async function* pieces(): AsyncGenerator<RestoreRequest> {
    yield create(RestoreRequestSchema, {
      sequenceId,
      generation: 1n,
      data: snapshot.subarray(0, snapshot.length / 2),
    });
    begun.resolve(undefined);
    await new Promise(() => undefined);
  }
  return { call: ended(client.restore(pieces())), begun: begun.promise };
}

async function* whole(sequenceId: string): AsyncGenerator<RestoreRequest> {
  yield create(RestoreRequestSchema, { sequenceId, generation: 1n, data: snapshot });
  await Promise.resolve();
}

async function ended(call: Promise<unknown>): Promise<[Code, string] | "restored"> {
  try {
    await call;
  } catch (error) {
    if (error instanceof ConnectError) return [error.code, error.rawMessage];
    throw error;
  }
  return "restored";
}

describe("a restore that stands still", () => {
  it("is ended, and the next one goes on", async () => {
    const { cacheBytesFree } = engine.stats();
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    const still = half("still");
    await still.begun;
    await vi.waitFor(() => expect(engine.stats().cacheBytesFree).toBeLessThan(cacheBytesFree));
    await vi.advanceTimersByTimeAsync(restoreWaitMsMax);
    expect(await still.call).toEqual([
      Code.DeadlineExceeded,
      `no piece of the snapshot came in ${restoreWaitMsMax} ms`,
    ]);
    expect(engine.stats().cacheBytesFree).toBe(cacheBytesFree);
    vi.useRealTimers();
    expect(await ended(client.restore(whole("next")))).toBe("restored");
  });
});

describe("a worker that ends", () => {
  it.each([undefined, new EngineError("deviceLost", "the engine stopped")])(
    "ends a restore, too (engine: %s)",
    async (fault) => {
      const { cacheBytesFree } = engine.stats();
      const still = half("still");
      await still.begun;
      await expect.poll(() => engine.stats().cacheBytesFree).toBeLessThan(cacheBytesFree);
      lose(fault);
      worker.close();
      expect(await still.call).toEqual([Code.Unavailable, "the worker has ended"]);
      lose(undefined);
      const { cacheBytes, cacheBytesFree: free } = engine.stats();
      if (fault === undefined) expect(free).toBe(cacheBytes);
    },
  );
});
