/** ThinK's channels of the embedded model, chosen by the engine and by the oracle. */
import { describe, expect, it } from "vitest";
import { embeddedFile } from "../../embedded-model.js";
import { Oracle } from "../../../test/oracle/oracle.js";
import { SeededRandom } from "../../../test/oracle/random.js";
import { openFileSource } from "../gguf/file-source.js";
import { readModelFile } from "../gguf/model-file.js";
import { identityPlan } from "../plan/plan.js";
import { thinkPlan, thinkQueries } from "../plan/think.js";
import { readEngineModule } from "../wasm/node-module.js";
import { loadWasmEngine } from "../wasm/wasm-engine.js";
import { allWork, openSequence } from "./engine-bench.js";
import { oracleSums } from "./think-suite.js";

describe("ThinK on the embedded model", () => {
  it("chooses the oracle's channels but for near ties", { timeout: 60_000 }, async () => {
    const random = new SeededRandom(3);
    const ids = Array.from({ length: 48 }, () => 300 + random.below(7000));
    const queryFrom = ids.length - thinkQueries;
    const source = await openFileSource(embeddedFile);
    const modelFile = await readModelFile(source);
    const engine = await loadWasmEngine({
      module: await readEngineModule("wasm"),
      source,
      modelFile,
    });
    await source.close();
    const sequence = openSequence(engine, [{ kind: "prompt", ids }]);
    engine.observe(sequence, queryFrom);
    await engine.step([{ sequence, workMax: allWork, sample: false }]);
    const { layers, kvHeads, headDim } = modelFile.config;
    const base = identityPlan({ layers, kvHeads, headDim });
    const expected = oracleSums(new Oracle(embeddedFile), ids, queryFrom);
    for (const width of [16, 32, 48]) {
      const own = thinkPlan(base, engine.observed(), width).kept;
      const other = thinkPlan(base, expected, width).kept;
      const all = own.flat(2).length;
      const same = own.reduce(
        (sum, heads, layer) =>
          sum +
          heads.reduce(
            (inner, channels, head) =>
              inner + channels.filter((c) => other[layer]?.[head]?.includes(c)).length,
            0,
          ),
        0,
      );
      expect(all).toBe(layers * kvHeads * width);
      // Q4_0 products take int8 activations in the engine, f64 in the oracle.
      expect(same / all).toBeGreaterThan(0.97);
    }
    engine.close();
  });
});
