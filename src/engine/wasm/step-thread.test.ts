import { afterEach, describe, expect, it, vi } from "vitest";
import { openEngine, tinyModel } from "../conformance/engine-bench.js";
import type { StepEntry } from "../engine.js";
import { EngineError } from "../status.js";
import { WasmInstance } from "./instance.js";
import { readEngineModule } from "./node-module.js";
import { StepThread } from "./step-thread.js";
import type { BoundaryEngine } from "../boundary/boundary-engine.js";

const prompt = [3, 1, 4, 1, 5, 9, 2, 6];

async function open(stepThread: boolean, threads = 1): Promise<BoundaryEngine> {
  const module = await readEngineModule("simd128-threads");
  return openEngine(module, tinyModel, { stepThread, threads });
}

function entry(engine: BoundaryEngine): StepEntry {
  const sequence = engine.createSequence();
  engine.append(sequence, "prompt", prompt);
  return { sequence, workMax: 1 << 20, sample: true };
}

/** Tokens of one sequence, and the logits behind the last. */
async function draw(engine: BoundaryEngine, steps: number) {
  const first = entry(engine);
  const tokens: (number | undefined)[] = [];
  for (let i = 0; i < steps; i++) tokens.push((await engine.step([first]))[0]?.token);
  return { tokens, logits: engine.logits(first.sequence) };
}

afterEach(() => {
  vi.restoreAllMocks();
});

function sharedMemory(): WebAssembly.Memory {
  return new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
}

/** A threaded module by its exports, whose le_step traps. */
function trappingModule(): Promise<WebAssembly.Module> {
  const name = (text: string): number[] => [text.length, ...new TextEncoder().encode(text)];
  const section = (id: number, ...bytes: number[]): number[] => [id, bytes.length, ...bytes];
  const [i32, func, unreachable, end] = [0x7f, 0x60, 0x00, 0x0b];
  const bytes = [
    ...[0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, 1, func, 3, i32, i32, i32, 1, i32),
    ...section(3, 1, 0),
    ...section(7, 2, ...name("le_step"), 0, 0, ...name("lew_threads_start"), 0, 0),
    ...section(10, 1, 3, 0, unreachable, end),
  ];
  return WebAssembly.compile(Uint8Array.from(bytes));
}

describe("a step thread", () => {
  it.each([1, 2])("computes the bits of the calling thread, with %i threads", async (threads) => {
    const [here, there] = await Promise.all([open(false), open(true, threads)]);
    expect(await draw(there, 12)).toEqual(await draw(here, 12));
    expect(here.stepSync).toBeDefined();
    expect(there.stepSync).toBeUndefined();
    here.close();
    there.close();
  });

  it("leaves the calling thread free, and the engine alone but for its stats", async () => {
    const engine = await open(true);
    const one = entry(engine);
    const before = engine.stats();
    const step = engine.step([one]);
    expect(engine.stats()).toEqual(before);
    const wrongState = expect.objectContaining({ status: "wrongState" }) as EngineError;
    expect(() => engine.sequenceStats(one.sequence)).toThrow(wrongState);
    await expect(engine.step([one])).rejects.toThrow("a step is pending");
    expect((await step)[0]?.token).toBeGreaterThanOrEqual(0);
    expect(engine.sequenceStats(one.sequence).tokens).toBe(prompt.length + 1);
    expect(engine.stats().steps).toBe(before.steps + 1);
    engine.close();
  });

  it("brings refusals of the whole step and of one entry", async () => {
    const engine = await open(true);
    const good = entry(engine);
    const [drawn, refused] = await engine.step([good, { ...good, sequence: 3 }]);
    expect(drawn?.token).toBeGreaterThanOrEqual(0);
    expect(refused?.error?.status).toBe("invalidArgument");
    const many = Array.from({ length: 257 }, () => good);
    await expect(engine.step(many)).rejects.toThrow("257 entries in one step, at most 256");
    engine.close();
  });

  it("ends with the engine, in the middle of a step if one is pending", async () => {
    const engine = await open(true);
    const step = engine.step([entry(engine)]);
    const lost = expect(step).rejects.toThrow("the engine is closed");
    engine.close();
    await lost;
    await expect(engine.step([])).rejects.toThrow("the engine is closed");
  });

  it("brings a trap of its module", async () => {
    const thread = await StepThread.start(await trappingModule(), sharedMemory());
    const step = thread.step({ entries: 0, count: 0, results: 0 });
    await expect(step).rejects.toThrow("unreachable");
    thread.stop();
  });

  it("takes a trap for the end of the engine", async () => {
    const engine = await open(true);
    vi.spyOn(StepThread.prototype, "step").mockRejectedValueOnce(new Error("unreachable"));
    const step = engine.step([entry(engine)]);
    await expect(step).rejects.toMatchObject({
      status: "deviceLost",
      message: "the engine stopped: unreachable; all sequences are lost",
    });
    expect(() => engine.createSequence()).toThrow("the engine stopped: unreachable");
  });

  it("that does not start is told of", async () => {
    const noMemory = {} as WebAssembly.Memory;
    const start = StepThread.start(await readEngineModule("simd128-threads"), noMemory);
    await expect(start).rejects.toMatchObject({
      status: "deviceLost",
      message: expect.stringContaining("the step thread failed") as string,
    });
  });

  it("needs a threaded module", async () => {
    const module = await readEngineModule("simd128");
    await expect(WasmInstance.create(module, 4 << 20, 1, true)).rejects.toThrow(
      new EngineError("invalidArgument", "a step thread needs a threaded module, and Node"),
    );
  });
});
