/** Weights and matrix products against the contract. */
import { describe, expect, it } from "vitest";
import { SeededRandom } from "../../../test/oracle/random.js";
import { decodeTensor, encodeTensor } from "../../../test/oracle/tensor-types.js";
import { dtypeLayouts, type Dtype } from "../gguf/dtype.js";
import {
  firstDifference,
  fromBits,
  product,
  quantisedActivations,
  worstError,
} from "./expectations.js";
import type { KernelModule } from "./kernel-module.js";
import { multiply, packMatrix } from "./kernel-module.js";

/** Types of weights, with the columns that a matrix of them can have: blocks, or anything. */
export const matrixTypes: readonly { dtype: Dtype; cols: readonly number[] }[] = [
  { dtype: "F32", cols: [1, 3, 4, 5, 60, 67, 256, 1031] },
  { dtype: "F16", cols: [2, 4, 6, 33, 160, 258] },
  { dtype: "BF16", cols: [2, 8, 31, 96, 130] },
  { dtype: "Q8_0", cols: [32, 64, 96, 352] },
  { dtype: "Q4_0", cols: [32, 64, 96, 544] },
  { dtype: "Q4_1", cols: [32, 64, 160, 416] },
];

/** Rows around the sizes of tiles that backends use. */
export const matrixRows = [1, 3, 4, 5, 7, 8, 9, 17, 40] as const;

/** Batches around the numbers of rows that backends take together. */
const batches = [2, 3, 4, 5, 8, 9, 17] as const;

/**
 * Error of a product in units of sum|w x|. Integer sums are exact, so that only the f32 sums over
 * blocks are left; float products add up to 1,031 terms in f32. Measured: below a fifth of these.
 */
const errorMax = 1e-6;

/** Weights and activations with values of very different size. */
export function randomMatrix(
  dtype: Dtype,
  rows: number,
  cols: number,
  seed: number,
): { tensor: Uint8Array; weights: Float32Array } {
  const random = SeededRandom.named(seed, `${dtype} ${rows} ${cols}`);
  const values = random.normals(rows * cols, 0.05);
  for (let i = 0; i < values.length; i += 97) values[i] = (values[i] ?? 0) * 40;
  const tensor = encodeTensor(dtype, values);
  return { tensor, weights: decodeTensor(dtype, tensor, rows * cols) };
}

function usesInt8(dtype: Dtype): boolean {
  return dtypeLayouts[dtype].blockWeights > 1;
}

