/** What every backend's kernels must do, whoever wrote them: engine/include/leanedge/kernels.h. */
import { afterAll, describe } from "vitest";
import { runAttentionPagesSuite } from "./attention-pages-suite.js";
import { runAttentionSuite } from "./attention-suite.js";
import { KernelModule } from "./kernel-module.js";
import { runMatmulSuite } from "./matmul-suite.js";
import { runPageFlushSuite } from "./page-flush-suite.js";
import { runRowsSuite } from "./rows-suite.js";

/**
 * Declares the kernel suite for a module.
 *
 * @param name for titles
 * @param module the compiled module, or how to get it
 */
export function runKernelConformance(
  name: string,
  module: () => Promise<WebAssembly.Module>,
): void {
  describe(`kernels of ${name}`, () => {
    // One instance for all: helper threads take longer to start than most tests.
    let opened: Promise<KernelModule> | undefined;
    const open = async (): Promise<KernelModule> => {
      opened ??= module().then((compiled) => KernelModule.create(compiled));
      const kernels = await opened;
      kernels.reset();
      return kernels;
    };
    afterAll(async () => {
      (await opened)?.close();
    });
    runMatmulSuite(open);
    runRowsSuite(open);
    runAttentionSuite(open);
    runAttentionPagesSuite(open);
    runPageFlushSuite(open);
  });
}
