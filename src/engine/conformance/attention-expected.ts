/** Attention over the zones in f64, and how far a backend may be from it: kernels.h. */
import { f16ToNumber } from "../page/half.js";
import { pageLayout } from "../page/layout.js";
import { channelBounds, unpackHead } from "../page/page.js";
import { pageSlots, storageBits, storageLevels, type CachePlan } from "../plan/plan.js";
import { packedPage, slotsOf, type LayerLog, type TaskSpec } from "./attention-log.js";
import { widen } from "./expectations.js";

/** Unit of rounding of f32. */
const epsilon = 2 ** -24;

/** What attention should give, and by how much a backend may differ; (rows, heads, headDim). */
export interface Expected {
  readonly values: Float64Array;
  readonly errorMax: Float64Array;
}

/** A slot that a KV head keeps. */
interface Slot {
  readonly position: number;
  readonly k: Float64Array;
  readonly v: Float64Array;
  /** Bound of |k| as it is computed with: |min| + scale * levels for codes. */
  readonly kSize: Float64Array;
  /** The same of |v|, over all channels. */
  readonly vSize: number;
}

/** A page that a KV head keeps. */
interface KeptPage {
  readonly slots: readonly Slot[];
  /** Scales of kept channels; empty for f16. */
  readonly kScale: Float64Array;
  /** The largest scale of V; 0 for f16. */
  readonly vScale: number;
  /** Bounds of kept channels, where the plan has them. */
  readonly lo: Float32Array;
  readonly hi: Float32Array;
}

/** What attention of one KV head reads. */
interface HeadCache {
  /** Sink and recent, in order. */
  readonly full: readonly Slot[];
  readonly pages: readonly KeptPage[];
  readonly channels: readonly number[];
}

function fullSlot(log: LayerLog, kvHead: number, position: number): Slot {
  const begin = (kvHead * log.tokens + position) * log.headDim;
  const k = widen(log.k.subarray(begin, begin + log.headDim));
  const v = widen(log.v.subarray(begin, begin + log.headDim));
  return { position, k, v, kSize: k.map(Math.abs), vSize: largest(v.map(Math.abs)) };
}

function largest(values: Iterable<number>): number {
  let max = 0;
  for (const value of values) if (value > max) max = value;
  return max;
}

function keptPage(log: LayerLog, plan: CachePlan, kvHead: number, index: number): KeptPage {
  const layout = pageLayout(plan);
  const page = packedPage(log, plan, index);
  const at = layout.layers[0]?.heads[kvHead];
  if (at === undefined) throw new RangeError(`no KV head ${kvHead}`);
  const view = new DataView(page.buffer, page.byteOffset, page.byteLength);
  const half = (offset: number): number => f16ToNumber(view.getUint16(offset, true));
  const { k, v } = unpackHead(plan, layout, page, 0, kvHead);
  const bounds = channelBounds(plan, layout, page, 0, kvHead);
  const codedK = plan.storage.k !== "f16";
  const codedV = plan.storage.v !== "f16";
  const kScale = Float64Array.from({ length: codedK ? at.width : 0 }, (_, c) =>
    half(at.kScale + 2 * c),
  );
  const levelsK = storageLevels(plan.storage.k);
  const levelsV = storageLevels(plan.storage.v);
  const kReach = kScale.map((scale, c) => Math.abs(half(at.kMin + 2 * c)) + scale * levelsK);
  const groups = codedV ? Array.from({ length: layout.vGroups }, (_, g) => g) : [];
  const first = plan.sink + index * pageSlots;
  const slots = Array.from({ length: slotsOf(plan, index) }, (_, slot): Slot => {
    const keys = Float64Array.from(k.subarray(slot * at.width, (slot + 1) * at.width));
    const values = Float64Array.from(v.subarray(slot * log.headDim, (slot + 1) * log.headDim));
    const reach = groups.map((g) => {
      const shared = (g * pageSlots + slot) * 2;
      return Math.abs(half(at.vMin + shared)) + half(at.vScale + shared) * levelsV;
    });
    return {
      position: first + slot,
      k: keys,
      v: values,
      kSize: codedK ? kReach : keys.map(Math.abs),
      vSize: largest(codedV ? reach : values.map(Math.abs)),
    };
  });
  const scales = groups.flatMap((g) =>
    slots.map((_, slot) => half(at.vScale + (g * pageSlots + slot) * 2)),
  );
  const none = new Float32Array(0);
  return { slots, kScale, vScale: largest(scales), lo: bounds?.lo ?? none, hi: bounds?.hi ?? none };
}

