/** Norms, sums, SwiGLU, RoPE and conversion to f16 against the contract. */
import { describe, expect, it } from "vitest";
import { SeededRandom } from "../../../test/oracle/random.js";
import { f16ToNumber, numberToF16 } from "../page/half.js";
import { fromBits, rmsnormRow, swigluOf, worstError } from "./expectations.js";
import type { KernelModule } from "./kernel-module.js";

/** Lengths around the widths of vectors. */
const dims = [1, 2, 3, 4, 5, 7, 8, 9, 31, 64, 257] as const;
const eps = 1e-5;

/** Values from 2^-30 to 2^20, of both signs. */
function wild(random: SeededRandom, count: number): Float32Array {
  return Float32Array.from(
    { length: count },
    () => (random.below(2) === 0 ? -1 : 1) * (1 + random.uniform()) * 2 ** (random.below(51) - 30),
  );
}

/** Runs the suite on a module. */
export function runRowsSuite(open: () => Promise<KernelModule>): void {
  describe("rows", () => {
    it("rmsnorm scales each row to a mean square of one, in place or not", async () => {
      const kernels = await open();
      for (const dim of dims) {
        kernels.reset();
        const random = SeededRandom.named(1, `norm ${dim}`);
        const x = random.normals(3 * dim, 2);
        const weight = random.normals(dim, 0.3, 1);
        const at = kernels.input(x);
        const y = kernels.output(3 * dim * 4);
        const weightAt = kernels.input(weight);
        kernels.call.lek_rmsnorm(at, weightAt, eps, 3, dim, y);
        for (let row = 0; row < 3; row++) {
          const expected = rmsnormRow(x.subarray(row * dim, (row + 1) * dim), weight, eps);
          const actual = kernels.floats(y + row * dim * 4, dim);
          expect(worstError(actual, expected, 1e-3)).toBeLessThan(1e-6);
          const alone = kernels.input(x.slice(row * dim, (row + 1) * dim));
          kernels.call.lek_rmsnorm(alone, weightAt, eps, 1, dim, alone);
          expect(kernels.floatBits(alone, dim)).toEqual(kernels.floatBits(y + row * dim * 4, dim));
        }
        expect(kernels.brokenGuards()).toEqual([]);
      }
    });

    it("add and add_bias are f32 sums", async () => {
      const kernels = await open();
      for (const dim of dims) {
        kernels.reset();
        const random = SeededRandom.named(2, `add ${dim}`);
        const x = wild(random, 3 * dim);
        const y = wild(random, 3 * dim);
        const at = kernels.input(x);
        kernels.call.lek_add(at, kernels.input(y), 3, dim);
        expect(kernels.floats(at, 3 * dim)).toEqual(x.map((v, i) => v + (y[i] ?? 0)));
        const biased = kernels.input(x);
        kernels.call.lek_add_bias(biased, kernels.input(y.slice(0, dim)), 3, dim);
        expect(kernels.floats(biased, 3 * dim)).toEqual(x.map((v, i) => v + (y[i % dim] ?? 0)));
        expect(kernels.brokenGuards()).toEqual([]);
      }
    });

    it("swiglu follows silu, far out on both sides too", async () => {
      const kernels = await open();
      for (const dim of dims) {
        kernels.reset();
        const random = SeededRandom.named(3, `swiglu ${dim}`);
        const gate = random.normals(2 * dim, 8);
        gate[0] = -120;
        gate[dim] = 120;
        const up = random.normals(2 * dim, 1);
        const at = kernels.input(gate);
        kernels.call.lek_swiglu(at, kernels.input(up), 2, dim);
        const expected = swigluOf(gate, up);
        // Beyond e^88 the divisor stops growing: what is left there is below 1e-35.
        expect(worstError(kernels.floats(at, 2 * dim), expected, 1e-28)).toBeLessThan(1e-6);
        const alone = kernels.input(gate.slice(dim - 1, dim));
        kernels.call.lek_swiglu(alone, kernels.input(up.slice(dim - 1, dim)), 1, 1);
        expect(kernels.floatBits(alone, 1)).toEqual(kernels.floatBits(at + (dim - 1) * 4, 1));
        expect(kernels.brokenGuards()).toEqual([]);
      }
    });

    it.each([
      { headDim: 2, ropeDim: 2 },
      { headDim: 6, ropeDim: 6 },
      { headDim: 8, ropeDim: 8 },
      { headDim: 20, ropeDim: 12 },
      { headDim: 64, ropeDim: 64 },
      { headDim: 80, ropeDim: 40 },
    ])("rope turns $ropeDim of $headDim channels and leaves the rest", async (shape) => {
      const { headDim, ropeDim } = shape;
      const kernels = await open();
      kernels.reset();
      const [rows, heads, half] = [3, 5, ropeDim / 2];
      const random = SeededRandom.named(4, `rope ${headDim}`);
      const x = random.normals(rows * heads * headDim, 1);
      const angles = random.normals(rows * half, 2);
      const cos = angles.map(Math.cos);
      const sin = angles.map(Math.sin);
      const at = kernels.input(x);
      kernels.call.lek_rope(
        at,
        kernels.input(cos),
        kernels.input(sin),
        rows,
        heads,
        headDim,
        ropeDim,
      );
      const expected = Float64Array.from(x, (value, i) => {
        const channel = i % headDim;
        const row = Math.floor(i / (heads * headDim));
        if (channel >= ropeDim) return value;
        const angle = row * half + (channel % half);
        const [c, s] = [cos[angle] ?? 0, sin[angle] ?? 0];
        return channel < half
          ? value * c - (x[i + half] ?? 0) * s
          : (x[i - half] ?? 0) * s + value * c;
      });
      expect(worstError(kernels.floats(at, x.length), expected, 1)).toBeLessThan(2e-7);
      expect(kernels.brokenGuards()).toEqual([]);
    });

    it("to_f16 rounds to nearest even, keeps subnormals, and overflows to infinity", async () => {
      const kernels = await open();
      kernels.reset();
      // Every finite f16, what lies around it in f32, the middle to its neighbour; and the extremes.
      const values: number[] = [65504, 65519.996, 65520, 1e30, Infinity, NaN, 1e-30, 0, -0];
      for (let bits = 0; bits < 0x7c00; bits += 3) {
        const value = f16ToNumber(bits);
        const middle = (value + f16ToNumber(bits + 1)) / 2;
        values.push(value, middle, middle * (1 - 2 ** -23), middle * (1 + 2 ** -22));
      }
      const x = Float32Array.from([...values, ...values.map((value) => -value)]);
      const out = kernels.output(x.length * 2);
      kernels.call.lek_to_f16(kernels.input(x), x.length, out);
      const actual = kernels.halves(out, x.length);
      const wrong = [...x].flatMap((value, i) => {
        const bits = actual[i] ?? -1;
        const same = Number.isNaN(value)
          ? Number.isNaN(f16ToNumber(bits))
          : bits === numberToF16(value);
        return same ? [] : [{ value, bits }];
      });
      expect(wrong).toEqual([]);
      for (const count of [1, 3, 7, 8, 9]) {
        const short = kernels.output(count * 2);
        kernels.call.lek_to_f16(kernels.input(x.slice(20, 20 + count)), count, short);
        expect(kernels.halves(short, count)).toEqual(actual.slice(20, 20 + count));
      }
      expect(kernels.brokenGuards()).toEqual([]);
    });

    it("a row that is not a number shows in its own results only", async () => {
      const kernels = await open();
      kernels.reset();
      const x = new SeededRandom(5).normals(2 * 12, 1);
      x[3] = NaN;
      const at = kernels.input(x);
      const weight = kernels.input(new Float32Array(12).fill(1));
      kernels.call.lek_rmsnorm(at, weight, eps, 2, 12, at);
      const y = fromBits(kernels.floatBits(at, 24));
      expect([...y.subarray(0, 12)].every(Number.isNaN)).toBe(true);
      expect([...y.subarray(12)].some(Number.isNaN)).toBe(false);
    });
  });
}
