/** What a plan costs: the numbers of docs/plan-format.md section 4, all known before admission. */
import { pageLayout } from "../page/layout.js";
import { archivePages, pageSlots, planLimits, type CachePlan } from "./plan.js";

/** Sizes that a plan fixes. */
export interface PlanCost {
  /** Bytes of K and V of one token in f16, all layers and heads. */
  readonly denseBytesPerToken: number;
  /** Bytes of one token in the archive, scales counted; may be a fraction. */
  readonly archiveBytesPerToken: number;
  /** Bytes of a page, all layers together. */
  readonly pageBytes: number;
  /** Bytes of one page in each layer. */
  readonly layerPageBytes: readonly number[];
  /** Bytes of a sequence before its first page: the sink and recent regions. */
  readonly zoneBytes: number;
  /** Share of K channels that the archive keeps, 0 .. 1. */
  readonly keptFraction: number;
}

/** Computes the sizes that a plan fixes. */
export function planCost(plan: CachePlan): PlanCost {
  const layout = pageLayout(plan);
  const denseBytesPerToken = plan.layers * plan.kvHeads * plan.headDim * 4;
  const kept = plan.kept.flat().reduce((sum, channels) => sum + channels.length, 0);
  return {
    denseBytesPerToken,
    archiveBytesPerToken: layout.pageBytes / pageSlots,
    pageBytes: layout.pageBytes,
    layerPageBytes: layout.layers.map((layer) => layer.bytes),
    zoneBytes: denseBytesPerToken * (plan.sink + plan.recent + pageSlots),
    keptFraction: kept / (plan.layers * plan.kvHeads * plan.headDim),
  };
}

/** Bytes of cache of a sequence of `tokens` tokens with nothing evicted, page tables aside. */
export function cacheBytes(plan: CachePlan, tokens: number): number {
  const cost = planCost(plan);
  return cost.zoneBytes + cost.pageBytes * archivePages(tokens, plan.sink, plan.recent);
}

/**
 * Archive pages that fit into `bytes` bytes beside the sequence's zones.
 *
 * @returns undefined if the zones alone do not fit; Infinity if pages take no bytes
 */
export function pagesForBudget(plan: CachePlan, bytes: number): number | undefined {
  const { pageBytes, zoneBytes } = planCost(plan);
  if (bytes < zoneBytes) return undefined;
  return pageBytes === 0 ? Infinity : Math.floor((bytes - zoneBytes) / pageBytes);
}

/**
 * Longest context of one sequence within `bytes` bytes of cache, in tokens, at most
 * `contextTokensMax` (the model's) and the plan's own maximum; 0 if the zones do not fit.
 */
export function contextForBudget(
  plan: CachePlan,
  bytes: number,
  contextTokensMax: number = planLimits.contextTokensMax,
): number {
  const pages = pagesForBudget(plan, bytes);
  if (pages === undefined) return 0;
  const tokens = plan.sink + plan.recent + (pageSlots - 1) + pageSlots * pages;
  return Math.min(tokens, plan.context.maxTokens, contextTokensMax);
}