function headCache(log: LayerLog, plan: CachePlan, kvHead: number, task: TaskSpec): HeadCache {
  const channels = plan.kept[0]?.[kvHead] ?? [];
  const kept = channels.length === 0 ? 0 : task.pages;
  const full = task.spans.flatMap(({ begin, end }) =>
    Array.from({ length: end - begin }, (_, i) => fullSlot(log, kvHead, begin + i)),
  );
  return {
    full,
    pages: Array.from({ length: kept }, (_, index) => keptPage(log, plan, kvHead, index)),
    channels,
  };
}

/** Which pages a row reads: all, or the newest and those of the best bounds. */
function chosenPages(
  plan: CachePlan,
  cache: HeadCache,
  queries: readonly Float64Array[],
  task: TaskSpec,
): readonly KeptPage[] {
  const selection = plan.pageSelection;
  const all = cache.pages;
  if (selection === undefined || task.selects !== true) return all;
  if (task.pages <= selection.pagesFloor) return all;
  const scoreOf = ({ lo, hi }: KeptPage): number =>
    Math.max(
      ...queries.map((q) =>
        cache.channels.reduce((sum, channel, i) => {
          const x = q[channel] ?? 0;
          return sum + Math.max(x * (lo[i] ?? NaN), x * (hi[i] ?? NaN));
        }, 0),
      ),
    );
  const best = all
    .slice(0, -1)
    .map((page, index) => ({ index, score: scoreOf(page) }))
    .sort((a, b) => b.score - a.score || a.index - b.index)
    .slice(0, selection.pagesPerStep - 1)
    .map(({ index }) => index);
  return all.filter((_, index) => index === all.length - 1 || best.includes(index));
}

/** The largest change of a score that rounding the folded query to fixed point makes, unscaled. */
function foldedError(
  pages: readonly KeptPage[],
  channels: readonly number[],
  q: Float64Array,
): number {
  let worst = 0;
  for (const { kScale } of pages) {
    let sum = 0;
    for (let begin = 0; begin < kScale.length; begin += 32) {
      let peak = 0;
      for (let i = begin; i < Math.min(begin + 32, kScale.length); i++) {
        peak = Math.max(peak, (kScale[i] ?? 0) * Math.abs(q[channels[i] ?? 0] ?? 0));
      }
      sum += peak;
    }
    if (sum > worst) worst = sum;
  }
  return worst;
}

/** f of kernels.h: what rounding `run` weights of the greatest size may do, in scales. */
function fixedStep(storage: CachePlan["storage"]["k"], run: number): number {
  return storage === "f16" ? 0 : (run * 2 ** (storageBits(storage) - 1)) / 65000;
}

