/** Faults of a step and of an engine: who sees them, and who goes on. */
import { Code, ConnectError } from "@connectrpc/connect";
import { describe, expect, it } from "vitest";
import type { StepEntry } from "../engine/engine.js";
import { EngineError } from "../engine/status.js";
import { Role } from "../gen/leanedge/v1/session_pb.js";
import { ModelEngine, type ModelEngineOptions } from "./testing/model-engine.js";
import { openWorker } from "./testing/open-worker.js";

function start(options: ModelEngineOptions) {
  const engine = new ModelEngine(options);
  const { client } = openWorker(engine);
  /** How an answer ended: the number of its tokens, or the error's code and message. */
  const run = async (sequenceId: string, maxTokens: number): Promise<number | [Code, string]> => {
    try {
      for await (const { event } of client.generate({
        sequenceId,
        generation: 1n,
        model: "m",
        messages: [{ role: Role.USER, text: "hello" }],
        sampling: { maxTokens },
      })) {
        if (event.case === "finished") return event.value.generatedTokens;
      }
    } catch (error) {
      if (error instanceof ConnectError) return [error.code, error.rawMessage];
      throw error;
    }
    throw new Error("the stream did not finish");
  };
  return { engine, client, run };
}

describe("a step that throws", () => {
  it("fails its sequences, and nobody who waited beside it", async () => {
    // Memory for two of them: the third waits while the step fails.
    let steps = 0;
    const stepped = new Set<number>();
    const { run } = start({
      cacheBytes: 5_000,
      onStep: (entries: readonly StepEntry[]) => {
        if (++steps !== 3) return;
        for (const { sequence } of entries) stepped.add(sequence);
        throw new Error("a secret of the engine");
      },
    });
    const ends = await Promise.all([run("a", 10), run("b", 10), run("c", 10)]);
    expect(stepped.size).toBe(2);
    expect(ends).toEqual([
      [Code.Internal, "internal error"],
      [Code.Internal, "internal error"],
      10,
    ]);
  });

  it("with the loss of the engine fails all, those who wait included", async () => {
    let lost = false;
    let steps = 0;
    const { run } = start({
      cacheBytes: 5_000,
      onStep: () => {
        lost ||= ++steps === 3;
        if (lost) throw new EngineError("deviceLost", "the engine stopped");
      },
    });
    const ends = await Promise.all([run("a", 10), run("b", 10), run("c", 10)]);
    expect(ends).toEqual(Array.from({ length: 3 }, () => [Code.Unavailable, "the engine stopped"]));
  });
});

describe("a caller that leaves", () => {
  it("while a step runs is not computed for any more, and others are", async () => {
    const leaving = new AbortController();
    const entriesOfSteps: number[] = [];
    const { client, run } = start({
      onStep: (entries) => {
        entriesOfSteps.push(entries.length);
        // In the middle of the fifth step, whose token nobody takes.
        if (entriesOfSteps.length === 5) leaving.abort();
      },
    });
    const left = (async () => {
      const request = {
        sequenceId: "leaves",
        generation: 1n,
        model: "m",
        messages: [{ role: Role.USER, text: "hello" }],
      };
      for await (const { event } of client.generate(request, { signal: leaving.signal })) {
        expect(event.case).not.toBe("finished");
      }
    })();
    const [stays] = await Promise.all([run("stays", 12), expect(left).rejects.toThrow()]);
    expect(stays).toBe(12);
    expect(entriesOfSteps.slice(0, 5)).toEqual([2, 2, 2, 2, 2]);
    expect(new Set(entriesOfSteps.slice(5))).toEqual(new Set([1]));
  });
});

describe("memory", () => {
  it("that a sequence could never have is refused at once", async () => {
    const { run } = start({ cacheBytes: 2_100 });
    const end = await run("a", 1_000);
    expect(end).toEqual([Code.ResourceExhausted, expect.stringContaining("bytes of cache")]);
  });

  it("that idle caches hold goes to those who need it, the least recently used first", async () => {
    const { client, engine, run } = start({ cacheBytes: 7_000 });
    for (const id of ["a", "b", "c"]) expect(await run(id, 10)).toBe(10);
    // `a` is used again; the next one takes the memory of `b`.
    const first = await run("a", 5);
    expect(first).toBe(5);
    expect(await run("d", 10)).toBe(10);
    const { cacheBytes, cacheBytesFree } = engine.stats();
    expect(cacheBytes - cacheBytesFree).toBe(3 * 2_048);
    const computed = [0, 1, 2, 3].map((handle) => engine.sequenceStats(handle).computed);
    expect(computed.map((rows) => rows > 0)).toEqual([true, false, true, true]);
    expect((await client.getStatus({})).sequences).toBe(4);
  });
});
