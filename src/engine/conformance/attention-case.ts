/** A made-up cache of one layer of one sequence in a module's memory, and attention over it. */
import { planBlock } from "../plan/binary.js";
import type { CachePlan } from "../plan/plan.js";
import { packedPage, type LayerLog, type TaskSpec } from "./attention-log.js";
import type { KernelModule } from "./kernel-module.js";

/** sizeof(AttentionTask) in WebAssembly; wasm/src/kernel_exports.cpp asserts it. */
const taskBytes = 116;
const spanBytes = 20;
const spansMax = 4;

/** A log in a module's memory under a plan of one layer: plan, pages, spans. */
export class AttentionCase {
  readonly #planAt: number;
  readonly #pages: number[] = [];

  constructor(
    private readonly kernels: KernelModule,
    private readonly log: LayerLog,
    private readonly plan: CachePlan,
    /** Bytes of page `index`; those of the log where absent. */
    private readonly pageBytes = (index: number): Uint8Array => packedPage(log, plan, index),
  ) {
    this.#planAt = kernels.input(planBlock(plan));
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
    kernels.call.lek_attention(this.#planAt, 0, heads, at, tasks.length, scratch);
    return tasks.map((task, i) => kernels.floatBits(outs[i] ?? 0, task.rows * heads * headDim));
  }

  /** Where page `index` of the log lies. */
  #page(index: number): number {
    return (this.#pages[index] ??= this.kernels.input(this.pageBytes(index)));
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
    u32(8, kernels.input(Uint32Array.from({ length: task.pages }, (_, i) => this.#page(i))));
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
    u32(112, task.selects === true ? 1 : 0);
    return out;
  }
}
