/** A made-up cache of one layer of one sequence, and attention over it in a module and in f64. */
import { SeededRandom } from "../../../test/oracle/random.js";
import { numberToF16 } from "../page/half.js";
import { pageLayout } from "../page/layout.js";
import { unpackHead } from "../page/page.js";
import { planBlock } from "../plan/binary.js";
import { pageSlots, type CachePlan } from "../plan/plan.js";
import { attendRow, widen, type HeadCache } from "./expectations.js";
import type { KernelModule } from "./kernel-module.js";

/** sizeof(AttentionTask) in WebAssembly; wasm/src/kernel_exports.cpp asserts it. */
const taskBytes = 116;
const spanBytes = 20;
const spansMax = 4;

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
}

/** A log in a module's memory: plan, pages, spans. */
export class AttentionCase {
  readonly #planAt: number;
  readonly #blockBytes: number;

  constructor(
    private readonly kernels: KernelModule,
    private readonly log: LayerLog,
    private readonly plan: CachePlan,
    private readonly layer = 0,
  ) {
    this.#planAt = kernels.input(planBlock(plan));
    this.#blockBytes = pageLayout(plan).layers[layer]?.bytes ?? 0;
  }

  /** Packs page `index` of the log with the module's own kernel, out of a ring that wraps. */
  flush(index: number): number {
    const { kvHeads, headDim, tokens } = this.log;
    const stride = pageSlots + 5;
    const first = this.plan.sink + index * pageSlots;
    const row = 9;
    const ring = (from: Uint16Array): Uint16Array => {
      const out = new Uint16Array(kvHeads * stride * headDim).fill(0xffff);
      for (let head = 0; head < kvHeads; head++) {
        for (let slot = 0; slot < pageSlots; slot++) {
          const begin = (head * tokens + first + slot) * headDim;
          const to = head * stride + ((row + slot) % stride);
          out.set(from.subarray(begin, begin + headDim), to * headDim);
        }
      }
      return out;
    };
    const page = this.kernels.zeros(this.#blockBytes);
    this.kernels.call.lek_page_flush(
      this.#planAt,
      this.layer,
      this.kernels.input(ring(this.log.k)),
      this.kernels.input(ring(this.log.v)),
      stride,
      row,
      page,
    );
    return page;
  }

  /** The bytes of page `index`: by the module's kernel, and by the scalar packer. */
  packedBothWays(index: number): { kernel: Uint8Array; scalar: Uint8Array } {
    const { kvHeads, headDim, tokens } = this.log;
    const scalar = this.kernels.zeros(this.#blockBytes);
    for (let head = 0; head < kvHeads; head++) {
      const begin = (head * tokens + this.plan.sink + index * pageSlots) * headDim;
      const rows = (from: Uint16Array): number =>
        this.kernels.input(from.slice(begin, begin + pageSlots * headDim));
      const status = this.kernels.call.lek_page_pack_ref(
        this.#planAt,
        this.layer,
        head,
        rows(this.log.k),
        rows(this.log.v),
        headDim,
        scalar,
      );
      if (status !== 0) throw new RangeError(`page_pack_ref gave status ${status}`);
    }
    return {
      kernel: this.kernels.bytes(this.flush(index), this.#blockBytes),
      scalar: this.kernels.bytes(scalar, this.#blockBytes),
    };
  }

  /** Runs tasks in one call; per task the output (rows, heads, headDim) as f32 bits. */
  attend(tasks: readonly TaskSpec[]): Uint32Array[] {
    const { kernels, log } = this;
    const { heads, headDim } = log;
    const bytes = new DataView(new ArrayBuffer(taskBytes * tasks.length));
    const outs = tasks.map((task, i) => this.#writeTask(bytes, i * taskBytes, task));
    const rowsMax = Math.max(...tasks.map((task) => task.rows));
    const pagesMax = Math.max(...tasks.map((task) => task.pages));
    const scratch = kernels.output(
      kernels.call.lek_attention_scratch_bytes(rowsMax, heads, headDim, pagesMax),
    );
    const at = kernels.input(new Uint8Array(bytes.buffer));
    kernels.call.lek_attention(this.#planAt, this.layer, heads, at, tasks.length, scratch);
    return tasks.map((task, i) => kernels.floatBits(outs[i] ?? 0, task.rows * heads * headDim));
  }

  /** What attend() should give for one task, in f64. */
  expected(task: TaskSpec): Float64Array {
    const { heads, kvHeads, headDim, q } = this.log;
    const width = heads * headDim;
    const out = new Float64Array(task.rows * width);
    for (let head = 0; head < heads; head++) {
      const cache = this.#headCache(Math.floor(head / (heads / kvHeads)), task);
      for (let row = 0; row < task.rows; row++) {
        const position = task.firstPosition + row;
        const begin = position * width + head * headDim;
        // Rows that pages do not keep (heads of width 0) are missing from the cache.
        const kept = cache.positions.filter((p) => p <= position).length;
        const query = Float64Array.from(q.subarray(begin, begin + headDim));
        out.set(attendRow(query, cache, kept), row * width + head * headDim);
      }
    }
    return out;
  }

  #writeTask(view: DataView, at: number, task: TaskSpec): number {
    const { kernels, log } = this;
    const { heads, kvHeads, headDim } = log;
    const width = heads * headDim;
    const u32 = (offset: number, value: number): void => view.setUint32(at + offset, value, true);
    const first = task.firstPosition * width;
    const out = kernels.output(task.rows * width * 4);
    u32(0, kernels.input(log.q.slice(first, first + task.rows * width)));
    u32(4, out);
    const pages = Uint32Array.from({ length: task.pages }, (_, i) => this.flush(i));
    u32(8, kernels.input(pages));
    task.spans.slice(0, spansMax).forEach(({ begin, end }, i) => {
      // Two rows of room between heads, which nobody may read: they hold NaNs.
      const stride = end - begin + 2;
      const spread = (from: Uint16Array): Uint16Array => {
        const rows = new Uint16Array(kvHeads * stride * headDim).fill(0xffff);
        for (let head = 0; head < kvHeads; head++) {
          const start = (head * log.tokens + begin) * headDim;
          rows.set(from.subarray(start, start + (end - begin) * headDim), head * stride * headDim);
        }
        return rows;
      };
      const span = 12 + i * spanBytes;
      u32(span, kernels.input(spread(log.k)));
      u32(span + 4, kernels.input(spread(log.v)));
      u32(span + 8, stride);
      u32(span + 12, end - begin);
      u32(span + 16, begin);
    });
    u32(92, task.pages);
    u32(96, task.spans.length);
    u32(100, task.rows);
    u32(104, task.firstPosition);
    return out;
  }

  /** One KV head's rows as a task sees them, with their positions. */
  #headCache(kvHead: number, task: TaskSpec): HeadCache & { positions: number[] } {
    const { tokens, headDim, k, v } = this.log;
    const cache = {
      k: [] as Float64Array[],
      v: [] as Float64Array[],
      channels: [] as (readonly number[])[],
      positions: [] as number[],
    };
    const all = Array.from({ length: headDim }, (_, channel) => channel);
    const addFull = (position: number): void => {
      const begin = (kvHead * tokens + position) * headDim;
      cache.k.push(widen(k.subarray(begin, begin + headDim)));
      cache.v.push(widen(v.subarray(begin, begin + headDim)));
      cache.channels.push(all);
      cache.positions.push(position);
    };
    const layout = pageLayout(this.plan);
    const kept = this.plan.kept[this.layer]?.[kvHead] ?? [];
    const addPage = (index: number): void => {
      if (kept.length === 0) return;
      const page = new Uint8Array(layout.pageBytes);
      page.set(this.packedBothWays(index).scalar, layout.layers[this.layer]?.offset ?? 0);
      const values = unpackHead(this.plan, layout, page, this.layer, kvHead);
      for (let slot = 0; slot < pageSlots; slot++) {
        const { length } = kept;
        cache.k.push(Float64Array.from(values.k.subarray(slot * length, (slot + 1) * length)));
        cache.v.push(Float64Array.from(values.v.subarray(slot * headDim, (slot + 1) * headDim)));
        cache.channels.push(kept);
        cache.positions.push(this.plan.sink + index * pageSlots + slot);
      }
    };
    const pagesEnd = this.plan.sink + task.pages * pageSlots;
    let paged = false;
    for (const { begin, end } of task.spans) {
      if (!paged && begin >= pagesEnd) {
        for (let index = 0; index < task.pages; index++) addPage(index);
        paged = true;
      }
      for (let position = begin; position < end; position++) addFull(position);
    }
    return cache;
  }
}
