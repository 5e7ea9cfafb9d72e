/**
 * What a prompt of the embedded model takes beside the pages and zones that it leaves, as the engine's
 * high-water mark says, and how far packed hidden states move its logits.
 */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { embeddedFile, embeddedPlanFile } from "../../embedded-model.js";
import { logitError } from "../../../test/oracle/compare.js";
import type { Logits } from "../../../test/oracle/oracle.js";
import { SeededRandom } from "../../../test/oracle/random.js";
import { openFileSource } from "../gguf/file-source.js";
import { readModelFile } from "../gguf/model-file.js";
import { readingBytesMax } from "../plan/allocation.js";
import { parsePlan } from "../plan/parse.js";
import { pageStorages, type CachePlan } from "../plan/plan.js";
import { readEngineModule } from "../wasm/node-module.js";
import type { BoundaryEngine } from "../boundary/boundary-engine.js";
import { loadWasmEngine } from "../wasm/wasm-engine.js";
import { draw, openSequence } from "./engine-bench.js";

const mebibyte = 1024 * 1024;

/**
 * Beyond the final pages and the zones' region, by the share of K that a plan prunes: hidden states wait in pages to come, and
 * the smaller pages are, the fewer of them fit.
 */
const bounds = [
  { percent: 50, besideMib: 6 },
  { percent: 70, besideMib: 6 },
  { percent: 80, besideMib: 6.5 },
] as const;

function leanPlan(percent: number): CachePlan {
  const name = `leank-${percent}`;
  return parsePlan(readFileSync(embeddedPlanFile(name), "utf8"), name);
}

async function openSeed(
  plans: readonly CachePlan[],
  options: { readonly sequencesMax?: number } = {},
): Promise<BoundaryEngine> {
  const source = await openFileSource(embeddedFile);
  try {
    const modelFile = await readModelFile(source);
    const memoryBytesMax = 120 * mebibyte;
    const module = await readEngineModule("wasm");
    return await loadWasmEngine({ module, source, modelFile, plans, memoryBytesMax, ...options });
  } finally {
    await source.close();
  }
}

/** Ids of the embedded model's vocabulary. */
function ids(count: number, seed: number): number[] {
  const random = new SeededRandom(seed);
  return Array.from({ length: count }, () => 300 + random.below(7000));
}

async function logitsOf(engine: BoundaryEngine, sequence: number): Promise<Logits> {
  const { logits } = await draw(engine, sequence);
  const values = Float64Array.from(new Float32Array(logits.buffer));
  return { positions: 1, vocabulary: engine.vocabSize, values };
}

describe("memory of a prompt of 4,096 tokens of the embedded model", () => {
  it.each(bounds)(
    "is its pages and $besideMib MiB at most under leank-$percent, scratch included but for int2",
    async ({ percent, besideMib }) => {
      const besideBytesMax = besideMib * mebibyte;
      const plans = pageStorages.map((storage) => ({
        ...leanPlan(percent),
        name: storage,
        storage: { k: storage, v: storage },
      }));
      for (const plan of plans) {
        const engine = await openSeed([plan], { sequencesMax: 1 });
        const sequence = openSequence(
          engine,
          [{ kind: "prompt", ids: ids(4096, 1) }],
          undefined,
          1,
        );
        // Everything is taken before the first row; the prompt below goes to the end.
        const [result] = await engine.step([{ sequence, workMax: 1, sample: false }]);
        expect(result?.error).toBeUndefined();
        const { cacheBytesPeak, scratchBytes } = engine.stats();
        const transient = cacheBytesPeak - engine.sequenceCacheBytes(1, 4096);
        expect(transient, plan.name).toBeLessThanOrEqual(besideBytesMax);
        expect(readingBytesMax(plan, { dim: 512 }, 4096, 0, 4096, true)).toBeGreaterThan(transient);
        if (plan.name === "int2") continue;
        expect(transient + scratchBytes, plan.name).toBeLessThanOrEqual(besideBytesMax);
        engine.close();
      }
    },
  );
});

describe("a prompt whose hidden states are exact", () => {
  /** Behind 40 pages, most of which hold states of both of the last two layers. */
  const tokens = 1500;

  it("has the bits of a dense one under a pruned plan, wherever its states stood", async () => {
    const plan: CachePlan = { ...leanPlan(70), name: "lean", storage: { k: "int4", v: "int4" } };
    const engine = await openSeed([plan]);
    const log = [{ kind: "prompt" as const, ids: ids(tokens, 3) }];
    const pruned = openSequence(engine, log, undefined, 1);
    // Steps that end within blocks of rows and layers.
    for (let pending = tokens; pending > 0;) {
      const [result] = await engine.step([{ sequence: pruned, workMax: 701, sample: false }]);
      expect(result?.error).toBeUndefined();
      pending = result?.rowsPending ?? 0;
    }
    const dense = await logitsOf(engine, openSequence(engine, log));
    expect(await logitsOf(engine, pruned)).toEqual(dense);
    engine.close();
  }, 120_000);
});

describe("a prompt whose hidden states are packed", () => {
  /** The first length of dim 512 that is packed. */
  const tokens = 2049;
  /** RMS difference of log-probabilities; logits deviate by about 3, the ids make no sense. */
  const rmsMax = 0.2;

  it("takes no more on its way, gives it back, and moves its logits little", async () => {
    const plan: CachePlan = { ...leanPlan(70), name: "lean", storage: { k: "int4", v: "int4" } };
    const engine = await openSeed([plan]);
    const free = engine.stats().cacheBytesFree;
    const log = [{ kind: "prompt" as const, ids: ids(tokens, 2) }];
    const sequence = openSequence(engine, log, undefined, 1);
    await engine.step([{ sequence, workMax: 1, sample: false }]);
    const early = engine.stats().cacheBytesPeak;
    const packed = await logitsOf(engine, sequence);
    expect(engine.stats().cacheBytesPeak).toBe(early);
    const held = engine.sequenceCacheBytes(1, tokens);
    expect(engine.sequenceStats(sequence).cacheBytes).toBe(held);
    expect(engine.stats().cacheBytesFree).toBe(free - held);
    engine.freeSequence(sequence);
    // A prompt on its own sees itself densely under every plan: the identity plan's logits are those
    // of exact states.
    const exact = await logitsOf(engine, openSequence(engine, log));
    const { rms } = logitError(packed, exact);
    expect(rms).toBeGreaterThan(0);
    expect(rms).toBeLessThan(rmsMax);
    engine.close();
  }, 120_000);
});
