/** The packing of pages, against the bytes of the scalar packer and of docs/page-format.md. */
import { describe, expect, it } from "vitest";
import { SeededRandom } from "../../../test/oracle/random.js";
import { pageLayout } from "../page/layout.js";
import { planBlock } from "../plan/binary.js";
import { identityPlan, pageSlots, pageStorages, type CachePlan } from "../plan/plan.js";
import { packedPage, randomLog, type LayerLog } from "./attention-log.js";
import { firstDifference } from "./expectations.js";
import type { KernelModule } from "./kernel-module.js";
import { storagePairs, storagePlan } from "./page-plans.js";

/** Rows of a head before the next head's: the page's rows wrap around in it. */
const stride = pageSlots + 5;
const firstRow = 9;

/** A log of exactly one page behind no sink. */
function onePage(kvHeads: number, headDim: number, seed: number): LayerLog {
  return randomLog({ heads: kvHeads, kvHeads, headDim, tokens: pageSlots }, seed);
}

/** K or V of a page as a ring that wraps; what is not the page's is NaN. */
function ring(log: LayerLog, from: Uint16Array): Uint16Array {
  const { kvHeads, headDim } = log;
  const out = new Uint16Array(kvHeads * stride * headDim).fill(0xffff);
  for (let head = 0; head < kvHeads; head++) {
    for (let slot = 0; slot < pageSlots; slot++) {
      const begin = (head * pageSlots + slot) * headDim;
      const to = (head * stride + ((firstRow + slot) % stride)) * headDim;
      out.set(from.subarray(begin, begin + headDim), to);
    }
  }
  return out;
}

/** The bytes that the module's kernel writes, into memory that is full of 0xff. */
function flushed(kernels: KernelModule, log: LayerLog, plan: CachePlan): Uint8Array {
  const bytes = pageLayout(plan).pageBytes;
  const page = kernels.output(bytes);
  kernels.call.lek_page_flush(
    kernels.input(planBlock(plan)),
    0,
    kernels.input(ring(log, log.k)),
    kernels.input(ring(log, log.v)),
    stride,
    firstRow,
    page,
  );
  return kernels.bytes(page, bytes);
}

/** Sets all of K and V of one value of every 7, every 3, or every one, to special f16 numbers. */
function withSpecials(log: LayerLog, seed: number): LayerLog {
  const random = new SeededRandom(seed);
  // Zeros of both signs, subnormals, the least normal, the greatest, one and its neighbours.
  const bits = [
    0x0000, 0x8000, 0x0001, 0x8001, 0x03ff, 0x0400, 0x7bff, 0xfbff, 0x3c00, 0x3c01, 0x3bff,
  ];
  const every = [1, 3, 7][seed % 3] ?? 1;
  const mix = (values: Uint16Array): Uint16Array =>
    values.map((value, i) => (i % every === 0 ? (bits[random.below(bits.length)] ?? 0) : value));
  return { ...log, k: mix(log.k), v: mix(log.v) };
}

/** Runs the suite on a module. */
export function runPageFlushSuite(open: () => Promise<KernelModule>): void {
  describe("page_flush", () => {
    it.each([2, 6, 8, 20, 64, 80, 256])(
      "of everything in f16 with heads of %i has the format's bytes",
      async (headDim) => {
        const kernels = await open();
        kernels.reset();
        const log = onePage(3, headDim, headDim);
        const plan = identityPlan({ layers: 1, kvHeads: 3, headDim }, { sink: 0 });
        expect(firstDifference(flushed(kernels, log, plan), packedPage(log, plan, 0))).toBe(-1);
        expect(kernels.brokenGuards()).toEqual([]);
      },
    );

    it.each(storagePairs)("with K in $k and V in $v has the format's bytes", async (storage) => {
      const kernels = await open();
      for (const headDim of [8, 16, 40, 48, 64, 80, 96, 128]) {
        for (const selection of [undefined, { pagesPerStep: 2, pagesFloor: 3 }]) {
          kernels.reset();
          const log = onePage(5, headDim, headDim + 1);
          const plan = { ...storagePlan(log, storage, headDim), sink: 0, pageSelection: selection };
          const actual = flushed(kernels, log, plan);
          expect(firstDifference(actual, packedPage(log, plan, 0)), `heads of ${headDim}`).toBe(-1);
          expect(kernels.brokenGuards()).toEqual([]);
        }
      }
    });

    it.each(pageStorages)(
      "in %s rounds as the format says, whatever the values",
      async (storage) => {
        const kernels = await open();
        for (let seed = 0; seed < 24; seed++) {
          kernels.reset();
          const random = new SeededRandom(seed);
          const base = onePage(2, 32, seed);
          // Groups whose values are equal, far from zero, close together, or of mixed sizes.
          const shape = (values: Uint16Array): Uint16Array =>
            values.map((value) =>
              seed % 4 === 1 ? 0x4400 + random.below(3) : seed % 4 === 2 ? value & 0xbfff : value,
            );
          const log = withSpecials({ ...base, k: shape(base.k), v: shape(base.v) }, seed);
          const plan = {
            ...storagePlan(log, { k: storage, v: storage }, seed),
            sink: 0,
            pageSelection: { pagesPerStep: 1, pagesFloor: 1 },
          };
          const actual = flushed(kernels, log, plan);
          expect(firstDifference(actual, packedPage(log, plan, 0)), `seed ${seed}`).toBe(-1);
        }
      },
    );

    it("writes nothing for heads that keep nothing", async () => {
      const kernels = await open();
      kernels.reset();
      const log = onePage(2, 16, 3);
      const plan = {
        ...identityPlan({ layers: 1, kvHeads: 2, headDim: 16 }, { sink: 0 }),
        kept: [[[], []]],
      };
      expect(pageLayout(plan).pageBytes).toBe(0);
      expect(flushed(kernels, log, plan)).toEqual(new Uint8Array(0));
      expect(kernels.brokenGuards()).toEqual([]);
    });
  });
}
