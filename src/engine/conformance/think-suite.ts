/** Channel sums for ThinK: those of an independent forward pass in f64, however the prompt is read. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { Oracle } from "../../../test/oracle/oracle.js";
import { plannedMix } from "../../../test/oracle/planned.js";
import { writeRandomModel } from "../../../test/oracle/random-model.js";
import { identityPlan } from "../plan/plan.js";
import { thinkPlan, thinkQueries, type ChannelSums } from "../plan/think.js";
import { allWork, openEngine, openSequence, randomIds, type SuiteModule } from "./engine-bench.js";
import { worstError } from "./expectations.js";
import { planCases, planZones, prunableModel } from "./plan-cases.js";

/** Sums of squares of an oracle's own Q and K for a prompt. */
export function oracleSums(
  oracle: Oracle,
  ids: readonly number[],
  queryFrom: number,
): ChannelSums[] {
  const { kvHeads, headDim, heads } = oracle;
  const layers = oracle.layers.length;
  const identity = identityPlan({ layers, kvHeads, headDim });
  const mix = plannedMix(identity, heads, [{ kind: "prompt", count: ids.length }]);
  const squares = (rows: readonly Float64Array[]): Float64Array => {
    const sums = new Float64Array(rows[0]?.length ?? 0);
    for (const row of rows) row.forEach((x, i) => (sums[i] = (sums[i] ?? 0) + x * x));
    return sums;
  };
  const sums: ChannelSums[] = [];
  oracle.logits(ids, (layer, q, k, v) => {
    sums[layer] = { k: squares(k), q: squares(q.slice(queryFrom)) };
    return mix(layer, q, k, v);
  });
  return sums;
}

/** Runs the suite on a module. */
export function runThinkSuite(module: () => Promise<SuiteModule>): void {
  describe("channel sums of a prompt", () => {
    const folder = mkdtempSync(join(tmpdir(), "leanedge-think-"));
    afterAll(() => rmSync(folder, { recursive: true }));
    const ids = randomIds(90, 6).map((id) => id % prunableModel.vocabulary);
    const queryFrom = ids.length - thinkQueries;

    it("are the oracle's, under a plan that prunes too, and choose the same channels", async () => {
      const path = join(folder, "model.gguf");
      writeRandomModel(path, prunableModel);
      const expected = oracleSums(new Oracle(path), ids, queryFrom);
      const { layers, kvHeads, headDim } = prunableModel;
      const base = identityPlan({ layers, kvHeads, headDim }, planZones);
      const seen: ChannelSums[][] = [];
      for (const batchRowsMax of [7, 64]) {
        const engine = await openEngine(await module(), prunableModel, {
          plans: planCases,
          batchRowsMax,
        });
        const free = engine.stats().cacheBytesFree;
        for (const plan of [0, 1]) {
          const sequence = openSequence(engine, [{ kind: "prompt", ids }], undefined, plan);
          engine.observe(sequence, queryFrom);
          await engine.step([{ sequence, workMax: allWork, sample: false }]);
          seen.push(engine.observed());
          engine.freeSequence(sequence);
          expect(() => engine.observed()).toThrow(/none is/);
        }
        expect(engine.stats().cacheBytesFree).toBe(free);
      }
      for (const sums of seen) {
        sums.forEach(({ k, q }, layer) => {
          expect(worstError(k, expected[layer]?.k ?? [], 1)).toBeLessThan(2e-3);
          expect(worstError(q, expected[layer]?.q ?? [], 1)).toBeLessThan(2e-3);
        });
        expect(thinkPlan(base, sums, 16).kept).toEqual(thinkPlan(base, expected, 16).kept);
        expect(sums).toEqual(seen[0]);
      }
    });

    it("make a plan that an engine takes and reads its prompt under", async () => {
      const first = await openEngine(await module(), prunableModel, planZones);
      const sequence = openSequence(first, [{ kind: "prompt", ids }]);
      first.observe(sequence, queryFrom);
      await first.step([{ sequence, workMax: allWork, sample: false }]);
      const { layers, kvHeads, headDim } = prunableModel;
      const base = identityPlan({ layers, kvHeads, headDim }, planZones);
      const plan = thinkPlan(base, first.observed(), 16);
      const second = await openEngine(await module(), prunableModel, {
        ...planZones,
        plans: [plan],
      });
      const pruned = openSequence(second, [{ kind: "prompt", ids }], undefined, 1);
      const [result] = await second.step([{ sequence: pruned, workMax: allWork, sample: true }]);
      expect(result?.error).toBeUndefined();
      expect(second.sequenceStats(pruned).pages).toBe(2);
      expect(second.plans[1]?.pageBytes).toBeLessThan(second.plans[0]?.pageBytes ?? 0);
    });
  });
}
