/** Plans that benchmarks compare: one learned choice of K channels, stored in different ways. */
import { readFileSync } from "node:fs";
import { embeddedPlanFile } from "../../src/embedded-model.js";
import { parsePlan } from "../../src/engine/plan/parse.js";
import { identityPlan } from "../../src/engine/plan/plan.js";
import type { CachePlan, PageSelection, PageStorage } from "../../src/engine/plan/plan.js";

/** Of the embedded model: 70 % of K channels pruned, learned with LeanK. */
const learned = new URL(`../../${embeddedPlanFile("leank-70")}`, import.meta.url);

/** A plan to run: how archive pages store K and V, and what of them a step reads. */
export type PlanChoice = {
  name: string;
  /** False: all channels, in f16: the identity plan. */
  pruned: boolean;
  storage: PageStorage;
  selection?: PageSelection;
};

/** The plan that everything is compared with. */
export const dense: PlanChoice = { name: "dense f16", pruned: false, storage: "f16" };

/** 70 % pruned in every storage. */
export const prunedChoices: readonly PlanChoice[] = (["f16", "int8", "int4", "int2"] as const).map(
  (storage) => ({ name: `70 % pruned, ${storage}`, pruned: true, storage }),
);

/** For the tiny model: 2 layers of 2 heads of 32 channels, of which one head keeps nothing. */
const evenChannels = Array.from({ length: 16 }, (_, i) => 2 * i);
const tinyKept = [
  [evenChannels, []],
  [evenChannels, Array.from({ length: 32 }, (_, i) => i)],
] as const;

/** The cache plan of a choice; `tiny` for the tiny model, else for models of the embedded one's shape. */
export function planOf(choice: PlanChoice, tiny: boolean): CachePlan {
  const { name, pruned, storage, selection } = choice;
  const full: CachePlan = tiny
    ? identityPlan({ layers: 2, kvHeads: 2, headDim: 32 })
    : parsePlan(readFileSync(learned, "utf8"));
  if (!pruned) {
    return identityPlan({ layers: full.layers, kvHeads: full.kvHeads, headDim: full.headDim });
  }
  return {
    ...full,
    ...(tiny ? { kept: tinyKept } : {}),
    name: name.replaceAll(/[^a-z0-9]+/g, "-"),
    storage: { k: storage, v: storage },
    pageSelection: selection,
  };
}
