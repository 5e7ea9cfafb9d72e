/** The prebuilt modules in Node. Workers import the same files through their bundler instead. */
import { readFile } from "node:fs/promises";
import type { BackendName } from "../engine.js";

const files: Readonly<Record<Exclude<BackendName, "cuda">, string>> = {
  reference: "leanedge-reference.wasm",
  wasm: "leanedge-simd128.wasm",
};

/** Where the prebuilt module of a backend lies. */
export function engineModuleUrl(backend: Exclude<BackendName, "cuda">): URL {
  return new URL(`../../../wasm/prebuilt/${files[backend]}`, import.meta.url);
}

/** Reads and compiles the prebuilt module of a backend. */
export async function readEngineModule(
  backend: Exclude<BackendName, "cuda"> = "wasm",
): Promise<WebAssembly.Module> {
  return WebAssembly.compile(await readFile(engineModuleUrl(backend)));
}
