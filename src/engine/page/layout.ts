/**
 * Where everything stands inside an archive page: docs/page-format.md section 2, and the table of
 * engine/include/leanedge/plan.h, from the plan alone.
 */
import {
  groupChannels,
  pageSlots,
  storageBits,
  type CacheGeometry,
  type CachePlan,
  type PageStorage,
} from "../plan/plan.js";

/** Offset of a section that a plan does not have. */
export const noSection = 0xffffffff;

/** Sections begin at multiples of this many bytes. */
const sectionAlign = 16;

/** The sections of one head, as byte offsets from the start of its layer block. */
export interface PageHead {
  /** K channels kept; 0: the head has no block. */
  readonly width: number;
  /** Index of the head's first channel in the concatenation of all lists. */
  readonly channels: number;
  /** The head block; for width 0 where the next head's begins. */
  readonly offset: number;
  /** Bytes of the head block, a multiple of 16. */
  readonly bytes: number;
  readonly kValues: number;
  readonly kScale: number;
  readonly kMin: number;
  readonly kMax: number;
  readonly vValues: number;
  readonly vScale: number;
  readonly vMin: number;
  readonly count: number;
  readonly positions: number;
}

/** One layer of a page. */
export interface PageLayer {
  /** Byte offset of the layer block in a serialised page. */
  readonly offset: number;
  /** Bytes of the layer block. */
  readonly bytes: number;
  readonly heads: readonly PageHead[];
}

/** The layout of a plan's pages. */
export interface PageLayout {
  readonly layers: readonly PageLayer[];
  /** Bytes of a page, all layers together. */
  readonly pageBytes: number;
  /** Bytes of K values of one channel: 64, 32, 16 or 8. */
  readonly kChannelBytes: number;
  /** Bytes of V values of one slot. */
  readonly vRowBytes: number;
  /** Groups of 32 channels in a V row; the last may be shorter. */
  readonly vGroups: number;
}

/** What of a plan the layout depends on. */
export interface LayoutPlan extends CacheGeometry {
  readonly kept: CachePlan["kept"];
  readonly storage: { readonly k: PageStorage; readonly v: PageStorage };
  readonly pageSelection: CachePlan["pageSelection"];
  readonly evicting: boolean;
}

/** Channels of V group `group`: 32, or fewer in the last one. */
export function vGroupChannels(headDim: number, group: number): number {
  return Math.min(groupChannels, headDim - group * groupChannels);
}

/** Computes the layout of a plan's pages. */
export function pageLayout(plan: LayoutPlan): PageLayout {
  let pageBytes = 0;
  let channels = 0;
  const layers = plan.kept.map((lists): PageLayer => {
    const layerOffset = pageBytes;
    let offset = 0;
    const heads = lists.map((list): PageHead => {
      const head = headLayout(plan, list.length, offset, channels);
      offset += head.bytes;
      channels += head.width;
      return head;
    });
    pageBytes += offset;
    return { offset: layerOffset, bytes: offset, heads };
  });
  return {
    layers,
    pageBytes,
    kChannelBytes: (pageSlots * storageBits(plan.storage.k)) / 8,
    vRowBytes: (plan.headDim * storageBits(plan.storage.v)) / 8,
    vGroups: Math.ceil(plan.headDim / groupChannels),
  };
}

function headLayout(plan: LayoutPlan, width: number, offset: number, channels: number): PageHead {
  const kQuantised = plan.storage.k !== "f16";
  const vQuantised = plan.storage.v !== "f16";
  const selects = plan.pageSelection !== undefined;
  const groups = Math.ceil(plan.headDim / groupChannels);
  let at = offset;
  const take = (present: boolean, bytes: number): number => {
    if (!present || width === 0) return noSection;
    const section = at;
    at += Math.ceil(bytes / sectionAlign) * sectionAlign;
    return section;
  };
  // Calls stand in the order of the sections.
  const kValues = take(true, (width * pageSlots * storageBits(plan.storage.k)) / 8);
  const kScale = take(kQuantised, width * 2);
  const kMin = take(kQuantised || selects, width * 2);
  const kMax = take(!kQuantised && selects, width * 2);
  const vValues = take(true, (pageSlots * plan.headDim * storageBits(plan.storage.v)) / 8);
  const vScale = take(vQuantised, groups * pageSlots * 2);
  const vMin = take(vQuantised, groups * pageSlots * 2);
  const count = take(plan.evicting, 4);
  const positions = take(plan.evicting, pageSlots * 4);
  return {
    width,
    channels,
    offset,
    bytes: at - offset,
    kValues,
    kScale,
    kMin,
    kMax,
    vValues,
    vScale,
    vMin,
    count,
    positions,
  };
}
