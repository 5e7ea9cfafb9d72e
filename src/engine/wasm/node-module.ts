/** The prebuilt modules in Node. Workers import the same files through their bundler instead. */
import { readFile } from "node:fs/promises";
import { hasRelaxedSimd, relaxedIsRight } from "./variants.js";

/** The modules of wasm/prebuilt. */
export const moduleNames = [
  "reference",
  "simd128",
  "relaxed",
  "simd128-threads",
  "relaxed-threads",
] as const;

/** One of them. */
export type ModuleName = (typeof moduleNames)[number];

/** Where a prebuilt module lies. */
export function engineModuleUrl(name: ModuleName): URL {
  return new URL(`../../../wasm/prebuilt/leanedge-${name}.wasm`, import.meta.url);
}

/**
 * Reads and compiles a prebuilt module.
 *
 * @param name a module, or "wasm" for the fastest one that this process computes rightly
 * @param threads with "wasm": how many threads its engine shall have
 * @param threaded with "wasm": whether it must be a threaded module even for one thread: a step thread needs it
 */
export async function readEngineModule(
  name: ModuleName | "wasm" = "wasm",
  threads = 1,
  threaded = false,
): Promise<WebAssembly.Module> {
  if (name !== "wasm") return WebAssembly.compile(await readFile(engineModuleUrl(name)));
  const suffix = threaded || threads > 1 ? "-threads" : "";
  // Only the module without threads can be asked on memory that is not shared.
  const relaxed = hasRelaxedSimd() ? await readEngineModule("relaxed") : undefined;
  if (relaxed !== undefined && relaxedIsRight(relaxed)) {
    return suffix === "" ? relaxed : readEngineModule(`relaxed${suffix}`);
  }
  return readEngineModule(`simd128${suffix}`);
}
