/** The child of the memory benchmark: one long prompt, and what the engine's memory was at most. */
import { runAsChild } from "../support/child.js";
import { openEngine } from "../support/open-engine.js";
import { planOf } from "../support/plans.js";
import type { PlanChoice } from "../support/plans.js";

/** What to run. */
export type PromptWorkload = {
  modelPath: string;
  tiny: boolean;
  choice: PlanChoice;
  tokens: number;
};

/** What it took, bytes. */
export type PromptMemory = {
  /** What the sequence holds after its prompt: sink and recent regions, and pages. */
  cacheBytes: number;
  /** Most of the cache's heap that was in use at once. */
  cacheBytesPeak: number;
  /** Taken at the start, whatever runs. */
  scratchBytes: number;
};

/** Rows x layers of one step: all of the prompt. */
const workMax = 10_000_000;

async function measure(workload: PromptWorkload): Promise<PromptMemory> {
  const { modelPath, tiny, choice, tokens } = workload;
  const plans = choice.pruned ? [planOf(choice, tiny)] : [];
  const { engine } = await openEngine(modelPath, { sequencesMax: 1, plans });
  const sequence = engine.createSequence(plans.length);
  const ids = Array.from({ length: tokens }, (_, i) => 300 + ((7 * i) % 200));
  engine.append(sequence, "prompt", ids);
  const [result] = engine.stepSync?.([{ sequence, workMax, sample: false }]) ?? [];
  if (result?.error !== undefined) throw result.error;
  if (result?.rowsPending !== 0) throw new Error("the prompt did not end in one step");
  const { scratchBytes, cacheBytesPeak } = engine.stats();
  const { cacheBytes } = engine.sequenceStats(sequence);
  return { cacheBytes, cacheBytesPeak, scratchBytes };
}

await runAsChild(measure);
