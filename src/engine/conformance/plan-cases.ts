/** One plan of each kind and of what they make together, for a random model of KV heads of 32. */
import type { ModelSpec } from "../../../test/oracle/random-model.js";
import {
  identityPlan,
  type CachePlan,
  type PageSelection,
  type PageStorage,
} from "../plan/plan.js";
import { tinyModel } from "./engine-bench.js";

/** Heads that can be pruned: 4 on 2 of 32 channels. */
export const prunableModel: ModelSpec = {
  ...tinyModel,
  seed: 9,
  dim: 64,
  heads: 4,
  kvHeads: 2,
  headDim: 32,
  ffDim: 96,
  vocabulary: 389,
  type: "F32",
  embeddingType: "F32",
};

/** Zones of all plans here: a first page at 44 tokens. */
export const planZones = { sink: 4, recent: 8 } as const;

const first = (count: number): number[] => Array.from({ length: count }, (_, channel) => channel);
const last = (count: number): number[] => first(count).map((channel) => channel + 32 - count);
const odd = first(16).map((index) => 2 * index + 1);
const all = first(32);

const lean = [
  [odd, all],
  [[], last(16)],
];
const full = [
  [all, all],
  [all, all],
];
const streaming = [
  [all, []],
  [[], all],
];

function planCase(
  name: string,
  kept: CachePlan["kept"],
  k: PageStorage,
  v: PageStorage,
  pageSelection?: PageSelection,
): CachePlan {
  const { layers, kvHeads, headDim } = prunableModel;
  return {
    ...identityPlan({ layers, kvHeads, headDim }, planZones),
    name,
    kept,
    storage: { k, v },
    pageSelection,
  };
}

/** With the identity plan as many as an engine takes. */
export const planCases: readonly CachePlan[] = [
  planCase("LeanK", lean, "f16", "f16"),
  planCase("KIVI", full, "int4", "int2"),
  planCase("LeanK.KIVI", lean, "int2", "int4"),
  planCase("Quest", full, "f16", "f16", { pagesPerStep: 2, pagesFloor: 2 }),
  planCase("LeanK.KIVI.Quest", lean, "int4", "int8", { pagesPerStep: 1, pagesFloor: 2 }),
  planCase("DuoAttention", streaming, "f16", "f16"),
  planCase("DuoAttention.KIVI.Quest", streaming, "int8", "int4", {
    pagesPerStep: 2,
    pagesFloor: 3,
  }),
];
