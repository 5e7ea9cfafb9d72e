/** Attention over full rows and pages that keep everything, against the contract. */
import { describe, expect, it } from "vitest";
import { AttentionCase } from "./attention-case.js";
import { expectedAttention, shareOfBound } from "./attention-expected.js";
import { randomLog, type TaskSpec } from "./attention-log.js";
import { firstDifference, fromBits } from "./expectations.js";
import type { KernelModule } from "./kernel-module.js";
import { plainPlan, planSink as sink } from "./page-plans.js";

const shapes = [
  { heads: 1, kvHeads: 1, headDim: 2 },
  { heads: 4, kvHeads: 2, headDim: 6 },
  { heads: 8, kvHeads: 4, headDim: 8 },
  { heads: 3, kvHeads: 3, headDim: 20 },
  { heads: 9, kvHeads: 3, headDim: 64 },
  { heads: 2, kvHeads: 1, headDim: 80 },
  { heads: 4, kvHeads: 1, headDim: 256 },
] as const;

/** Lengths of logs around blocks of 32 behind a sink of 5. */
const lengths = [1, 4, 5, 6, 31, 36, 37, 38, 69, 70, 131] as const;

/** One generated row at the end of a log that lies in full spans, cut at `cuts`. */
function lastRow(tokens: number, cuts: readonly number[] = []): TaskSpec {
  const borders = [0, ...cuts.filter((cut) => cut < tokens), tokens];
  return {
    firstPosition: tokens - 1,
    rows: 1,
    spans: borders.slice(1).map((end, i) => ({ begin: borders[i] ?? 0, end })),
    pages: 0,
  };
}

/** Runs the suite on a module. */
export function runAttentionSuite(open: () => Promise<KernelModule>): void {
  describe.each(shapes)("attention of $heads heads on $kvHeads of $headDim", (shape) => {
    it("is right for one row behind logs of any length, in one span or several", async () => {
      const kernels = await open();
      for (const tokens of lengths) {
        kernels.reset();
        const log = randomLog({ ...shape, tokens }, tokens);
        const at = new AttentionCase(kernels, log, plainPlan(log));
        const whole = lastRow(tokens);
        const [first = new Uint32Array(0)] = at.attend([whole]);
        const share = shareOfBound(fromBits(first), expectedAttention(log, plainPlan(log), whole));
        expect(share, `${tokens} tokens`).toBeLessThanOrEqual(1);
        // Where a log is cut into spans must not show.
        const [cut] = at.attend([lastRow(tokens, [5, 40, 41])]);
        expect(firstDifference(cut ?? [], first)).toBe(-1);
        expect(kernels.brokenGuards()).toEqual([]);
      }
    });

    it("gives rows of a prompt the bits that each has alone", async () => {
      const kernels = await open();
      kernels.reset();
      const tokens = 75;
      const log = randomLog({ ...shape, tokens }, 7);
      const at = new AttentionCase(kernels, log, plainPlan(log));
      const begin = 2;
      const task: TaskSpec = {
        firstPosition: begin,
        rows: tokens - begin,
        spans: [
          { begin: 0, end: begin },
          { begin, end: tokens },
        ],
        pages: 0,
      };
      const [together = new Uint32Array(0)] = at.attend([task]);
      const share = shareOfBound(fromBits(together), expectedAttention(log, plainPlan(log), task));
      expect(share).toBeLessThanOrEqual(1);
      const width = shape.heads * shape.headDim;
      for (let position = begin; position < tokens; position += 3) {
        const [alone] = at.attend([lastRow(position + 1)]);
        const row = position - begin;
        const bits = together.subarray(row * width, (row + 1) * width);
        expect(firstDifference(bits, alone ?? [])).toBe(-1);
      }
      expect(kernels.brokenGuards()).toEqual([]);
    });

    it("does not change a bit when a page of everything leaves the recent zone", async () => {
      const kernels = await open();
      kernels.reset();
      const tokens = 150;
      const log = randomLog({ ...shape, tokens }, 8);
      const at = new AttentionCase(kernels, log, plainPlan(log));
      const [full = new Uint32Array(0)] = at.attend([lastRow(tokens)]);
      for (const pages of [1, 2, 3]) {
        const task: TaskSpec = {
          firstPosition: tokens - 1,
          rows: 1,
          spans: [
            { begin: 0, end: sink },
            { begin: sink + pages * 32, end: tokens },
          ],
          pages,
        };
        expect(firstDifference(at.attend([task])[0] ?? [], full)).toBe(-1);
      }
      expect(kernels.brokenGuards()).toEqual([]);
    });

    it("keeps tasks of one call apart", async () => {
      const kernels = await open();
      kernels.reset();
      const log = randomLog({ ...shape, tokens: 70 }, 9);
      const at = new AttentionCase(kernels, log, plainPlan(log));
      const tasks = [lastRow(70), lastRow(3), lastRow(38), lastRow(64)];
      expect(at.attend(tasks)).toEqual(tasks.map((task) => at.attend([task])[0]));
      expect(kernels.brokenGuards()).toEqual([]);
    });
  });
}
