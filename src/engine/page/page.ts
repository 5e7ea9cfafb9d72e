/**
 * Packs and unpacks archive pages: the executable form of docs/page-format.md section 2. Plain and
 * slow; engines have their own kernels, and must write the same bytes.
 */
import { groupChannels, pageSlots, storageBits, storageLevels } from "../plan/plan.js";
import { EngineError } from "../status.js";
import { f16ToNumber } from "./half.js";
import {
  noSection,
  vGroupChannels,
  type LayoutPlan,
  type PageHead,
  type PageLayout,
} from "./layout.js";
import { codeOf, groupOf, loadCode, storeRun, valueOf } from "./quantise.js";

/** What one head puts into a page. */
export interface HeadRows {
  /** (32, headDim) binary16 bits, K after RoPE. */
  readonly k: Uint16Array;
  /** (32, headDim) binary16 bits. */
  readonly v: Uint16Array;
  /** Positions of the slots in use, strictly increasing; for evicting plans only. */
  readonly positions?: readonly number[];
}

/** What one head's block holds, as f32 values. */
export interface HeadValues {
  /** Slots in use; rows from there on are 0. */
  readonly count: number;
  /** (32, width). */
  readonly k: Float32Array;
  /** (32, headDim). */
  readonly v: Float32Array;
  /** Positions of the slots in use; empty unless the plan is evicting. */
  readonly positions: readonly number[];
}

/** Smallest and largest value of each kept channel over a page. */
export interface ChannelBounds {
  /** (width), f32. */
  readonly lo: Float32Array;
  /** (width), f32. */
  readonly hi: Float32Array;
}

/**
 * Packs a page.
 *
 * @param rows what each head of each layer puts in; not asked for heads of width 0
 * @throws EngineError notFinite for NaN or infinity, invalidArgument for wrong positions
 */
export function packPage(
  plan: LayoutPlan,
  layout: PageLayout,
  rows: (layer: number, head: number) => HeadRows,
): Uint8Array<ArrayBuffer> {
  const page = new Uint8Array(layout.pageBytes);
  layout.layers.forEach((layer, layerIndex) => {
    const block = page.subarray(layer.offset, layer.offset + layer.bytes);
    layer.heads.forEach((head, headIndex) => {
      if (head.width === 0) return;
      const channels = plan.kept[layerIndex]?.[headIndex] ?? [];
      const where = `layer ${layerIndex}, KV head ${headIndex}`;
      packHead(plan, layout, head, channels, rows(layerIndex, headIndex), block, where);
    });
  });
  return page;
}

/** Unpacks one head of a serialised page. */
export function unpackHead(
  plan: LayoutPlan,
  layout: PageLayout,
  page: Uint8Array,
  layer: number,
  head: number,
): HeadValues {
  const { at, block } = locate(layout, page, layer, head);
  const view = viewOf(block);
  const k = new Float32Array(pageSlots * at.width);
  const v = new Float32Array(at.width === 0 ? 0 : pageSlots * plan.headDim);
  if (at.width === 0) return { count: 0, k, v, positions: [] };
  const count = at.count === noSection ? pageSlots : view.getUint32(at.count, true);
  const kBits = storageBits(plan.storage.k);
  const vBits = storageBits(plan.storage.v);
  for (let slot = 0; slot < Math.min(count, pageSlots); slot++) {
    for (let c = 0; c < at.width; c++) {
      const run = at.kValues + c * layout.kChannelBytes;
      k[slot * at.width + c] =
        plan.storage.k === "f16"
          ? f16ToNumber(view.getUint16(run + slot * 2, true))
          : valueOf(
              loadCode(block, run, slot, pageSlots, kBits),
              view.getUint16(at.kScale + c * 2, true),
              view.getUint16(at.kMin + c * 2, true),
            );
    }
    for (let channel = 0; channel < plan.headDim; channel++) {
      const group = Math.floor(channel / groupChannels);
      const index = channel % groupChannels;
      const run = at.vValues + slot * layout.vRowBytes + (group * groupChannels * vBits) / 8;
      const shared = (group * pageSlots + slot) * 2;
      v[slot * plan.headDim + channel] =
        plan.storage.v === "f16"
          ? f16ToNumber(view.getUint16(run + index * 2, true))
          : valueOf(
              loadCode(block, run, index, vGroupChannels(plan.headDim, group), vBits),
              view.getUint16(at.vScale + shared, true),
              view.getUint16(at.vMin + shared, true),
            );
    }
  }
  return { count, k, v, positions: positionsOf(view, at, count) };
}

/**
 * Bounds of each kept channel of one head over a page, for page selection; undefined if the plan
 * has f16 K and no selection, so that the page does not hold them.
 */
export function channelBounds(
  plan: LayoutPlan,
  layout: PageLayout,
  page: Uint8Array,
  layer: number,
  head: number,
): ChannelBounds | undefined {
  const { at, block } = locate(layout, page, layer, head);
  if (at.kMin === noSection) return undefined;
  const view = viewOf(block);
  const lo = new Float32Array(at.width);
  const hi = new Float32Array(at.width);
  const levels = storageLevels(plan.storage.k);
  for (let c = 0; c < at.width; c++) {
    const minBits = view.getUint16(at.kMin + c * 2, true);
    lo[c] = f16ToNumber(minBits);
    hi[c] =
      at.kMax === noSection
        ? valueOf(levels, view.getUint16(at.kScale + c * 2, true), minBits)
        : f16ToNumber(view.getUint16(at.kMax + c * 2, true));
  }
  return { lo, hi };
}

/**
 * Why a page's counts or positions are not those of an evicting plan; undefined if they are. Pages
 * of other plans have none.
 */
