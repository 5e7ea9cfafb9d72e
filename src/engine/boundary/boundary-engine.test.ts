import { describe, expect, it } from "vitest";
import { openEngine, randomIds, tinyModel } from "../conformance/engine-bench.js";
import { readEngineModule } from "../wasm/node-module.js";
import { appendIdsMax } from "./boundary-engine.js";

const module = await readEngineModule();
const context = 2 * appendIdsMax + 1_000;

describe("a log with an answer that is longer than the staging buffer", () => {
  it("is brought back as it was drawn, in one segment", async () => {
    const engine = await openEngine(module, { ...tinyModel, context }, { memoryBytesMax: 1 << 27 });
    const sequence = engine.createSequence();
    const prompt = randomIds(20, 1);
    const answer = randomIds(2 * appendIdsMax + 7, 2);
    engine.append(sequence, "prompt", prompt);
    engine.append(sequence, "generated", answer);
    expect(engine.sequenceStats(sequence)).toMatchObject({
      tokens: prompt.length + answer.length,
      segments: 2,
    });
    const ids = engine.ids(sequence, prompt.length, prompt.length + answer.length);
    expect(ids).toEqual(Uint32Array.from(answer));
    engine.close();
  });

  it("is refused as a whole where it does not fit, or has a bad id", async () => {
    const engine = await openEngine(module, { ...tinyModel, context }, { memoryBytesMax: 1 << 27 });
    const sequence = engine.createSequence();
    engine.append(sequence, "generated", randomIds(5, 1));
    const bad = randomIds(appendIdsMax + 1, 2);
    bad[appendIdsMax] = -1;
    for (const ids of [bad, randomIds(context, 3)]) {
      expect(() => engine.append(sequence, "generated", ids)).toThrow();
      expect(engine.sequenceStats(sequence)).toMatchObject({ tokens: 5, segments: 1 });
    }
    engine.close();
  });
});
