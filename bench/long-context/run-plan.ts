/** The child of the long-context benchmark: decode steps behind a full cache, under one plan. */
import { logitError } from "../../test/oracle/compare.js";
import type { Logits } from "../../test/oracle/oracle.js";
import type { Engine } from "../../src/engine/engine.js";
import { runAsChild } from "../support/child.js";
import { EngineRun } from "../support/engine-run.js";
import { openEngine } from "../support/open-engine.js";
import { planOf } from "../support/plans.js";
import type { PlanChoice } from "../support/plans.js";
import { measureReads } from "../support/read-loop.js";
import { syntheticSnapshot } from "../support/synthetic-cache.js";

/** What to run. */
export type PlanWorkload = {
  modelPath: string;
  tiny: boolean;
  choice: PlanChoice;
  /** Tokens in the cache before the first step. */
  tokens: number;
  warmSteps: number;
  steps: number;
  /** Tokens in the cache of the comparison with the reference; 0: none in this round. */
  checkTokens: number;
};

/** What a round measured. */
export type PlanMeasurement = {
  /** Milliseconds of all timed steps. */
  ms: number;
  /** Bytes of the sequence's cache, all of it. */
  cacheBytes: number;
  weightBytesPerRow: number;
  /** Pure-read loop over as many bytes as a dense step reads, bytes a second. */
  readBytesPerSecond: number;
  /** RMS difference of log-probabilities between the module and the reference; 0 if not compared. */
  error: number;
};

const memoryBytesMax = 1024 * 1024 * 1024;
/** Steps of the comparison: one is not enough to read back what a step wrote. */
const checkSteps = 3;

async function begin(engine: Engine, workload: PlanWorkload, tokens: number): Promise<EngineRun> {
  const { choice, tiny } = workload;
  const snapshot = await syntheticSnapshot(planOf(choice, tiny), tokens);
  const sequence = engine.restore(choice.pruned ? 1 : 0, snapshot);
  engine.append(sequence, "generated", [300]);
  return new EngineRun(engine, sequence);
}

async function open(
  { modelPath, choice, tiny }: PlanWorkload,
  tokens: number,
  backend: "wasm" | "reference",
): Promise<Engine> {
  const plans = choice.pruned ? [planOf(choice, tiny)] : [];
  const options = { memoryBytesMax, contextTokensMax: tokens, sequencesMax: 1, plans };
  return (await openEngine(modelPath, options, backend)).engine;
}

/** Logits of a few steps behind a short cache; every backend reads the same tokens. */
async function shortLogits(workload: PlanWorkload, backend: "wasm" | "reference"): Promise<Logits> {
  const { checkTokens } = workload;
  const engine = await open(workload, checkTokens + checkSteps + 1, backend);
  const run = await begin(engine, workload, checkTokens);
  const values = new Float64Array(checkSteps * engine.vocabSize);
  for (let step = 0; step < checkSteps; step++) {
    run.decode(1);
    values.set(engine.logits(run.sequence), step * engine.vocabSize);
    engine.truncate(run.sequence, checkTokens + 1 + step);
    engine.append(run.sequence, "generated", [301 + step]);
  }
  const vocabulary = engine.vocabSize;
  engine.close();
  return { positions: checkSteps, vocabulary, values };
}

async function measure(workload: PlanWorkload): Promise<PlanMeasurement> {
  const { tokens, warmSteps, steps, checkTokens } = workload;
  const error =
    checkTokens === 0
      ? 0
      : logitError(await shortLogits(workload, "wasm"), await shortLogits(workload, "reference"))
          .rms;
  const engine = await open(workload, tokens + warmSteps + steps + 1, "wasm");
  const run = await begin(engine, workload, tokens);
  run.decode(warmSteps);
  const start = performance.now();
  run.decode(steps);
  const ms = performance.now() - start;
  const { cacheBytes } = engine.sequenceStats(run.sequence);
  const { weightBytesPerRow } = engine.stats();
  engine.close();
  return {
    ...{ ms, cacheBytes, weightBytesPerRow, error },
    readBytesPerSecond: await measureReads(weightBytesPerRow + cacheBytes),
  };
}

await runAsChild(measure);
