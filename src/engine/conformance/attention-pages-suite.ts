/** Attention over archive pages of every plan, against the contract's bounds. */
import { describe, expect, it } from "vitest";
import { SeededRandom } from "../../../test/oracle/random.js";
import { pageLayout } from "../page/layout.js";
import { pageSlots, type CachePlan } from "../plan/plan.js";
import { AttentionCase } from "./attention-case.js";
import { expectedAttention, shareOfBound } from "./attention-expected.js";
import { randomLog, zonedTask, type LayerLog, type TaskSpec } from "./attention-log.js";
import { firstDifference, fromBits } from "./expectations.js";
import type { KernelModule } from "./kernel-module.js";
import {
  legalWidths,
  plainPlan,
  planSink,
  storagePairs,
  storagePlan,
  widthPlan,
} from "./page-plans.js";

/** Query rows that cross the borders of whatever a kernel takes at a time. */
const promptRows = 21;

/** A log with `pages` pages and `recent` rows behind them. */
function pagedLog(
  shape: Pick<LayerLog, "heads" | "kvHeads" | "headDim">,
  pages: number,
  recent: number,
  seed: number,
): LayerLog {
  return randomLog({ ...shape, tokens: planSink + pages * pageSlots + recent }, seed);
}

/** The same plan with a choice of pages. */
function selecting(plan: CachePlan, pagesPerStep: number, pagesFloor: number): CachePlan {
  return { ...plan, pageSelection: { pagesPerStep, pagesFloor } };
}

/** Attends for a task, and holds it against the bounds and against its rows one by one. */
function checkTask(kernels: KernelModule, log: LayerLog, plan: CachePlan, task: TaskSpec): void {
  const at = new AttentionCase(kernels, log, plan);
  const [together = new Uint32Array(0)] = at.attend([task]);
  const share = shareOfBound(fromBits(together), expectedAttention(log, plan, task));
  expect(share, `${task.rows} rows, ${task.pages} pages`).toBeLessThanOrEqual(1);
  const width = log.heads * log.headDim;
  for (let row = 0; row < task.rows; row += 4) {
    const position = task.firstPosition + row;
    const spans = task.spans.flatMap(({ begin, end }) =>
      begin <= position ? [{ begin, end: Math.min(end, position + 1) }] : [],
    );
    const [alone] = at.attend([{ ...task, firstPosition: position, rows: 1, spans }]);
    const bits = together.subarray(row * width, (row + 1) * width);
    expect(firstDifference(bits, alone ?? []), `row ${row} alone`).toBe(-1);
  }
  expect(kernels.brokenGuards()).toEqual([]);
}

