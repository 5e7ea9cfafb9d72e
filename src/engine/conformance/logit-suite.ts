/** Logits: right, and the same however the work is cut. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { logitError } from "../../../test/oracle/compare.js";
import { logitsAt, Oracle } from "../../../test/oracle/oracle.js";
import { writeRandomModel, type ModelSpec } from "../../../test/oracle/random-model.js";
import {
  allWork,
  draw,
  drawMany,
  lively,
  openEngine,
  openSequence,
  randomIds,
  tinyModel,
  type Drawn,
  type SuiteModule,
} from "./engine-bench.js";
import { firstDifference } from "./expectations.js";

/** Models, and the RMS error of log-probabilities that their arithmetic explains; logits deviate by 3. */
const models: readonly { name: string; spec: ModelSpec; rmsMax: number }[] = [
  {
    name: "llama F32 with rope factors",
    spec: { ...tinyModel, type: "F32", embeddingType: "F32", tied: false, ropeFactors: true },
    rmsMax: 8e-3, // K and V are kept in f16
  },
  { name: "llama Q4_0 with a Q8_0 embedding", spec: tinyModel, rmsMax: 0.25 },
  {
    name: "qwen2 Q8_0",
    spec: { ...tinyModel, architecture: "qwen2", type: "Q8_0", ropeBase: 1e6 },
    rmsMax: 0.25,
  },
  {
    name: "qwen3 BF16, heads of 18 on rows of 52",
    spec: {
      ...tinyModel,
      architecture: "qwen3",
      type: "BF16",
      embeddingType: "F16",
      dim: 52,
      heads: 3,
      headDim: 18,
    },
    rmsMax: 2e-2,
  },
];

