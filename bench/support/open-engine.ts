/** An engine of a model file in this process, for the benchmarks' children. */
import type { LoadedEngine } from "../../src/engine/load-engine.js";
import { loadEngine } from "../../src/engine/load-engine.js";
import type { LoadEngineOptions } from "../../src/engine/load-engine.js";
import { openFileSource } from "../../src/engine/gguf/file-source.js";
import { readEngineModule } from "../../src/engine/wasm/node-module.js";

/** What differs from one benchmark to the next. */
export type OpenOptions = Omit<LoadEngineOptions, "source" | "module" | "fingerprint">;

/** Loads a model into the fastest module for Node, or into the scalar reference. */
export async function openEngine(
  modelPath: string,
  options: OpenOptions,
  backend: "wasm" | "reference" = "wasm",
): Promise<LoadedEngine> {
  const source = await openFileSource(modelPath);
  try {
    return await loadEngine({ source, module: await readEngineModule(backend), ...options });
  } finally {
    await source.close();
  }
}
