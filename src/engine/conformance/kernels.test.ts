import { describe, expect, it, onTestFinished } from "vitest";
import { SeededRandom } from "../../../test/oracle/random.js";
import { readEngineModule } from "../wasm/node-module.js";
import { KernelModule, multiply, packMatrix } from "./kernel-module.js";
import { runKernelConformance } from "./kernel-conformance.js";
import { matrixRows, randomMatrix } from "./matmul-suite.js";
import { runnableModules, suiteModules } from "./suite-modules.js";

for (const name of suiteModules()) runKernelConformance(name, () => readEngineModule(name));

/** Batches on both sides of where rows are taken in groups, and of whole groups. */
const batches = [1, 3, 4, 6, 9] as const;

/** Bytes of a Q8_0 matrix of nothing but the greatest and the least weight. */
function extremes(rows: number, cols: number): Uint8Array {
  const blocks = (rows * cols) / 32;
  return Uint8Array.from({ length: blocks * 34 }, (_, i) => {
    const at = i % 34;
    if (at < 2) return at === 0 ? 0x00 : 0x3c; // a scale of 1
    return Math.floor(i / 34) % 2 === 0 ? 0x80 : 0x7f;
  });
}

describe.each(runnableModules().filter((name) => name !== "reference"))(
  "the reference and %s give the same bits",
  (name) => {
    async function both(): Promise<readonly [KernelModule, KernelModule]> {
      const [reference, other] = await Promise.all(
        (["reference", name] as const).map(async (module) =>
          KernelModule.create(await readEngineModule(module)),
        ),
      );
      if (reference === undefined || other === undefined) throw new RangeError("two modules");
      onTestFinished(() => {
        other.close();
      });
      return [reference, other];
    }

    it.each(["Q8_0", "Q4_0", "Q4_1"] as const)("in products of %s", async (dtype) => {
      const modules = await both();
      for (const rows of matrixRows) {
        // 2,112 columns: more than one panel of a tile.
        for (const cols of rows < 8 ? [32, 256, 608, 2112] : [32, 608]) {
          const { tensor } = randomMatrix(dtype, rows, cols, 20);
          const x = SeededRandom.named(21, `${dtype} ${rows} ${cols}`).normals(9 * cols, 2);
          for (const batch of batches) {
            const [expected, actual] = modules.map((kernels) => {
              kernels.reset();
              const matrix = packMatrix(kernels, dtype, rows, cols, tensor);
              return multiply(kernels, matrix, x.subarray(0, batch * cols), batch);
            });
            expect(actual, `${rows} x ${cols}, ${batch} rows`).toEqual(expected);
          }
        }
      }
    });

    it("in products of the greatest values", async () => {
      const modules = await both();
      const cols = 96;
      for (const batch of batches) {
        const x = new Float32Array(batch * cols).map((_, i) => (i % 3 === 0 ? -127 : 127));
        const [expected, actual] = modules.map((kernels) => {
          kernels.reset();
          const matrix = packMatrix(kernels, "Q8_0", 11, cols, extremes(11, cols));
          return multiply(kernels, matrix, x, batch);
        });
        expect(actual, `${batch} rows`).toEqual(expected);
      }
    });
  },
);
