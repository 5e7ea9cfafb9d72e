/** Plans of every kind, and together, against the oracle; and where they must not differ at all. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { logitError } from "../../../test/oracle/compare.js";
import { logitsAt, Oracle, type Logits } from "../../../test/oracle/oracle.js";
import { plannedMix } from "../../../test/oracle/planned.js";
import { writeRandomModel } from "../../../test/oracle/random-model.js";
import { SeededRandom } from "../../../test/oracle/random.js";
import type { Engine, LogSegment } from "../engine.js";
import { archivePages, identityPlan, type CachePlan } from "../plan/plan.js";
import { draw, openEngine, openSequence, type SuiteModule } from "./engine-bench.js";
import { firstDifference } from "./expectations.js";
import { planCases, planZones, prunableModel } from "./plan-cases.js";

/**
 * RMS error of log-probabilities. Weights are f32, K and V f16; a value on the border of two codes
 * may get either, which int2 shows most.
 */
const rmsMax = { f16: 8e-3, int8: 8e-3, int4: 2e-2, int2: 8e-2 } as const;

/** Where the first page leaves: sink + recent + 32. */
const border = planZones.sink + planZones.recent + 32;

function ids(count: number, seed: number): number[] {
  const random = new SeededRandom(seed);
  return Array.from({ length: count }, () => random.below(prunableModel.vocabulary));
}

/** A log whose segments have these lengths: positive a prompt, negative generated. */
function logOf(lengths: readonly number[]): LogSegment[] {
  return lengths.map((length, i) => ({
    kind: length > 0 ? "prompt" : "generated",
    ids: ids(Math.abs(length), 100 + i),
  }));
}

/** Prompts around the zones' sizes, each with a run of generated rows behind it. */
const wholePrompts = [
  1,
  planZones.sink,
  planZones.sink + 1,
  planZones.sink + planZones.recent - 1,
  planZones.sink + planZones.recent,
  planZones.sink + planZones.recent + 1,
  border - 1,
  border,
  border + 1,
  border + 31,
  border + 32,
  border + 130,
].map((length) => logOf([length, -3]));

/** The same lengths in pieces: prompts next to each other, and with generated runs between. */
const piecewise = [
  logOf([3, 1, 1, 7, 1, 30, 1, 1, 31, 1]),
  logOf([9, -3, 1, -30, 2, -1, 1, -40, 50, -33, 5, -2]),
];

/** The oracle's logits by plan and log: the same for every module. */
const judged = new Map<string, Logits>();

/** Positions where a log's segments end. */
function ends(log: readonly LogSegment[]): number[] {
  let at = 0;
  return log.map((segment) => (at += segment.ids.length) - 1);
}

/** Runs the suite on a module. */
export function runPlanSuite(module: () => Promise<SuiteModule>): void {
  const folder = mkdtempSync(join(tmpdir(), "leanedge-plans-"));
  const path = join(folder, "model.gguf");
  let oracle: Oracle;
  beforeAll(() => {
    writeRandomModel(path, prunableModel);
    oracle = new Oracle(path);
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  /** An engine with all plans; index 0 is the identity plan. */
  const open = async (): Promise<Engine> =>
    openEngine(await module(), prunableModel, { plans: planCases, ...planZones, batchRowsMax: 24 });

  /** Logits behind each of the log's segments. */
  async function engineLogits(
    engine: Engine,
    plan: number,
    log: readonly LogSegment[],
  ): Promise<Float64Array[]> {
    const sequence = openSequence(engine, [], undefined, plan);
    const rows: Float64Array[] = [];
    for (const segment of log) {
      engine.append(sequence, segment.kind, segment.ids);
      const { tokens } = engine.sequenceStats(sequence);
      const { logits } = await draw(engine, sequence);
      rows.push(Float64Array.from(new Float32Array(logits.buffer)));
      engine.truncate(sequence, tokens);
    }
    engine.freeSequence(sequence);
    return rows;
  }

  function oracleLogits(plan: CachePlan, log: readonly LogSegment[]): Logits {
    const segments = log.map((segment) => ({ kind: segment.kind, count: segment.ids.length }));
    const key = `${plan.name} ${JSON.stringify(segments)}`;
    const known = judged.get(key);
    if (known !== undefined) return known;
    const tokens = log.flatMap((segment) => segment.ids);
    const logits = oracle.logits(tokens, plannedMix(plan, prunableModel.heads, segments));
    judged.set(key, logits);
    return logits;
  }

  /** Largest RMS error over the ends of the log's segments. */
  async function worstRms(
    engine: Engine,
    plan: number,
    log: readonly LogSegment[],
  ): Promise<number> {
    const judge = planCases[plan - 1];
    if (judge === undefined) throw new RangeError(`plan ${plan} is none of the cases`);
    const expected = oracleLogits(judge, log);
    const actual = await engineLogits(engine, plan, log);
    const vocabulary = prunableModel.vocabulary;
    const errors = ends(log).map(
      (position, i) =>
        logitError(
          { positions: 1, vocabulary, values: actual[i] ?? new Float64Array(vocabulary) },
          { positions: 1, vocabulary, values: logitsAt(expected, position) },
        ).rms,
    );
    return Math.max(...errors);
  }

  describe.each(planCases.map((plan, i) => ({ name: plan.name, plan, index: i + 1 })))(
    "the plan $name",
    ({ plan, index }) => {
      const bound = Math.max(rmsMax[plan.storage.k], rmsMax[plan.storage.v]);

      it("gives the oracle's logits for prompts below, on and above the zones' sizes", async () => {
        const engine = await open();
        for (const log of wholePrompts) {
          const length = log[0]?.ids.length ?? 0;
          expect(await worstRms(engine, index, log), `${length} tokens`).toBeLessThan(bound);
        }
      });

      it("gives the oracle's logits for logs in pieces", async () => {
        const engine = await open();
        for (const log of piecewise) {
          expect(await worstRms(engine, index, log)).toBeLessThan(bound);
        }
      });

      it("shows: where pages are, logits differ from the identity plan's", async () => {
        const engine = await open();
        const log = logOf([150, -3]);
        const [, identity] = await engineLogits(engine, 0, log);
        const [, own] = await engineLogits(engine, index, log);
        expect(own).not.toEqual(identity);
      });

      it("holds each row once: pages, sink and recent rows add up to the log", async () => {
        const engine = await open();
        for (const log of [...wholePrompts, ...piecewise]) {
          const sequence = openSequence(engine, log, undefined, index);
          await draw(engine, sequence);
          const { computed, pages, cacheBytes } = engine.sequenceStats(sequence);
          expect(pages).toBe(archivePages(computed, plan.sink, plan.recent));
          expect(cacheBytes).toBe(engine.sequenceCacheBytes(index, computed));
          engine.freeSequence(sequence);
        }
      });
    },
  );

  it("the identity plan gives the bits of a cache without pages, in pieces and whole", async () => {
    const { layers, kvHeads, headDim } = prunableModel;
    const geometry = { layers, kvHeads, headDim };
    const paged = await open();
    const dense = await openEngine(await module(), prunableModel, {
      sink: planZones.sink,
      recent: 700,
    });
    expect(identityPlan(geometry, planZones).kept).toEqual(identityPlan(geometry).kept);
    for (const log of [...wholePrompts, ...piecewise]) {
      const expected = await engineLogits(dense, 0, log);
      const actual = await engineLogits(paged, 0, log);
      actual.forEach((row, i) => {
        expect(firstDifference(row, expected[i] ?? [])).toBe(-1);
      });
    }
  });
}
