/** The child of the restore benchmark: a prompt computed, its cache saved, dropped and restored. */
import { openSnapshot, sealSnapshot } from "../../src/engine/page/snapshot.js";
import type { SnapshotIdentity } from "../../src/engine/page/snapshot.js";
import type { Engine, SequenceHandle } from "../../src/engine/engine.js";
import { SeededRandom } from "../../test/oracle/random.js";
import { runAsChild } from "../support/child.js";
import { EngineRun } from "../support/engine-run.js";
import { openEngine } from "../support/open-engine.js";
import { planOf } from "../support/plans.js";
import type { PlanChoice } from "../support/plans.js";
import { median } from "../support/stats.js";

/** What to run. */
export type RestoreWorkload = {
  modelPath: string;
  tiny: boolean;
  choice: PlanChoice;
  tokens: number;
  /** Restores; their median counts. */
  restores: number;
};

/** What a round measured. */
export type RestoreMeasurement = {
  /** The prompt computed anew, to the first token. */
  replayMs: number;
  /** The snapshot checked in full and restored, to the first token. */
  restoreMs: number;
  /** Of the snapshot, the checksum included. */
  bytes: number;
};

const memoryBytesMax = 512 * 1024 * 1024;
/** Tokens that both ways must agree on. */
const answerTokens = 8;
const warmTokens = 100;

function equal(a: ArrayLike<number>, b: ArrayLike<number>): boolean {
  return a.length === b.length && Array.from(a).every((value, i) => value === b[i]);
}

/** Draws the answer after a token that is appended, so that both ways compute the same row. */
function answer(engine: Engine, sequence: SequenceHandle, first: number, count: number): number[] {
  engine.append(sequence, "generated", [first]);
  return new EngineRun(engine, sequence).decode(count);
}

async function measure(workload: RestoreWorkload): Promise<RestoreMeasurement> {
  const { modelPath, choice, tiny, tokens } = workload;
  const plan = planOf(choice, tiny);
  const plans = choice.pruned ? [plan] : [];
  const contextTokensMax = tokens + answerTokens + 2;
  const { engine, fingerprint, templateFingerprint } = await openEngine(modelPath, {
    ...{ memoryBytesMax, contextTokensMax, sequencesMax: 2, plans },
  });
  const index = plans.length;
  const random = new SeededRandom(tokens);
  const ids = Array.from({ length: tokens }, () => 300 + random.below(200));

  const warm = new EngineRun(engine, engine.createSequence(index));
  warm.prefill(ids.slice(0, warmTokens));
  warm.end();
  const run = new EngineRun(engine, engine.createSequence(index));
  const start = performance.now();
  const first = run.prefill(ids);
  const replayMs = performance.now() - start;

  const identity: SnapshotIdentity = {
    ...{ model: fingerprint, template: templateFingerprint },
    plan: engine.plans[index]?.fingerprint ?? "",
  };
  // The drawn token is in the log and not in the cache: what is restored is the prompt.
  engine.truncate(run.sequence, tokens);
  const body = engine.snapshot(run.sequence);
  const snapshot = await sealSnapshot(body, identity);
  const expected = answer(engine, run.sequence, first, answerTokens);
  run.end();

  const times: number[] = [];
  for (let i = 0; i < workload.restores; i++) {
    const begin = performance.now();
    const opened = await openSnapshot(snapshot, {
      ...{ identity, plan, contextTokensMax, vocabSize: engine.vocabSize },
    });
    const sequence = engine.restore(index, opened.body);
    const [token] = answer(engine, sequence, first, 1);
    times.push(performance.now() - begin);
    engine.truncate(sequence, tokens);
    if (!equal(engine.snapshot(sequence), body)) throw new Error("the restored cache differs");
    if (token !== expected[0] || !equal(answer(engine, sequence, first, answerTokens), expected)) {
      throw new Error("the restored sequence goes on differently");
    }
    engine.freeSequence(sequence);
  }
  return { replayMs, restoreMs: median(times), bytes: snapshot.length };
}

await runAsChild(measure);