/** Output of one row and query head over the slots that it reads, and its bound. */
function attendSlots(
  plan: CachePlan,
  cache: HeadCache,
  pages: readonly KeptPage[],
  full: readonly Slot[],
  q: Float64Array,
): { out: Float64Array; errorMax: number } {
  const all = Array.from(q.keys());
  const root = Math.sqrt(q.length);
  const parts = [
    { slots: full, channels: all },
    { slots: pages.flatMap(({ slots }) => slots), channels: cache.channels },
  ];
  const scored: { slot: Slot; score: number }[] = [];
  let max = -Infinity;
  let magnitude = 0;
  let vSize = 0;
  for (const { slots, channels } of parts) {
    for (const slot of slots) {
      let sum = 0;
      let size = 0;
      for (let i = 0; i < channels.length; i++) {
        const x = q[channels[i] ?? 0] ?? 0;
        sum += x * (slot.k[i] ?? 0);
        size += Math.abs(x) * (slot.kSize[i] ?? 0);
      }
      scored.push({ slot, score: sum / root });
      max = Math.max(max, sum / root);
      magnitude = Math.max(magnitude, size);
      vSize = Math.max(vSize, slot.vSize);
    }
  }
  const out = new Float64Array(q.length);
  let total = 0;
  for (const { slot, score } of scored) {
    const weight = Math.exp(score - max);
    total += weight;
    for (let i = 0; i < out.length; i++) out[i] = (out[i] ?? 0) + weight * (slot.v[i] ?? 0);
  }
  const rounding =
    epsilon * vSize * ((4 * (q.length + 16) * magnitude) / root + 4 * scored.length + 128);
  const scoreError =
    (2 * fixedStep(plan.storage.k, 32) * foldedError(pages, cache.channels, q)) / root;
  const vScale = largest(pages.map((page) => page.vScale));
  const fixed =
    vSize * Math.expm1(scoreError) +
    fixedStep(plan.storage.v, plan.storage.v === "int8" ? 32 : 128) * vScale;
  return { out: out.map((x) => x / total), errorMax: rounding + fixed };
}

/** What was expected before: modules are held against the same cases one after the other. */
const expectations = new Map<string, Expected>();

/** What attention over `task` should give under a plan of one layer. */
export function expectedAttention(log: LayerLog, plan: CachePlan, task: TaskSpec): Expected {
  // The first and last bits tell random logs apart.
  const ends = [log.k[0], log.k.at(-1), log.v.at(-1), log.q[0], log.q.at(-1)];
  const key = JSON.stringify([log.heads, log.kvHeads, log.headDim, log.tokens, ends, plan, task]);
  const known = expectations.get(key) ?? computeExpected(log, plan, task);
  expectations.set(key, known);
  return known;
}

function computeExpected(log: LayerLog, plan: CachePlan, task: TaskSpec): Expected {
  const { heads, kvHeads, headDim } = log;
  const width = heads * headDim;
  const group = heads / kvHeads;
  const values = new Float64Array(task.rows * width);
  const errorMax = new Float64Array(task.rows * width);
  for (let kvHead = 0; kvHead < kvHeads; kvHead++) {
    const cache = headCache(log, plan, kvHead, task);
    for (let row = 0; row < task.rows; row++) {
      const position = task.firstPosition + row;
      const queries = Array.from({ length: group }, (_, i) => {
        const begin = position * width + (kvHead * group + i) * headDim;
        return Float64Array.from(log.q.subarray(begin, begin + headDim));
      });
      const pages = chosenPages(plan, cache, queries, task);
      const full = cache.full.filter((slot) => slot.position <= position);
      queries.forEach((q, i) => {
        const at = row * width + (kvHead * group + i) * headDim;
        const attended = attendSlots(plan, cache, pages, full, q);
        values.set(attended.out, at);
        errorMax.fill(attended.errorMax, at, at + headDim);
      });
    }
  }
  return { values, errorMax };
}

/** The largest |actual - expected| as a share of what is allowed; NaN if anything is not a number. */
export function shareOfBound(actual: ArrayLike<number>, expected: Expected): number {
  let worst = actual.length === expected.values.length ? 0 : NaN;
  expected.values.forEach((value, i) => {
    const share = Math.abs((actual[i] ?? NaN) - value) / (expected.errorMax[i] ?? NaN);
    if (!(share <= worst)) worst = share;
  });
  return worst;
}