export function positionsProblem(layout: PageLayout, page: Uint8Array): string | undefined {
  const view = viewOf(page);
  for (const [layerIndex, layer] of layout.layers.entries()) {
    for (const [headIndex, head] of layer.heads.entries()) {
      if (head.count === noSection) continue;
      const where = `layer ${layerIndex}, KV head ${headIndex}`;
      const count = view.getUint32(layer.offset + head.count, true);
      if (count < 1 || count > pageSlots) {
        return `count of ${where} is ${count}, must be 1 .. ${pageSlots}`;
      }
      for (let slot = 1; slot < count; slot++) {
        const at = layer.offset + head.positions + slot * 4;
        if (view.getUint32(at, true) <= view.getUint32(at - 4, true)) {
          return `position of slot ${slot} of ${where} is not above the one before it`;
        }
      }
    }
  }
  return undefined;
}

function packHead(
  plan: LayoutPlan,
  layout: PageLayout,
  at: PageHead,
  channels: readonly number[],
  rows: HeadRows,
  block: Uint8Array,
  where: string,
): void {
  const view = viewOf(block);
  const count = checkRows(plan, rows, where);
  const kLevels = storageLevels(plan.storage.k);
  channels.forEach((channel, c) => {
    const values = Array.from(
      { length: count },
      (_, slot) => rows.k[slot * plan.headDim + channel] ?? 0,
    );
    const group = groupOf(values, kLevels);
    if (group === undefined) throw notFinite(`K of channel ${channel}, ${where}`);
    const run = at.kValues + c * layout.kChannelBytes;
    if (kLevels === 0) {
      values.forEach((value, slot) => {
        view.setUint16(run + slot * 2, value, true);
      });
    } else {
      const codes = new Uint8Array(pageSlots);
      values.forEach((value, slot) => (codes[slot] = codeOf(value, group)));
      storeRun(block, run, codes, storageBits(plan.storage.k));
      view.setUint16(at.kScale + c * 2, group.scaleBits, true);
    }
    if (at.kMin !== noSection) view.setUint16(at.kMin + c * 2, group.minBits, true);
    if (at.kMax !== noSection) view.setUint16(at.kMax + c * 2, group.maxBits, true);
  });

  const vLevels = storageLevels(plan.storage.v);
  const vBits = storageBits(plan.storage.v);
  for (let slot = 0; slot < count; slot++) {
    for (let g = 0; g < layout.vGroups; g++) {
      const from = slot * plan.headDim + g * groupChannels;
      const values = rows.v.subarray(from, from + vGroupChannels(plan.headDim, g));
      const group = groupOf(values, vLevels);
      if (group === undefined) throw notFinite(`V of slot ${slot}, ${where}`);
      const run = at.vValues + slot * layout.vRowBytes + (g * groupChannels * vBits) / 8;
      if (vLevels === 0) {
        values.forEach((value, index) => {
          view.setUint16(run + index * 2, value, true);
        });
      } else {
        storeRun(
          block,
          run,
          Uint8Array.from(values, (value) => codeOf(value, group)),
          vBits,
        );
        const shared = (g * pageSlots + slot) * 2;
        view.setUint16(at.vScale + shared, group.scaleBits, true);
        view.setUint16(at.vMin + shared, group.minBits, true);
      }
    }
  }
  if (rows.positions === undefined) return;
  view.setUint32(at.count, count, true);
  rows.positions.forEach((position, slot) => {
    view.setUint32(at.positions + slot * 4, position, true);
  });
}

/** Checks shapes and positions; returns the slots in use. */
function checkRows(plan: LayoutPlan, rows: HeadRows, where: string): number {
  const length = pageSlots * plan.headDim;
  if (rows.k.length !== length || rows.v.length !== length) {
    throw new EngineError(
      "invalidArgument",
      `page: K and V of ${where} have ${rows.k.length} and ${rows.v.length} values, must have ${length}`,
      rows.k.length,
      length,
    );
  }
  if ((rows.positions !== undefined) !== plan.evicting) {
    throw new EngineError(
      "invalidArgument",
      `page: positions of ${where} are given if and only if the plan is evicting`,
    );
  }
  if (rows.positions === undefined) return pageSlots;
  const count = rows.positions.length;
  if (count < 1 || count > pageSlots) {
    throw new EngineError(
      "invalidArgument",
      `page: count of ${where} is ${count}, must be 1 .. ${pageSlots}`,
      count,
      pageSlots,
    );
  }
  let previous = -1;
  for (const position of rows.positions) {
    if (position <= previous) {
      throw new EngineError(
        "invalidArgument",
        `page: position ${position} of ${where} must be above ${previous}`,
        position,
        previous,
      );
    }
    previous = position;
  }
  return count;
}

function notFinite(what: string): EngineError {
  return new EngineError("notFinite", `page: ${what} is not finite`);
}

function positionsOf(view: DataView, at: PageHead, count: number): readonly number[] {
  if (at.positions === noSection) return [];
  return Array.from({ length: Math.min(count, pageSlots) }, (_, slot) =>
    view.getUint32(at.positions + slot * 4, true),
  );
}

function locate(
  layout: PageLayout,
  page: Uint8Array,
  layer: number,
  head: number,
): { readonly at: PageHead; readonly block: Uint8Array } {
  const place = layout.layers[layer];
  const at = place?.heads[head];
  if (place === undefined || at === undefined || page.length !== layout.pageBytes) {
    throw new RangeError(
      `page of ${page.length} bytes, layer ${layer}, KV head ${head}: ` +
        `the layout has ${layout.pageBytes} bytes, ${layout.layers.length} layers, ` +
        `${place?.heads.length ?? 0} heads`,
    );
  }
  return { at, block: page.subarray(place.offset, place.offset + place.bytes) };
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
