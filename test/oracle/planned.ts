/**
 * Attention under a cache plan as docs/architecture.md defines it, in f64: which rows stand in which
 * zone when a row is computed, what an archive page gives back of them, and which pages a generated
 * row reads. Pages are packed by src/engine/page, the executable form of the page format.
 */
import { f16ToNumber, numberToF16 } from "../../src/engine/page/half.js";
import { pageLayout } from "../../src/engine/page/layout.js";
import { channelBounds, packPage, unpackHead } from "../../src/engine/page/page.js";
import { archivePages, pageSlots, type CachePlan } from "../../src/engine/plan/plan.js";
import type { Mix } from "./oracle.js";

/** A segment of a log. */
export type PlannedSegment = { kind: "prompt" | "generated"; count: number };

/** Rows of one KV head that a query meets. */
type Met = { k: ArrayLike<number>; v: ArrayLike<number>; channels: readonly number[] | undefined };

/** One page of one KV head. */
type Page = { rows: Met[]; lo: Float32Array | undefined; hi: Float32Array | undefined };

/** For each row: the length of the log when the zones that it sees stood, and whether it selects. */
function rowsOf(segments: readonly PlannedSegment[]): { zonesAt: number; selects: boolean }[] {
  const rows: { zonesAt: number; selects: boolean }[] = [];
  for (const { kind, count } of segments) {
    const start = rows.length;
    for (let i = 0; i < count; i++) {
      const generated = kind === "generated";
      rows.push({ zonesAt: generated ? start + i : start, selects: generated });
    }
  }
  return rows;
}

/** Attention of a log under a plan; `heads` query heads share the plan's KV heads. */
export function plannedMix(
  plan: CachePlan,
  heads: number,
  segments: readonly PlannedSegment[],
): Mix {
  const { kvHeads, headDim, sink, recent } = plan;
  const group = heads / kvHeads;
  const rows = rowsOf(segments);
  return (layer, q, k, v) => {
    const single: CachePlan = { ...plan, layers: 1, kept: [plan.kept[layer] ?? []] };
    const layout = pageLayout(single);
    const bitsOf = (from: readonly Float64Array[], position: number, head: number): Uint16Array =>
      Uint16Array.from(
        from[position]?.subarray(head * headDim, (head + 1) * headDim) ?? [],
        numberToF16,
      );
    const packed = new Map<number, Uint8Array>();
    const pageAt = (index: number): Uint8Array => {
      const known = packed.get(index);
      if (known !== undefined) return known;
      const page = packPage(single, layout, (_layer, head) => {
        const take = (from: readonly Float64Array[]): Uint16Array => {
          const out = new Uint16Array(pageSlots * headDim);
          for (let slot = 0; slot < pageSlots; slot++) {
            out.set(bitsOf(from, sink + index * pageSlots + slot, head), slot * headDim);
          }
          return out;
        };
        return { k: take(k), v: take(v) };
      });
      packed.set(index, page);
      return page;
    };
    const mixed = q.map(() => new Float64Array(heads * headDim));
    for (let head = 0; head < kvHeads; head++) {
      const full = k.map((_, position) => ({
        k: Float64Array.from(bitsOf(k, position, head), f16ToNumber),
        v: Float64Array.from(bitsOf(v, position, head), f16ToNumber),
        channels: undefined,
      }));
      const channels = single.kept[0]?.[head] ?? [];
      const pages = new Map<number, Page>();
      const page = (index: number): Page => {
        const known = pages.get(index);
        if (known !== undefined) return known;
        const values = unpackHead(single, layout, pageAt(index), 0, head);
        const width = channels.length;
        const bounds = channelBounds(single, layout, pageAt(index), 0, head);
        const read: Page = {
          lo: bounds?.lo,
          hi: bounds?.hi,
          rows: Array.from({ length: width === 0 ? 0 : pageSlots }, (_, slot) => ({
            k: values.k.subarray(slot * width, (slot + 1) * width),
            v: values.v.subarray(slot * headDim, (slot + 1) * headDim),
            channels,
          })),
        };
        pages.set(index, read);
        return read;
      };
      rows.forEach(({ zonesAt, selects }, position) => {
        const count = archivePages(zonesAt, sink, recent);
        const queries = Array.from({ length: group }, (_, i) => {
          const at = (head * group + i) * headDim;
          return q[position]?.subarray(at, at + headDim) ?? new Float64Array(headDim);
        });
        const selection = selects && channels.length > 0 ? plan.pageSelection : undefined;
        const all = Array.from({ length: count }, (_, index) => index);
        const chosen =
          selection === undefined || count <= selection.pagesFloor
            ? all
            : choose(all.map(page), channels, queries, selection.pagesPerStep);
        const met: Met[] = [
          ...full.slice(0, Math.min(sink, position + 1)),
          ...chosen.flatMap((index) => page(index).rows),
          ...full.slice(sink + count * pageSlots, position + 1),
        ];
        queries.forEach((query, i) => {
          mixed[position]?.set(attendOver(query, met, headDim), (head * group + i) * headDim);
        });
      });
    }
    return mixed;
  };
}

/** The newest page and the best others, in order; the older one where scores are equal. */
function choose(
  pages: readonly Page[],
  channels: readonly number[],
  queries: readonly Float64Array[],
  wanted: number,
): number[] {
  const scores = pages.map(({ lo, hi }) =>
    Math.max(
      ...queries.map((query) =>
        channels.reduce((sum, channel, j) => {
          const x = query[channel] ?? 0;
          return sum + Math.max(x * (lo?.[j] ?? NaN), x * (hi?.[j] ?? NaN));
        }, 0),
      ),
    ),
  );
  const newest = pages.length - 1;
  const others = Array.from({ length: newest }, (_, index) => index)
    .sort((a, b) => (scores[b] ?? 0) - (scores[a] ?? 0) || a - b)
    .slice(0, wanted - 1);
  return [...others, newest].sort((a, b) => a - b);
}

function attendOver(query: Float64Array, met: readonly Met[], headDim: number): Float64Array {
  const scale = 1 / Math.sqrt(headDim);
  const scores = met.map(({ k, channels }) => {
    let sum = 0;
    for (let j = 0; j < k.length; j++) {
      sum += (query[channels === undefined ? j : (channels[j] ?? 0)] ?? 0) * (k[j] ?? 0);
    }
    return scale * sum;
  });
  const max = scores.reduce((a, b) => Math.max(a, b), -Infinity);
  const out = new Float64Array(headDim);
  let total = 0;
  met.forEach(({ v }, row) => {
    const weight = Math.exp((scores[row] ?? 0) - max);
    total += weight;
    for (let i = 0; i < headDim; i++) out[i] = (out[i] ?? 0) + weight * (v[i] ?? 0);
  });
  return out.map((value) => value / total);
}