/** Runs the suite on a module. */
export function runMatmulSuite(open: () => Promise<KernelModule>): void {
  describe.each(matrixTypes)("matrices of $dtype", ({ dtype, cols: colsList }) => {
    const shapes = colsList.flatMap((cols) => matrixRows.map((rows) => ({ rows, cols })));

    it("give back exactly the file's weights", async () => {
      const kernels = await open();
      for (const { rows, cols } of shapes) {
        kernels.reset();
        const { tensor, weights } = randomMatrix(dtype, rows, cols, 1);
        const matrix = packMatrix(kernels, dtype, rows, cols, tensor);
        for (let row = 0; row < rows; row++) {
          const out = kernels.output(cols * 4);
          kernels.call.lek_unpack_row(matrix.dtype, rows, cols, matrix.data, row, out);
          const expected = weights.subarray(row * cols, (row + 1) * cols);
          expect(firstDifference(kernels.floats(out, cols), expected)).toBe(-1);
        }
        expect(kernels.brokenGuards()).toEqual([]);
      }
    });

    it("multiply as the contract says", async () => {
      const kernels = await open();
      for (const { rows, cols } of shapes) {
        kernels.reset();
        const { tensor, weights } = randomMatrix(dtype, rows, cols, 2);
        const matrix = packMatrix(kernels, dtype, rows, cols, tensor);
        const x = SeededRandom.named(3, `x ${cols}`).normals(cols, 1);
        const seen = usesInt8(dtype) ? quantisedActivations(x) : x;
        const { y, magnitude } = product(weights, rows, seen);
        const actual = fromBits(multiply(kernels, matrix, x, 1));
        expect(worstError(actual, y, magnitude), `${rows} x ${cols}`).toBeLessThan(errorMax);
        expect(kernels.brokenGuards()).toEqual([]);
      }
    });

    it("give a row the same bits alone and among others", async () => {
      const kernels = await open();
      for (const { rows, cols } of shapes) {
        kernels.reset();
        const { tensor } = randomMatrix(dtype, rows, cols, 4);
        const matrix = packMatrix(kernels, dtype, rows, cols, tensor);
        const batch = Math.max(...batches);
        const x = SeededRandom.named(5, `x ${cols}`).normals(cols * batch, 1);
        const alone = Array.from({ length: batch }, (_, row) =>
          multiply(kernels, matrix, x.slice(row * cols, (row + 1) * cols), 1),
        );
        for (const size of batches) {
          const together = multiply(kernels, matrix, x.slice(0, size * cols), size);
          for (let row = 0; row < size; row++) {
            const bits = together.subarray(row * rows, (row + 1) * rows);
            expect(firstDifference(bits, alone[row] ?? [])).toBe(-1);
          }
        }
        expect(kernels.brokenGuards()).toEqual([]);
      }
    });
  });

  describe("matrices of block types", () => {
    it("take activations of zeros, and give zeros", async () => {
      const kernels = await open();
      for (const dtype of ["Q8_0", "Q4_0", "Q4_1"] as const) {
        kernels.reset();
        const { tensor } = randomMatrix(dtype, 9, 64, 6);
        const matrix = packMatrix(kernels, dtype, 9, 64, tensor);
        const y = fromBits(multiply(kernels, matrix, new Float32Array(64), 1));
        expect([...y].map(Math.abs)).toEqual(Array.from({ length: 9 }, () => 0));
      }
    });

    it("make a product NaN where an activation is not finite", async () => {
      const kernels = await open();
      for (const dtype of ["Q8_0", "Q4_0", "Q4_1"] as const) {
        for (const bad of [NaN, Infinity, -Infinity]) {
          kernels.reset();
          const { tensor } = randomMatrix(dtype, 5, 96, 7);
          const matrix = packMatrix(kernels, dtype, 5, 96, tensor);
          const x = new SeededRandom(8).normals(96, 1);
          x[40] = bad;
          const y = fromBits(multiply(kernels, matrix, x, 1));
          expect([...y].every((value) => Number.isNaN(value))).toBe(true);
        }
      }
    });

    it("keep scales and minima of every size exactly", async () => {
      const kernels = await open();
      const [rows, cols] = [19, 96];
      // f16: the smallest subnormals, 0, -0, and from the third list on what times 1,024 is no f16.
      const subnormal = [0x0001, 0x03ff, 0x0000, 0x8000, 0x8201, 0x0400, 0x2c00];
      const lists = [subnormal, [...subnormal, 0x53ff, 0xd3ff], [0x5400, 0xd400, 0x7bff, 0x0001]];
      for (const dtype of ["Q8_0", "Q4_0", "Q4_1"] as const) {
        for (const scales of [...lists, [...subnormal, ...subnormal, ...subnormal, 0xe400]]) {
          kernels.reset();
          const { tensor } = randomMatrix(dtype, rows, cols, 10);
          const view = new DataView(tensor.buffer, tensor.byteOffset, tensor.byteLength);
          const { blockBytes } = dtypeLayouts[dtype];
          for (let at = 0, i = 0; at < tensor.length; at += blockBytes, i++) {
            view.setUint16(at, scales[i % scales.length] ?? 0, true);
            if (dtype === "Q4_1")
              view.setUint16(at + 2, scales[(5 * i) % scales.length] ?? 0, true);
          }
          const weights = decodeTensor(dtype, tensor, rows * cols);
          const matrix = packMatrix(kernels, dtype, rows, cols, tensor);
          const out = kernels.output(cols * 4);
          for (let row = 0; row < rows; row++) {
            kernels.call.lek_unpack_row(matrix.dtype, rows, cols, matrix.data, row, out);
            const expected = weights.subarray(row * cols, (row + 1) * cols);
            expect(firstDifference(kernels.floats(out, cols), expected)).toBe(-1);
          }
          const x = SeededRandom.named(11, "x").normals(cols * 4, 1);
          const together = multiply(kernels, matrix, x, 4);
          for (let row = 0; row < 4; row++) {
            const one = x.slice(row * cols, (row + 1) * cols);
            const { y, magnitude } = product(weights, rows, quantisedActivations(one));
            const bits = multiply(kernels, matrix, one, 1);
            expect(worstError(fromBits(bits), y, magnitude)).toBeLessThan(errorMax);
            expect(firstDifference(together.subarray(row * rows, (row + 1) * rows), bits)).toBe(-1);
          }
          expect(kernels.brokenGuards()).toEqual([]);
        }
      }
    });

    it("take activations that are tiny, huge, and lie halfway between two steps", async () => {
      const kernels = await open();
      const x = Float32Array.from({ length: 128 }, (_, i) => {
        if (i < 32) return (i - 16) * 1e-42;
        if (i < 64) return (i - 48) * 1e30;
        return i < 96 ? (i === 64 ? 127 : i - 80 + 0.5) : -(i === 96 ? 127 : i - 112 + 0.5);
      });
      for (const dtype of ["Q8_0", "Q4_0", "Q4_1"] as const) {
        kernels.reset();
        const { tensor, weights } = randomMatrix(dtype, 6, 128, 9);
        const matrix = packMatrix(kernels, dtype, 6, 128, tensor);
        const { y, magnitude } = product(weights, 6, quantisedActivations(x));
        const actual = fromBits(multiply(kernels, matrix, x, 1));
        expect(worstError(actual, y, magnitude)).toBeLessThan(errorMax);
      }
    });
  });
}
