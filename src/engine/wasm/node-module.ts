/** The prebuilt modules in Node. Workers import the same files through their bundler instead. */
import { readFile } from "node:fs/promises";
import { hasRelaxedSimd, relaxedIsRight } from "./variants.js";

/** The modules of wasm/prebuilt. */
export const moduleNames = ["reference", "simd128", "relaxed"] as const;

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
 */
export async function readEngineModule(
  name: ModuleName | "wasm" = "wasm",
): Promise<WebAssembly.Module> {
  if (name !== "wasm") return WebAssembly.compile(await readFile(engineModuleUrl(name)));
  if (hasRelaxedSimd()) {
    const relaxed = await readEngineModule("relaxed");
    if (relaxedIsRight(relaxed)) return relaxed;
  }
  return readEngineModule("simd128");
}
