import { describe, expect, it, vi } from "vitest";
import { greedySampling, type Engine, type StepEntry } from "../../engine/engine.js";
import { EngineError } from "../../engine/status.js";
import { lateEngine } from "../testing/late-engine.js";
import { ModelEngine, type ModelEngineOptions } from "../testing/model-engine.js";
import {
  ask,
  events,
  loadModelEngine,
  openClient,
  startModelProcess,
} from "./testing/model-process.js";
import { watchEngine } from "./watched-engine.js";

/** A watched model engine, a clock, and what was noted. */
function watch(options: ModelEngineOptions = {}, wrap = (engine: Engine): Engine => engine) {
  const clock = { seconds: 0 };
  const gaps: number[] = [];
  const steps: { seconds: number; sequences: number }[] = [];
  const onLost = vi.fn();
  const engine = watchEngine(wrap(new ModelEngine(options)), {
    metrics: {
      step: (seconds, entries) => steps.push({ seconds, sequences: entries.length }),
      interTokenLatency: { observe: (seconds: number) => gaps.push(seconds) },
    },
    nowSeconds: () => clock.seconds,
    onLost,
  });
  const answer = (sequence: number, tokens: number, gapSeconds: number): void => {
    engine.append(sequence, "prompt", [1, 2]);
    engine.setSampling(sequence, greedySampling);
    for (let i = 0; i < tokens; i++) {
      engine.stepSync?.([{ sequence, workMax: 1_000, sample: true }]);
      clock.seconds += gapSeconds;
    }
  };
  return { engine, clock, gaps, steps, onLost, answer };
}

describe("watchEngine", () => {
  it("is the engine that it wraps", () => {
    const { engine } = watch({ vocabSize: 99 });
    const sequence = engine.createSequence();
    engine.append(sequence, "prompt", [1, 2, 3]);
    expect(engine.vocabSize).toBe(99);
    expect([...engine.ids(sequence, 0, 3)]).toEqual([1, 2, 3]);
    expect(engine.sequenceStats(sequence).tokens).toBe(3);
  });

  it("measures from token to token of one answer, not from one answer to the next", () => {
    const { engine, clock, gaps, steps, answer } = watch();
    const sequence = engine.createSequence();
    answer(sequence, 3, 2);
    clock.seconds += 1_000;
    answer(sequence, 2, 5);
    expect(gaps).toEqual([2, 2, 5]);
    expect(steps).toEqual(Array.from({ length: 5 }, () => ({ seconds: 0, sequences: 1 })));
  });

  it("does not take a sequence for the one that had its handle before", () => {
    const { engine, gaps, answer } = watch();
    const first = engine.createSequence();
    answer(first, 1, 1);
    engine.freeSequence(first);
    answer(engine.createSequence(), 1, 1);
    expect(gaps).toEqual([]);
  });

  it("tells once that the engine is lost, however it shows", async () => {
    const lost = new EngineError("deviceLost", "gone");
    const onStep = (): void => {
      throw lost;
    };
    const sync = watch({ onStep });
    expect(() => sync.engine.stepSync?.([])).toThrow(lost);
    expect(() => sync.engine.stepSync?.([])).toThrow(lost);
    expect(sync.onLost.mock.calls).toEqual([[lost]]);

    const late = watch({ onStep }, (engine) => lateEngine(engine, 1).engine);
    await expect(late.engine.step([])).rejects.toThrow(lost);
    expect(late.onLost.mock.calls).toEqual([[lost]]);

    const inResult = watch({}, (engine) => {
      const stepSync = (entries: readonly StepEntry[]) =>
        entries.map(() => ({
          token: undefined,
          logprob: 0,
          rowsPending: 1,
          workDone: 0,
          error: lost,
        }));
      return new Proxy(engine, {
        get: (target, name) =>
          name === "stepSync" ? stepSync : (Reflect.get(target, name, target) as unknown),
      });
    });
    inResult.engine.stepSync?.([{ sequence: 0, workMax: 1, sample: true }]);
    expect(inResult.onLost.mock.calls).toEqual([[lost]]);
  });

  it("takes other refusals for what they are", () => {
    const { engine, onLost } = watch();
    expect(() => engine.freeSequence(17)).toThrow("no sequence 17");
    expect(onLost).not.toHaveBeenCalled();
  });
});

describe("a process over an engine that computes elsewhere", () => {
  it("serves, and closes in the middle of a step without touching the engine meanwhile", async () => {
    const model = loadModelEngine();
    const closed = vi.spyOn(model.engine, "close");
    const { engine, violations } = lateEngine(model.engine, 20);
    const process = await startModelProcess({ load: async () => ({ ...model, engine }) });
    const client = openClient(process, "2");
    expect((await events(client.generate(ask("hello", 3)))).at(-1)?.case).toBe("finished");
    const broken = events(client.generate(ask("hello", 1_000, "t")));
    const refused = expect(broken).rejects.toThrow();
    await expect.poll(async () => (await client.getStatus({})).running).toBe(1);
    await process.close();
    await refused;
    await expect.poll(() => closed.mock.calls.length).toBe(1);
    expect(violations).toEqual([]);
    const { cacheBytes, cacheBytesFree } = model.engine.stats();
    expect(cacheBytesFree).toBe(cacheBytes);
  });
});
