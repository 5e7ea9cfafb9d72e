/** What every engine must do, whatever computes: src/engine/engine.ts and docs/architecture.md. */
import { describe } from "vitest";
import { runChannelSuite } from "./channel-suite.js";
import type { SuiteModule } from "./engine-bench.js";
import { runErrorSuite } from "./error-suite.js";
import { runLogitSuite } from "./logit-suite.js";
import { runPlanSuite } from "./plan-suite.js";
import { runReplaySuite } from "./replay-suite.js";
import { runThinkSuite } from "./think-suite.js";
import { runWalkSuite } from "./walk-suite.js";

/**
 * Declares the engine suite for a module.
 *
 * @param name for titles
 * @param module how to get the compiled module, or the paths of a native library
 */
export function runEngineConformance(name: string, module: () => Promise<SuiteModule>): void {
  describe(`an engine of ${name}`, () => {
    // Compiled once: instances share the code.
    let compiled: Promise<SuiteModule> | undefined;
    const once = (): Promise<SuiteModule> => (compiled ??= module());
    runLogitSuite(once);
    runPlanSuite(once);
    runChannelSuite(once);
    runReplaySuite(once);
    runThinkSuite(once);
    runWalkSuite(once);
    runErrorSuite(once);
  });
}
