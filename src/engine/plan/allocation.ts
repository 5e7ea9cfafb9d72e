/**
 * What an engine allocates for a sequence under a plan, to the byte. cost.ts has the bytes that a
 * plan needs; an engine rounds each block up to its alignment (engine/src/sequence_cache.cpp).
 */
import { archivePages, pageSlots, type CacheGeometry, type CachePlan } from "./plan.js";
import { planCost } from "./cost.js";

/** Alignment of the blocks of cache memory, in bytes (kHeapAlign). */
const blockAlign = 64;
/** A layer's zones are four sections, each aligned to as many bytes. */
const sectionAlign = 16;
/** Hidden states of a prompt that take more together are packed (kPrefillExactBytes). */
const exactStateBytes = 4 * 1024 * 1024;
/** Packed states: channels that share a scale, and the bytes of such a group (engine/src/hidden_rows.h). */
const stateGroup = { channels: 32, bytes: 42 } as const;

/** Bytes that an engine takes for sequences of one plan. */
export interface PlanAllocation {
  /** Of a sequence before its first page: sink and recent. */
  readonly sequenceBytes: number;
  /** Of one page, all layers together. */
  readonly pageBytes: number;
  /** Pages of a sequence at the longest context. */
  readonly pagesMax: number;
  /** Of a sequence at the longest context. */
  readonly sessionBytesMax: number;
}

function alignUp(bytes: number, align: number): number {
  return Math.ceil(bytes / align) * align;
}

/**
 * Computes what an engine takes.
 *
 * @param contextTokensMax longest log of a sequence in the engine
 */
export function planAllocation(plan: CachePlan, contextTokensMax: number): PlanAllocation {
  const sinkRows = Math.min(plan.sink, contextTokensMax);
  const recentRows = Math.min(plan.recent + pageSlots, contextTokensMax - sinkRows);
  // K and V, two bytes each.
  const rowBytes = plan.kvHeads * plan.headDim * 2 * 2;
  const layerBytes = alignUp(rowBytes * (sinkRows + recentRows) + 4 * sectionAlign, blockAlign);
  const sequenceBytes = layerBytes * plan.layers;
  const pageBytes = alignUp(Math.max(1, planCost(plan).pageBytes), blockAlign);
  const pagesMax = archivePages(contextTokensMax, plan.sink, plan.recent);
  return {
    sequenceBytes,
    pageBytes,
    pagesMax,
    sessionBytesMax: sequenceBytes + pagesMax * pageBytes,
  };
}

/** Bytes of cache of a sequence with `tokens` computed tokens; 0 for none. */
export function allocatedBytes(plan: CachePlan, tokens: number, contextTokensMax: number): number {
  if (tokens === 0) return 0;
  const { sequenceBytes, pageBytes } = planAllocation(plan, contextTokensMax);
  return sequenceBytes + archivePages(tokens, plan.sink, plan.recent) * pageBytes;
}

/** The shape of a model's cache, and of the hidden states that a prompt has between two layers. */
export interface ModelGeometry extends CacheGeometry {
  /** Channels of a hidden state. */
  readonly dim: number;
}

/** Whether pages hold the very bits of their rows: prompts then go through all layers at a time. */
function isLossless(plan: CachePlan): boolean {
  const whole = plan.kept.flat().every((channels) => channels.length === plan.headDim);
  return plan.storage.k === "f16" && plan.storage.v === "f16" && !plan.evicting && whole;
}

/**
 * Bytes that an engine takes at most beside the cache itself while it reads a prompt of `tokens` tokens behind `before`
 * others: K and V of one layer, the hidden states between two layers, and the zones as they stood before
 * (engine/src/prefill.cpp). A CPU finds room for some of the states in the pages to come. 0 under a plan that loses
 * nothing.
 *
 * @param packsStates whether states of long prompts are packed, as they are on a CPU
 */
export function readingBytesMax(
  plan: CachePlan,
  { dim }: Pick<ModelGeometry, "dim">,
  contextTokensMax: number,
  before: number,
  tokens: number,
  packsStates: boolean,
): number {
  if (isLossless(plan)) return 0;
  const exactBytes = tokens * dim * 4;
  const packedBytes = tokens * Math.ceil(dim / stateGroup.channels) * stateGroup.bytes;
  const states = packsStates && exactBytes > exactStateBytes ? packedBytes : exactBytes;
  const rows = alignUp(tokens * plan.kvHeads * plan.headDim * 2, sectionAlign);
  const block = alignUp(alignUp(states, sectionAlign) + 2 * rows, blockAlign);
  const { sequenceBytes } = planAllocation(plan, contextTokensMax);
  return block + (before > 0 ? sequenceBytes : 0);
}

/**
 * Longest context of one sequence in `bytes` bytes of cache memory, in tokens, at most
 * `contextTokensMax`; 0 if not even its zones fit.
 */
export function contextForMemory(plan: CachePlan, bytes: number, contextTokensMax: number): number {
  const { sequenceBytes, pageBytes } = planAllocation(plan, contextTokensMax);
  if (bytes < sequenceBytes) return 0;
  const pages = Math.floor((bytes - sequenceBytes) / pageBytes);
  return Math.min(plan.sink + plan.recent + (pageSlots - 1) + pageSlots * pages, contextTokensMax);
}
