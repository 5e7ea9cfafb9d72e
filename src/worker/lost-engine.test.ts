/** An engine that is lost, or closed, while calls are under way: each of them ends, and says why. */
import { Code, ConnectError } from "@connectrpc/connect";
import { afterEach, describe, expect, it, vi } from "vitest";
import { SequenceTable } from "./sequence-table.js";
import { EngineGate } from "./engine-gate.js";
import { EngineLoop } from "./engine-loop.js";
import { Scheduler } from "./scheduler.js";
import { EngineError } from "../engine/status.js";
import { Role } from "../gen/leanedge/v1/session_pb.js";
import { losableEngine } from "./testing/losable-engine.js";
import { ModelEngine } from "./testing/model-engine.js";
import { openWorker } from "./testing/open-worker.js";

const stopped = new EngineError("deviceLost", "the engine stopped");

afterEach(() => {
  vi.restoreAllMocks();
});

describe("a worker that closes over a lost engine", () => {
  it("ends every call as it ends them over a sound one", async () => {
    const { engine, lose } = losableEngine(new ModelEngine({ cacheBytes: 5_000 }));
    // A step that never begins: what ends the calls is the worker's end.
    const { client, worker } = openWorker(engine, {
      yieldToHost: () => new Promise<void>(() => undefined),
    });
    const run = async (sequenceId: string): Promise<Code | "finished"> => {
      try {
        for await (const { event } of client.generate({
          sequenceId,
          generation: 1n,
          model: "m",
          messages: [{ role: Role.USER, text: "hello" }],
          sampling: { maxTokens: 10 },
        })) {
          if (event.case === "accepted") accepted++;
        }
      } catch (error) {
        if (error instanceof ConnectError) return error.code;
        throw error;
      }
      return "finished";
    };
    let accepted = 0;
    const calls = ["a", "b", "c"].map(run);
    await expect.poll(() => accepted).toBe(3);
    lose(stopped);
    worker.close();
    expect(await Promise.all(calls)).toEqual([
      Code.Unavailable,
      Code.Unavailable,
      Code.Unavailable,
    ]);
  });
});

describe("what waits for memory without a step", () => {
  it("is told of a lost engine, and the loop comes to rest", async () => {
    const { engine, lose } = losableEngine(new ModelEngine());
    let rounds = 0;
    const table = new SequenceTable(engine);
    table.open("idle", 0);
    const loop = new EngineLoop({
      engine,
      scheduler: new Scheduler({ layers: 4, cacheBytes: 1_000 }),
      table,
      gate: new EngineGate(),
      yieldToHost: () => {
        rounds++;
        return new Promise((resolve) => setImmediate(resolve));
      },
    });
    const told = Promise.withResolvers<unknown>();
    loop.reserve(500, {
      onAdmitted: () => told.reject(new Error("it was admitted")),
      onError: told.resolve,
    });
    lose(stopped);
    expect(await told.promise).toMatchObject({ status: "deviceLost" });
    await new Promise((resolve) => setTimeout(resolve, 20));
    const before = rounds;
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(rounds).toBe(before);
  });
});
