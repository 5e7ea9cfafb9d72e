/** Attention and pages have the same bits in every module with SIMD, on any number of threads. */
import { describe, expect, it, onTestFinished } from "vitest";
import { readEngineModule, type ModuleName } from "../wasm/node-module.js";
import { AttentionCase } from "./attention-case.js";
import { randomLog, zonedTask } from "./attention-log.js";
import { KernelModule } from "./kernel-module.js";
import { planSink, storagePlan } from "./page-plans.js";
import { runnableModules } from "./suite-modules.js";

const pages = 7;

async function open(name: ModuleName): Promise<KernelModule> {
  const kernels = await KernelModule.create(await readEngineModule(name));
  onTestFinished(() => {
    kernels.close();
  });
  return kernels;
}

describe.each(runnableModules().filter((name) => name !== "reference" && name !== "simd128"))(
  "attention of simd128 and of %s",
  (name) => {
    it.each([
      { k: "f16", v: "f16" },
      { k: "int8", v: "int8" },
      { k: "int4", v: "int4" },
      { k: "int2", v: "f16" },
    ] as const)("has the same bits with K in $k and V in $v", async (storage) => {
      const modules = [await open("simd128"), await open(name)];
      for (const headDim of [40, 64]) {
        const tokens = planSink + pages * 32 + 50;
        const log = randomLog({ heads: 12, kvHeads: 6, headDim, tokens }, headDim);
        const plan = {
          ...storagePlan(log, storage, headDim),
          pageSelection: { pagesPerStep: 3, pagesFloor: 3 },
        };
        const tasks = [
          zonedTask(log, plan, pages, 1),
          zonedTask(log, plan, pages, 1, true),
          zonedTask(log, plan, 2, 37),
          zonedTask(log, plan, 5, 9, true),
        ];
        const [expected, actual] = modules.map((kernels) => {
          kernels.reset();
          return new AttentionCase(kernels, log, plan).attend(tasks);
        });
        expect(actual).toEqual(expected);
      }
    });
  },
);