/** Runs the suite on a module. */
export function runLogitSuite(module: () => Promise<SuiteModule>): void {
  const folder = mkdtempSync(join(tmpdir(), "leanedge-conformance-"));
  afterAll(() => rmSync(folder, { recursive: true }));

  describe("logits", () => {
    it.each(models)("are the oracle's: $name", async ({ name, spec, rmsMax }) => {
      const engine = await openEngine(await module(), spec);
      const path = join(folder, `${name}.gguf`);
      writeRandomModel(path, spec);
      const ids = randomIds(100, 1);
      const oracle = new Oracle(path).logits(ids);
      // A prompt of 60, then one generated row at a time, past the first page.
      const sequence = openSequence(engine, [{ kind: "prompt", ids: ids.slice(0, 60) }]);
      for (let position = 59; position < 99; position++) {
        const { logits } = await draw(engine, sequence);
        const values = Float64Array.from(new Float32Array(logits.buffer));
        const error = logitError(
          { positions: 1, vocabulary: engine.vocabSize, values },
          { positions: 1, vocabulary: engine.vocabSize, values: logitsAt(oracle, position) },
        );
        expect(error.rms, `position ${position}`).toBeLessThan(rmsMax);
        engine.truncate(sequence, position + 1);
        engine.append(sequence, "generated", ids.slice(position + 1, position + 2));
      }
      expect(engine.sequenceStats(sequence).pages).toBeGreaterThan(0);
    });

    it("have the same bits whatever the batch and the step", async () => {
      const prompt = randomIds(90, 2);
      const results: Drawn[][] = [];
      for (const batchRowsMax of [1, 5, 64]) {
        const engine = await openEngine(await module(), tinyModel, { batchRowsMax });
        for (const workMax of [1, engine.layers * 7 + 1, allWork]) {
          const sequence = openSequence(engine, [{ kind: "prompt", ids: prompt }]);
          const first = await draw(engine, sequence, workMax);
          const second = await draw(engine, sequence, workMax);
          results.push([first, second]);
        }
      }
      for (const pair of results) {
        pair.forEach(({ token, logits }, i) => {
          const expected = results[0]?.[i];
          expect(token).toBe(expected?.token);
          expect(firstDifference(logits, expected?.logits ?? [])).toBe(-1);
        });
      }
    });

    it("have the same bits alone and beside other sequences", async () => {
      const engine = await openEngine(await module(), tinyModel);
      const prompts = [1, 33, 64, 100].map((count, i) => randomIds(count, 10 + i));
      const open = (): number[] =>
        prompts.map((ids) => openSequence(engine, [{ kind: "prompt", ids }], lively));
      const alone = [];
      for (const sequence of open()) {
        alone.push(await drawMany(engine, sequence, 12));
        engine.freeSequence(sequence);
      }
      const together = open();
      const drawn: number[][] = prompts.map(() => []);
      while (drawn.some((tokens) => tokens.length < 12)) {
        const entries = together
          .map((sequence, i) => ({ sequence, i, workMax: 20, sample: true }))
          .filter(({ i }) => (drawn[i]?.length ?? 0) < 12);
        const results = await engine.step(entries);
        for (const [at, { sequence, i }] of entries.entries()) {
          const result = results[at];
          expect(result?.error).toBeUndefined();
          if (result?.token === undefined) continue;
          const expected = alone[i]?.[drawn[i]?.length ?? 0];
          expect(firstDifference(engine.logits(sequence), floats(expected?.logits))).toBe(-1);
          drawn[i]?.push(result.token);
        }
      }
      expect(drawn).toEqual(alone.map((list) => list.map(({ token }) => token)));
    });

    it("of one step stand side by side, however many passes it took", async () => {
      const engine = await openEngine(await module(), tinyModel, {
        batchRowsMax: 8,
        sequencesMax: 4,
      });
      const prompts = [1, 9, 3, 3].map((count, i) => randomIds(count, 70 + i));
      const open = (ids: number[]): number => openSequence(engine, [{ kind: "prompt", ids }]);
      const alone = [];
      for (const ids of prompts) {
        const sequence = open(ids);
        alone.push(await draw(engine, sequence));
        engine.freeSequence(sequence);
      }
      // Where the next logits go has moved on by two; then one sequence ends with the first pass, three with the second.
      for (let i = 0; i < 2; i++) {
        const sequence = open(randomIds(2, 80 + i));
        await draw(engine, sequence);
        engine.freeSequence(sequence);
      }
      const sequences = prompts.map(open);
      const results = await engine.step(
        sequences.map((sequence) => ({ sequence, workMax: allWork, sample: true })),
      );
      for (const [i, sequence] of sequences.entries()) {
        expect(results[i]?.token).toBe(alone[i]?.token);
        expect(firstDifference(engine.logits(sequence), floats(alone[i]?.logits))).toBe(-1);
      }
    });

    it("steps allocate nothing and memory stays as it is", async () => {
      const engine = await openEngine(await module(), tinyModel);
      const before = engine.stats();
      expect(before.memoryBytes).toBeLessThanOrEqual(before.memoryBytesMax);
      const sequences = [80, 200, 3].map((count, i) =>
        openSequence(engine, [{ kind: "prompt", ids: randomIds(count, 40 + i) }], lively),
      );
      for (const sequence of sequences) await drawMany(engine, sequence, 40);
      const after = engine.stats();
      expect(after.allocations).toBe(0);
      expect(after.memoryBytes).toBe(before.memoryBytes);
      expect(after.rows).toBeGreaterThanOrEqual(283 + 3 * 39);
      for (const sequence of sequences) engine.freeSequence(sequence);
      expect(engine.stats().cacheBytesFree).toBe(before.cacheBytesFree);
    });

    it("a token's logprob is that of its logits, before temperature", async () => {
      const engine = await openEngine(await module(), tinyModel);
      const ids = randomIds(20, 3);
      const sequence = openSequence(engine, [{ kind: "prompt", ids }], lively);
      for (const { token, logprob, logits } of await drawMany(engine, sequence, 5)) {
        const values = Float64Array.from(floats(logits));
        const max = values.reduce((a, b) => Math.max(a, b), -Infinity);
        const total = values.reduce((sum, value) => sum + Math.exp(value - max), 0);
        expect(logprob).toBeCloseTo((values[token] ?? NaN) - max - Math.log(total), 4);
      }
    });
  });
}

function floats(bits: Uint32Array | undefined): Float32Array {
  return bits === undefined ? new Float32Array(0) : new Float32Array(bits.buffer);
}
