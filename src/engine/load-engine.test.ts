import { describe, expect, it } from "vitest";
import { randomModelBytes, parameterCount } from "../../test/oracle/random-model.js";
import { draw, openSequence, smallZones, tinyModel } from "./conformance/engine-bench.js";
import { ModelFileError, fingerprintSource, memorySource } from "./gguf/index.js";
import { loadEngine } from "./load-engine.js";
import { sha256Hex } from "./sha256.js";
import { readEngineModule } from "./wasm/node-module.js";

const bytes = randomModelBytes(tinyModel);
const memoryBytesMax = 16 * 1024 * 1024;

describe("loadEngine", () => {
  it("puts engine, tokenizer and template of one file together", async () => {
    const source = memorySource(bytes);
    const module = await readEngineModule();
    const loaded = await loadEngine({ source, module, memoryBytesMax, ...smallZones });
    expect(loaded.engine.backend).toBe("wasm");
    expect(loaded.engine.vocabSize).toBe(tinyModel.vocabulary);
    expect(loaded.tokenizer.facts.vocabSize).toBe(tinyModel.vocabulary);
    expect(loaded.modelFile.config.layers).toBe(tinyModel.layers);
    expect(loaded.fingerprint).toBe(await fingerprintSource(source));
    const template = new Uint8Array(new TextEncoder().encode(loaded.template.source));
    expect(loaded.templateFingerprint).toBe(await sha256Hex(template));
    expect(loaded.parameterCount).toBe(parameterCount(tinyModel));
    const { plans } = loaded.engine;
    expect(plans).toHaveLength(1);
    expect(plans[0]).toMatchObject({ index: 0, name: "identity", ...smallZones });
    expect(plans[0]?.fingerprint).toMatch(/^[0-9a-f]{64}$/);
    expect(plans[0]?.pageBytes).toBe(
      tinyModel.layers * tinyModel.kvHeads * tinyModel.headDim * 2 * 2 * 32,
    );
  });

  it("takes a fingerprint that the source has checked, and then skips the header's bytes", async () => {
    const source = memorySource(bytes);
    const offsets: number[] = [];
    const watched = {
      ...source,
      stream: (offset: number, length: number) => {
        offsets.push(offset);
        return source.stream(offset, length);
      },
    };
    const module = await readEngineModule();
    const known = await loadEngine({
      source: watched,
      module,
      memoryBytesMax,
      fingerprint: "known",
      ...smallZones,
    });
    expect(known.fingerprint).toBe("known");
    expect(offsets).toHaveLength(1);
    expect(offsets[0]).toBeGreaterThanOrEqual(known.modelFile.dataOffset);
    // The same weights either way.
    const other = await loadEngine({ source, module, memoryBytesMax, ...smallZones });
    const [a, b] = await Promise.all(
      [known, other].map(({ engine }) =>
        draw(engine, openSequence(engine, [{ kind: "prompt", ids: [1, 5, 9] }])),
      ),
    );
    expect(a).toEqual(b);
  });

  it("lets the error of whoever refuses through", async () => {
    const module = await readEngineModule();
    const load = (source: Uint8Array, memory: number): Promise<unknown> =>
      loadEngine({ source: memorySource(source), module, memoryBytesMax: memory });
    await expect(load(bytes.slice(0, 1000), memoryBytesMax)).rejects.toThrow(ModelFileError);
    await expect(load(bytes.slice(0, -100), memoryBytesMax)).rejects.toThrow(ModelFileError);
    await expect(load(bytes, 1 << 19)).rejects.toMatchObject({ status: "outOfMemory" });
  });
});
