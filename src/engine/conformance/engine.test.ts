import { describe, expect, it } from "vitest";
import { logitError } from "../../../test/oracle/compare.js";
import { openFileSource } from "../gguf/file-source.js";
import { loadEngine } from "../load-engine.js";
import { readEngineModule } from "../wasm/node-module.js";
import { drawMany, openEngine, openSequence, randomIds, tinyModel } from "./engine-bench.js";
import { runEngineConformance } from "./engine-conformance.js";
import { runModuleMemorySuite } from "./error-suite.js";
import { suiteModules } from "./suite-modules.js";
import { missing, stories260k, titled } from "../../../test/peers/peers.js";

for (const name of suiteModules()) {
  runEngineConformance(name, () => readEngineModule(name));
  runModuleMemorySuite(name, () => readEngineModule(name));
}

/** RMS difference of log-probabilities between the backends; logits deviate by 3. */
const differenceMax = 2e-3;

describe("reference and SIMD128", () => {
  it("agree on logits within what f32 sums in another order explain", async () => {
    const ids = randomIds(120, 30);
    const rows = [];
    for (const backend of ["reference", "wasm"] as const) {
      const engine = await openEngine(await readEngineModule(backend), tinyModel);
      expect(engine.backend).toBe(backend);
      const sequence = openSequence(engine, [{ kind: "prompt", ids }]);
      const [drawn] = await drawMany(engine, sequence, 1);
      const values = Float64Array.from(
        new Float32Array(drawn?.logits.buffer ?? new ArrayBuffer(0)),
      );
      rows.push({ positions: 1, vocabulary: engine.vocabSize, values });
    }
    const [reference, simd] = rows;
    if (reference === undefined || simd === undefined) throw new RangeError("two rows expected");
    expect(logitError(simd, reference).rms).toBeLessThan(differenceMax);
  });
});

describe.skipIf(missing(stories260k))(titled("stories260K", stories260k), () => {
  it.each(["reference", "wasm"] as const)("tells of Lily on backend %s", async (backend) => {
    const source = await openFileSource(stories260k.path);
    try {
      const module = await readEngineModule(backend);
      const { engine, tokenizer, fingerprint } = await loadEngine({ source, module });
      expect(fingerprint).toMatch(/^[0-9a-f]{64}$/);
      const { bos } = tokenizer.facts;
      const sequence = openSequence(engine, [{ kind: "prompt", ids: [bos ?? -1] }]);
      const drawn = await drawMany(engine, sequence, 40);
      const text = tokenizer.decode(
        drawn.map(({ token }) => token),
        { start: true },
      );
      expect(text).toMatch(/^Once upon a time, there was a little girl named Lily\./);
    } finally {
      await source.close();
    }
  });
});
