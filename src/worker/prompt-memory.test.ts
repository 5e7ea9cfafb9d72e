/** Prompts that take more memory while they are read than afterwards, with a real engine of random weights. */
import { beforeEach, describe, expect, it } from "vitest";
import { openEngine, smallZones, tinyModel } from "../engine/conformance/engine-bench.js";
import type { Engine, StepEntry } from "../engine/engine.js";
import { allocatedBytes, readingBytesMax } from "../engine/plan/allocation.js";
import { identityPlan, type CachePlan } from "../engine/plan/plan.js";
import { readEngineModule } from "../engine/wasm/node-module.js";
import { Role } from "../gen/leanedge/v1/session_pb.js";
import type { PrefixName } from "../gen/leanedge/worker/v1/worker_pb.js";
import { openWorker, type OpenWorker } from "./testing/open-worker.js";

const { layers, kvHeads, headDim, dim, context } = tinyModel;
const geometry = { layers, kvHeads, headDim, dim };
const plan: CachePlan = {
  ...identityPlan(geometry, smallZones),
  name: "lean",
  storage: { k: "int2", v: "int2" },
};
const module = await readEngineModule();

const promptTokens = 700;
const answerTokens = 8;
/** What the test's template adds to a message. */
const templateTokens = 7;
/** At least: one prompt can be read in what it comes to, and four caches kept, but no two prompts be read. */
const cacheBytesWanted = 200_000;

let engine: Engine;
let client: OpenWorker["client"];
let worker: OpenWorker["worker"];
/** Entries of steps that failed. */
let failures: string[];

async function open(memoryBytesMax?: number): Promise<Engine> {
  return openEngine(module, tinyModel, {
    plans: [plan],
    sequencesMax: 16,
    ...(memoryBytesMax === undefined ? {} : { memoryBytesMax }),
  });
}

beforeEach(async () => {
  const { memoryBytes, cacheBytes } = (await open()).stats();
  engine = await open(memoryBytes - cacheBytes + cacheBytesWanted);
  failures = [];
  const stepSync = (entries: readonly StepEntry[]) => {
    const results = engine.stepSync?.(entries) ?? [];
    for (const { error } of results) if (error !== undefined) failures.push(error.message);
    return results;
  };
  const watched = new Proxy(engine, {
    get(target, name): unknown {
      if (name === "stepSync") return stepSync;
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === "function" ? (value.bind(target) as unknown) : value;
    },
  });
  ({ client, worker } = openWorker(watched, { geometry, plans: [plan] }));
});

/** Runs a call; gives its generated tokens, and the name of its sequence. */
async function run(
  sequenceId: string,
  tokens: number,
  prefix?: PrefixName,
): Promise<{ tokens: number; prefix: PrefixName | undefined; promptTokens: number }> {
  let ended = { tokens: 0, prefix: undefined as PrefixName | undefined, promptTokens: 0 };
  const text = "x".repeat(tokens - templateTokens);
  for await (const { event } of client.generate({
    sequenceId,
    generation: 1n,
    model: "m",
    messages: [{ role: Role.USER, text }],
    sampling: { maxTokens: answerTokens },
    ...(prefix === undefined ? {} : { prefix }),
  })) {
    if (event.case !== "finished") continue;
    const { generatedTokens, usage } = event.value;
    ended = {
      tokens: generatedTokens,
      prefix: event.value.prefix,
      promptTokens: usage?.promptTokens ?? 0,
    };
  }
  return ended;
}

describe("prompts that take more memory while they are read", () => {
  it("wait for each other, and all of them are answered", async () => {
    const { cacheBytes } = engine.stats();
    const after = allocatedBytes(plan, promptTokens + answerTokens, context);
    const reading =
      allocatedBytes(plan, promptTokens, context) +
      readingBytesMax(plan, geometry, context, 0, promptTokens, true);
    expect(reading).toBeLessThan(cacheBytes);
    expect(2 * reading).toBeGreaterThan(cacheBytes);
    expect(4 * after).toBeLessThan(cacheBytes);

    const long = ["a", "b", "c", "d"].map((id) => run(id, promptTokens));
    const short = ["e", "f", "g"].map((id) => run(id, 20));
    for (const { tokens, promptTokens: read } of await Promise.all(long)) {
      expect(tokens).toBe(answerTokens);
      expect(read).toBe(promptTokens);
    }
    for (const { tokens } of await Promise.all(short)) expect(tokens).toBe(answerTokens);
    expect(failures).toEqual([]);
    expect(engine.stats().cacheBytesPeak).toBeLessThanOrEqual(cacheBytes);
  });

  it("are read behind others, whose zones stay until then", async () => {
    const first = await Promise.all(["a", "b"].map((id) => run(id, 300)));
    const second = await Promise.all(
      first.map(({ prefix }, i) => run(["a", "b"][i] ?? "", 300, prefix)),
    );
    for (const { tokens, promptTokens: read } of second) {
      expect(tokens).toBe(answerTokens);
      expect(read).toBeGreaterThan(600);
    }
    expect(failures).toEqual([]);
  });
});

describe("a prompt that was left half read", () => {
  it("gives its memory back like every idle cache", async () => {
    const leaving = new AbortController();
    const stream = client.generate(
      {
        sequenceId: "left",
        generation: 1n,
        model: "m",
        messages: [{ role: Role.USER, text: "x".repeat(promptTokens - templateTokens) }],
      },
      { signal: leaving.signal },
    );
    const reading = (async () => {
      for await (const { event } of stream) expect(event.case).not.toBe("tokens");
    })();
    const { cacheBytes } = engine.stats();
    await expect
      .poll(() => engine.stats().cacheBytesFree, { interval: 1 })
      .toBeLessThan(cacheBytes);
    leaving.abort();
    await expect(reading).rejects.toThrow();
    expect((await client.getStatus({})).running).toBe(0);
    expect(engine.stats().cacheBytesFree).toBeLessThan(cacheBytes);
    expect(worker.dropOldestIdleCache()).toBe(true);
    expect(engine.stats().cacheBytesFree).toBe(cacheBytes);
    expect(worker.dropOldestIdleCache()).toBe(false);
  });
});

describe("logs that fill the memory of all logs", () => {
  it("make room for new ones, the one that was used least recently first", async () => {
    // Two blocks of 512 ids each, and there are 18.
    const ids = Array.from({ length: 12 }, (_, index) => `log-${index}`);
    for (const id of ids) expect((await run(id, 600)).tokens).toBe(answerTokens);
    expect((await client.getStatus({})).sequences).toBeLessThan(ids.length);
    const last = await client.release({ sequenceId: "log-11", generation: 1n });
    expect(last.released).toBe(true);
    const first = await client.release({ sequenceId: "log-0", generation: 1n });
    expect(first.released).toBe(false);
  });
});
