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

/** A random log. */
export function randomLog(
  shape: Pick<LayerLog, "tokens" | "heads" | "kvHeads" | "headDim">,
  seed: number,
): LayerLog {
  const random = new SeededRandom(seed);
  const count = shape.kvHeads * shape.tokens * shape.headDim;
  return {
    ...shape,
    k: Uint16Array.from(random.normals(count, 1.5), numberToF16),
    v: Uint16Array.from(random.normals(count, 1), numberToF16),
    q: random.normals(shape.tokens * shape.heads * shape.headDim, 1.5),
  };
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

/** The layer block of page `index` of a log, written by the executable form of the format. */
export function packedPage(log: LayerLog, plan: CachePlan, index: number): Uint8Array {
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