/** Runs the suite on a module. */
export function runAttentionPagesSuite(open: () => Promise<KernelModule>): void {
  describe("attention over pages", () => {
    it.each(storagePairs)("with K in $k and V in $v stays within its bound", async (storage) => {
      const kernels = await open();
      for (const headDim of [8, 40, 64, 80, 96]) {
        const log = pagedLog({ heads: 8, kvHeads: 4, headDim }, 3, 40, headDim);
        const plan = storagePlan(log, storage, headDim);
        for (const rows of [1, promptRows]) {
          kernels.reset();
          checkTask(kernels, log, plan, zonedTask(log, plan, 3, rows));
        }
      }
    });

    it.each([2, 6, 20, 22])("of heads of %i keeps all channels as int8 codes", async (headDim) => {
      const kernels = await open();
      kernels.reset();
      const log = pagedLog({ heads: 3, kvHeads: 1, headDim }, 2, 35, headDim);
      const plan = widthPlan(log, { k: "int8", v: "int8" }, [headDim], 1);
      checkTask(kernels, log, plan, zonedTask(log, plan, 2, 6));
    });

    it.each([
      { headDim: 64, storage: { k: "int4", v: "int4" } },
      { headDim: 96, storage: { k: "int2", v: "int4" } },
      { headDim: 80, storage: { k: "int8", v: "int2" } },
      { headDim: 64, storage: { k: "f16", v: "int8" } },
      { headDim: 256, storage: { k: "int4", v: "int2" } },
    ] as const)("of heads of $headDim takes every width with $storage", async (shape) => {
      const { headDim, storage } = shape;
      const kernels = await open();
      // Of heads of 256, those on both sides of a run of 32, and the widest.
      const widths = legalWidths(headDim).filter((w) => w <= 112 || w >= 240);
      const log = pagedLog({ heads: widths.length, kvHeads: widths.length, headDim }, 2, 33, 5);
      const plan = widthPlan(log, storage, widths, headDim);
      kernels.reset();
      checkTask(kernels, log, plan, zonedTask(log, plan, 2, 5));
    });

    it.each([1, 2, 3, 4, 5, 8])("takes %i query heads to a KV head", async (group) => {
      const kernels = await open();
      for (const storage of [
        { k: "int4", v: "int4" },
        { k: "f16", v: "f16" },
      ] as const) {
        const log = pagedLog({ heads: 2 * group, kvHeads: 2, headDim: 64 }, 2, 40, group);
        const plan = widthPlan(log, storage, [16, 48], group);
        for (const rows of [1, 3]) {
          kernels.reset();
          checkTask(kernels, log, plan, zonedTask(log, plan, 2, rows));
        }
      }
    });

    it("keeps tasks of one call apart, whatever their zones", async () => {
      const kernels = await open();
      kernels.reset();
      const log = pagedLog({ heads: 6, kvHeads: 3, headDim: 48 }, 6, 50, 17);
      const plan = storagePlan(log, { k: "int4", v: "int8" }, 3);
      const at = new AttentionCase(kernels, log, plan);
      const tasks = [0, 6, 1, 4].map((pages, i) => zonedTask(log, plan, pages, 1 + 13 * (i % 3)));
      expect(at.attend(tasks)).toEqual(tasks.map((task) => at.attend([task])[0]));
      expect(kernels.brokenGuards()).toEqual([]);
    });

    it.each(storagePairs)(
      "with counts, K in $k and V in $v, skips what is evicted",
      async (storage) => {
        const kernels = await open();
        kernels.reset();
        const log = pagedLog({ heads: 4, kvHeads: 2, headDim: 48 }, 4, 40, 23);
        const plan = { ...widthPlan(log, storage, [32, 48], 2), evicting: true };
        checkTask(kernels, log, plan, zonedTask(log, plan, 4, 9));
      },
    );

    it("stays within its bound for queries and values of any size", async () => {
      const kernels = await open();
      for (const size of [1e-30, 1e-6, 3e2, 7e4]) {
        const base = pagedLog({ heads: 4, kvHeads: 2, headDim: 64 }, 3, 40, 29);
        const log = { ...base, q: base.q.map((x) => x * size) };
        for (const storage of [
          { k: "int8", v: "int8" },
          { k: "f16", v: "f16" },
        ] as const) {
          kernels.reset();
          const plan = widthPlan(log, storage, [16, 64], 4);
          checkTask(kernels, log, plan, zonedTask(log, plan, 3, 6));
        }
      }
    });

    it("stays in its memory whatever the bytes of a page are", async () => {
      const kernels = await open();
      for (const [i, storage] of storagePairs.entries()) {
        kernels.reset();
        const random = new SeededRandom(i);
        const log = pagedLog({ heads: 4, kvHeads: 2, headDim: 40 }, 3, 40, i);
        const plan = widthPlan(log, storage, [16, 40], i);
        const bytes = pageLayout(plan).pageBytes;
        const page = (): Uint8Array => Uint8Array.from({ length: bytes }, () => random.below(256));
        const at = new AttentionCase(kernels, log, plan, page);
        const task = zonedTask(log, plan, 3, 7);
        expect(at.attend([task])[0]).toHaveLength(7 * log.heads * log.headDim);
        expect(kernels.brokenGuards()).toEqual([]);
      }
    });
  });

  describe("attention that chooses its pages", () => {
    const shape = { heads: 4, kvHeads: 2, headDim: 64 };

    it.each(storagePairs)("with K in $k and V in $v reads the best bounds", async (storage) => {
      const kernels = await open();
      const log = pagedLog(shape, 9, 40, 31);
      for (const perStep of [1, 2, 5, 9]) {
        kernels.reset();
        const plan = selecting(widthPlan(log, storage, [32, 64], 6), perStep, perStep);
        checkTask(kernels, log, plan, zonedTask(log, plan, 9, 5, true));
      }
    });

    it("reads everything up to the floor, and for rows that do not choose", async () => {
      const kernels = await open();
      kernels.reset();
      const log = pagedLog(shape, 6, 40, 37);
      for (const storage of storagePairs) {
        const plain = widthPlan(log, storage, [16, 64], 7);
        const [all = new Uint32Array(0)] = new AttentionCase(kernels, log, plain).attend([
          zonedTask(log, plain, 6, 3),
        ]);
        const at = new AttentionCase(kernels, log, selecting(plain, 2, 6));
        const none = new AttentionCase(kernels, log, selecting(plain, 2, 5));
        expect(firstDifference(at.attend([zonedTask(log, plain, 6, 3, true)])[0] ?? [], all)).toBe(
          -1,
        );
        expect(firstDifference(none.attend([zonedTask(log, plain, 6, 3)])[0] ?? [], all)).toBe(-1);
        const [fewer] = none.attend([zonedTask(log, plain, 6, 3, true)]);
        expect(firstDifference(fewer ?? [], all)).not.toBe(-1);
      }
    });

    it.each(["f16", "int8", "int4", "int2"] as const)(
      "with K in %s prefers the older of equal pages",
      async (storage) => {
        const kernels = await open();
        kernels.reset();
        const base = pagedLog(shape, 7, 40, 41);
        // Pages 1 to 4 have the same keys, and different values.
        const k = base.k.slice();
        for (let head = 0; head < shape.kvHeads; head++) {
          const page = (index: number): number =>
            (head * base.tokens + planSink + index * pageSlots) * shape.headDim;
          const from = k.slice(page(1), page(2));
          for (const index of [2, 3, 4]) k.set(from, page(index));
        }
        const log = { ...base, k };
        const plan = selecting(widthPlan(log, { k: storage, v: "f16" }, [64, 48], 8), 3, 3);
        checkTask(kernels, log, plan, zonedTask(log, plan, 7, 6, true));
      },
    );

    it("gives the bits of full rows where an identity plan's pages are all read", async () => {
      const kernels = await open();
      kernels.reset();
      const log = pagedLog(shape, 4, 40, 43);
      const plan = selecting(plainPlan(log), 4, 4);
      const at = new AttentionCase(kernels, log, plan);
      const [paged] = at.attend([zonedTask(log, plan, 4, 3, true)]);
      const [full] = at.attend([zonedTask(log, plan, 0, 3, true)]);
      expect(firstDifference(paged ?? [], full ?? [])).toBe(-1);
    });
  });

  it("agrees with the contract in random cases", async () => {
    const kernels = await open();
    for (let seed = 0; seed < 48; seed++) {
      kernels.reset();
      const random = new SeededRandom(seed);
      const pick = <T>(values: readonly T[], fallback: T): T =>
        values[random.below(values.length)] ?? fallback;
      const headDim = pick([8, 16, 24, 48, 64, 72, 96, 128], 64);
      const kvHeads = 1 + random.below(4);
      const heads = kvHeads * (1 + random.below(4));
      const pages = random.below(8);
      const log = pagedLog({ heads, kvHeads, headDim }, pages, 33 + random.below(40), seed);
      const legal = legalWidths(headDim);
      const widths = Array.from({ length: kvHeads }, () => pick(legal, 0));
      const storage = pick(storagePairs, { k: "f16", v: "f16" } as const);
      const pruned = widthPlan(log, storage, widths, seed);
      const perStep = 1 + random.below(4);
      const selects = random.below(3) === 0;
      const plan = selects ? selecting(pruned, perStep, perStep + random.below(3)) : pruned;
      checkTask(kernels, log, plan, zonedTask(log, plan, pages, 1 + random.below(33), selects));
    }
  });
}
