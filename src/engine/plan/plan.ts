/**
 * A cache plan: what the archive of one model's cache keeps of each token. docs/plan-format.md has
 * the fields and rules, engine/include/leanedge/plan.h the same bounds in C++.
 */

/** How archive pages store K or V; the index in this list is the number in binary plans. */
export const pageStorages = ["f16", "int8", "int4", "int2"] as const;

/** How archive pages store K or V. */
export type PageStorage = (typeof pageStorages)[number];

/** Bounds of plans; those of engine/include/leanedge. */
export const planLimits = {
  layersMax: 256,
  kvHeadsMax: 256,
  headDimMax: 256,
  sinkMax: 32768,
  recentMax: 32768,
  pagesPerStepMax: 32768,
  contextTokensMax: 1 << 20,
  /** Bytes of a page, all layers together. */
  pageBytesMax: 0x7fffffff,
  /** Characters of a plan file: twice what the largest legal plan needs without white space. */
  textMax: 16 << 20,
} as const;

/** Version of the plan format that this code reads and writes. */
export const planVersion = 1;
/** Slots of an archive page. */
export const pageSlots = 32;
/** A head's width is a multiple of this, or head_dim. */
export const widthStep = 16;
/** V channels that share a scale and a min. */
export const groupChannels = 32;
/** `sink` of a plan that does not say. */
export const defaultSink = 16;
/** `recent` of a plan that does not say. */
export const defaultRecent = 112;

/** Which archive pages a decode step reads. */
export interface PageSelection {
  /** Pages that each KV head reads in a step, 1 .. 32,768. */
  readonly pagesPerStep: number;
  /** An archive of at most this many pages is read whole; at least pagesPerStep. */
  readonly pagesFloor: number;
}

/** The shape of a model's cache. */
export interface CacheGeometry {
  /** 1 .. 256. */
  readonly layers: number;
  /** 1 .. 256. */
  readonly kvHeads: number;
  /** Even, 2 .. 256. */
  readonly headDim: number;
}

/** A cache plan that keeps every rule of docs/plan-format.md, with all defaults filled in. */
export interface CachePlan extends CacheGeometry {
  /** Unique among a model's plans. */
  readonly name: string;
  /** The model that the plan is for: `sha256:` and a fingerprint, or a rule for names. */
  readonly model: string;
  /** Where it came from, for people. */
  readonly source: string | undefined;
  /** First tokens that are never compressed, 0 .. 32,768. */
  readonly sink: number;
  /** Last tokens that are never compressed, 1 .. 32,768; the region holds up to 31 more. */
  readonly recent: number;
  /** Kept K channels [layer][kvHead][channel], strictly increasing, in half-rotation order. */
  readonly kept: readonly (readonly (readonly number[])[])[];
  /** How archive pages store K and V. */
  readonly storage: { readonly k: PageStorage; readonly v: PageStorage };
  /** Undefined: every decode step reads the whole archive. */
  readonly pageSelection: PageSelection | undefined;
  /** Context lengths that the plan is for, in tokens, both included. */
  readonly context: { readonly minTokens: number; readonly maxTokens: number };
  /** Whether pages carry a count and positions per layer and head. */
  readonly evicting: boolean;
}

/** Bits of one stored value: 16, 8, 4 or 2. */
export function storageBits(storage: PageStorage): number {
  return 16 >> pageStorages.indexOf(storage);
}

/** Largest code of a quantised value: 255, 15 or 3; 0 for f16, which has no codes. */
export function storageLevels(storage: PageStorage): number {
  return storage === "f16" ? 0 : (1 << storageBits(storage)) - 1;
}

/** Archive pages of a sequence of `tokens` tokens with nothing evicted (sequence.h). */
export function archivePages(tokens: number, sink: number, recent: number): number {
  return Math.max(0, Math.floor((tokens - sink - recent) / pageSlots));
}

/** The plan 'keep everything' of a model, in f16. */
export function identityPlan(
  geometry: CacheGeometry,
  zones: { readonly sink?: number; readonly recent?: number } = {},
): CachePlan {
  const channels = Array.from({ length: geometry.headDim }, (_, channel) => channel);
  const heads = Array.from({ length: geometry.kvHeads }, () => channels);
  return {
    name: "identity",
    model: "*",
    source: undefined,
    layers: geometry.layers,
    kvHeads: geometry.kvHeads,
    headDim: geometry.headDim,
    sink: zones.sink ?? defaultSink,
    recent: zones.recent ?? defaultRecent,
    kept: Array.from({ length: geometry.layers }, () => heads),
    storage: { k: "f16", v: "f16" },
    pageSelection: undefined,
    context: { minTokens: 0, maxTokens: planLimits.contextTokensMax },
    evicting: false,
  };
}
