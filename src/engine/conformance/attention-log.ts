/** A made-up log of one layer of one sequence, and which rows of it attend to what. */
import { SeededRandom } from "../../../test/oracle/random.js";
import { numberToF16 } from "../page/half.js";
import { packPage, type HeadRows } from "../page/page.js";
import { pageLayout } from "../page/layout.js";
import { pageSlots, type CachePlan } from "../plan/plan.js";

/** A log of one layer: K after RoPE and V, (kvHeads, tokens, headDim) f16. */
export interface LayerLog {
  readonly tokens: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly k: Uint16Array;
  readonly v: Uint16Array;
  /** (tokens, heads, headDim) */
  readonly q: Float32Array;
}

/** Logs that were made: modules are held against the same ones, one after the other. */
const logs = new Map<string, LayerLog>();

/** A random log, which nobody may change: the same shape and seed give the same one. */
export function randomLog(
  shape: Pick<LayerLog, "tokens" | "heads" | "kvHeads" | "headDim">,
  seed: number,
): LayerLog {
  const { tokens, heads, kvHeads, headDim } = shape;
  const key = [tokens, heads, kvHeads, headDim, seed].join();
  const known = logs.get(key);
  if (known !== undefined) return known;
  const random = new SeededRandom(seed);
  const count = kvHeads * tokens * headDim;
  const log = {
    ...shape,
    k: Uint16Array.from(random.normals(count, 1.5), numberToF16),
    v: Uint16Array.from(random.normals(count, 1), numberToF16),
    q: random.normals(tokens * heads * headDim, 1.5),
  };
  logs.set(key, log);
  return log;
}

/** Rows [begin, end) of a log as one span. */
export interface SpanRange {
  readonly begin: number;
  readonly end: number;
}

/** Query rows that are attended for together. */
export interface TaskSpec {
  readonly firstPosition: number;
  readonly rows: number;
  /** Full-precision spans, in order. */
  readonly spans: readonly SpanRange[];
  /** Archive pages, from position `plan.sink` on. */
  readonly pages: number;
  /** Whether the rows choose their pages; false where absent. */
  readonly selects?: boolean;
}

/** Rows [firstPosition, tokens) of a log whose zones are as `plan` has them with `pages` pages. */
export function zonedTask(
  log: LayerLog,
  plan: CachePlan,
  pages: number,
  rows: number,
  selects = false,
): TaskSpec {
  const { tokens } = log;
  const recent = { begin: plan.sink + pages * pageSlots, end: tokens };
  return {
    firstPosition: tokens - rows,
    rows,
    spans: plan.sink > 0 ? [{ begin: 0, end: plan.sink }, recent] : [recent],
    pages,
    selects,
  };
}

/** Slots in use of page `index`: all, or under an evicting plan a number that varies. */
export function slotsOf(plan: CachePlan, index: number): number {
  return plan.evicting ? 1 + ((index * 13 + 18) % pageSlots) : pageSlots;
}

/** Pages that were packed, by log and then by plan and index: each KV head and each module reads them again. */
const pages = new WeakMap<LayerLog, Map<string, Uint8Array>>();

/** The layer block of page `index` of a log, written by the executable form of the format; nobody may change it. */
export function packedPage(log: LayerLog, plan: CachePlan, index: number): Uint8Array {
  const known = pages.get(log) ?? new Map<string, Uint8Array>();
  pages.set(log, known);
  const key = `${index} ${JSON.stringify(plan)}`;
  const page = known.get(key) ?? pack(log, plan, index);
  known.set(key, page);
  return page;
}

function pack(log: LayerLog, plan: CachePlan, index: number): Uint8Array {
  const { tokens, headDim } = log;
  const first = plan.sink + index * pageSlots;
  const rowsOf = (_layer: number, head: number): HeadRows => {
    const begin = (head * tokens + first) * headDim;
    const end = begin + pageSlots * headDim;
    const rows = { k: log.k.subarray(begin, end), v: log.v.subarray(begin, end) };
    if (!plan.evicting) return rows;
    return {
      ...rows,
      positions: Array.from({ length: slotsOf(plan, index) }, (_, i) => first + i),
    };
  };
  return packPage(plan, pageLayout(plan), rowsOf);
}
