/** Which modules the suites run on. */
import { moduleNames, type ModuleName } from "../wasm/node-module.js";
import { hasRelaxedSimd } from "../wasm/variants.js";

/** What this process can run: Node 20 has no relaxed SIMD. */
export function runnableModules(): readonly ModuleName[] {
  return moduleNames.filter((name) => !name.startsWith("relaxed") || hasRelaxedSimd());
}

/**
 * What the long suites run on: every module without threads, and one with them. The other one has the
 * same kernels and the same helpers, and its products are compared bit by bit with the reference's.
 */
export function suiteModules(): readonly ModuleName[] {
  const threaded = runnableModules().filter((name) => name.endsWith("-threads"));
  return runnableModules().filter((name) => !threaded.includes(name) || name === threaded.at(-1));
}
