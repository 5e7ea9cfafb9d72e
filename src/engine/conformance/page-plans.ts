/** Plans of one layer that the kernel suites run: every pair of storages, every kind of width. */
import { SeededRandom } from "../../../test/oracle/random.js";
import { identityPlan, pageStorages, type CachePlan } from "../plan/plan.js";
import type { LayerLog } from "./attention-log.js";

/** Every way to store K and V. */
export const storagePairs = pageStorages.flatMap((k) => pageStorages.map((v) => ({ k, v })));

/** Rows of the sink of these plans: no multiple of anything. */
export const planSink = 5;

/** Everything in f16. */
export function plainPlan(log: LayerLog): CachePlan {
  const { kvHeads, headDim } = log;
  return identityPlan({ layers: 1, kvHeads, headDim }, { sink: planSink, recent: 32 });
}

/** Widths that a head may have: multiples of 16, and everything. */
export function legalWidths(headDim: number): number[] {
  const steps = Array.from({ length: Math.ceil(headDim / 16) }, (_, i) => i * 16);
  return [...steps, headDim];
}

/** `width` of `headDim` channels, drawn at random, increasing. */
export function randomChannels(random: SeededRandom, headDim: number, width: number): number[] {
  const all = Array.from({ length: headDim }, (_, channel) => channel);
  for (let i = all.length - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [all[i], all[j]] = [all[j] ?? 0, all[i] ?? 0];
  }
  return all.slice(0, width).sort((a, b) => a - b);
}

/** A plan whose heads have the given widths. */
export function widthPlan(
  log: LayerLog,
  storage: CachePlan["storage"],
  widths: readonly number[],
  seed: number,
): CachePlan {
  const random = new SeededRandom(seed);
  const kept = Array.from({ length: log.kvHeads }, (_, head) =>
    randomChannels(random, log.headDim, widths[head % widths.length] ?? 0),
  );
  return { ...plainPlan(log), name: "pruned", kept: [kept], storage };
}

/** A plan whose heads' widths differ: 16, all, none, and what `seed` says. */
export function storagePlan(log: LayerLog, storage: CachePlan["storage"], seed: number): CachePlan {
  const legal = legalWidths(log.headDim);
  const other = legal[seed % legal.length] ?? 0;
  const narrow = log.headDim < 16 ? log.headDim : 16;
  return widthPlan(log, storage, [narrow, log.headDim, 0, other], seed);
}
