import { describe, expect, it } from "vitest";
import { SeededRandom } from "../../../test/oracle/random.js";
import { readEngineModule } from "../wasm/node-module.js";
import { KernelModule, multiply, packMatrix } from "./kernel-module.js";
import { runKernelConformance } from "./kernel-conformance.js";
import { matrixRows, randomMatrix } from "./matmul-suite.js";

runKernelConformance("the reference", () => readEngineModule("reference"));
runKernelConformance("SIMD128", () => readEngineModule("wasm"));

describe("reference and SIMD128", () => {
  it("give the same bits in products of block weights", async () => {
    const reference = await KernelModule.create(await readEngineModule("reference"));
    const simd = await KernelModule.create(await readEngineModule("wasm"));
    for (const dtype of ["Q8_0", "Q4_0", "Q4_1"] as const) {
      for (const rows of matrixRows) {
        for (const cols of [32, 256, 608]) {
          const { tensor } = randomMatrix(dtype, rows, cols, 20);
          const x = SeededRandom.named(21, `${dtype} ${rows} ${cols}`).normals(3 * cols, 2);
          const [expected, actual] = [reference, simd].map((kernels) => {
            kernels.reset();
            return multiply(kernels, packMatrix(kernels, dtype, rows, cols, tensor), x, 3);
          });
          expect(actual, `${dtype}, ${rows} x ${cols}`).toEqual(expected);
        }
      }
    }
  });
});
