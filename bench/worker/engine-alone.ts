/** An engine without a worker around it: prompts of all sequences one after the other, then their answers in one batch. */
import type { Engine } from "../../src/engine/engine.js";
import type { BareRun } from "./workload.js";

/** Rows x layers of one step: no prompt has more. */
const workMax = 1e7;

/** What sequences of an engine read and draw. */
export type Alone = {
  sequences: number;
  /** Ids of each prompt. */
  ids: readonly number[];
  /** Tokens that each sequence draws, the one after its prompt included. */
  generate: number;
  /** Index of the engine's plan. */
  plan: number;
};

/** Runs all sequences to their ends, and frees them. */
export async function engineAlone(engine: Engine, alone: Alone): Promise<BareRun> {
  const sequences = Array.from({ length: alone.sequences }, () =>
    engine.createSequence(alone.plan),
  );
  const startMs = performance.now();
  for (const sequence of sequences) {
    engine.append(sequence, "prompt", alone.ids);
    const [result] = await engine.step([{ sequence, workMax, sample: true }]);
    if (result?.error !== undefined) throw result.error;
  }
  const entries = sequences.map((sequence) => ({ sequence, workMax: engine.layers, sample: true }));
  const steps = alone.generate - 1;
  const decodeMs = performance.now();
  for (let step = 0; step < steps; step++) {
    for (const { token, error } of await engine.step(entries)) {
      if (error !== undefined) throw error;
      if (token === undefined) throw new Error("a sequence drew no token");
    }
  }
  const endMs = performance.now();
  for (const sequence of sequences) engine.freeSequence(sequence);
  const stepMs = (endMs - decodeMs) / steps;
  return {
    tokensPerSecond: (1000 * sequences.length) / stepMs,
    stepMs,
    wholeMs: endMs - startMs,
  };
}
