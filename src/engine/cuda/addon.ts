/** The Node addon of gpu-worker/addon: where it lies, and what it exports. */
import { createRequire } from "node:module";
import { dirname, resolve } from "node:path";
import { existsSync } from "node:fs";
import type { EngineCalls } from "../boundary/engine-boundary.js";
import { EngineError } from "../status.js";

/** An engine as the addon hands it out; what it takes and gives stands in gpu-worker/addon/addon.cpp. */
export interface AddonEngine extends EngineCalls {
  /** leanedge.v1.Backend of the library. */
  readonly backend: number;
  createEngine(options: number, config: number, tensors: number, count: number): Promise<number>;
  writeWeights(index: number, offset: bigint, bytes: Uint8Array): Promise<number>;
  startEngine(): Promise<number>;
  step(entries: number, count: number, results: number): Promise<number>;
  /** Fills `out` with the logits of a sequence; false where it has none. */
  logits(sequence: number, out: Float32Array): boolean;
  /** Settles when the engine's memory is free; undefined where it was called before. Never rejects. */
  close(): Promise<unknown> | undefined;
}

/** What the addon exports. */
export interface Addon {
  open(libraryPath: string, memory: ArrayBuffer, errorOffset: number): Promise<AddonEngine>;
}

/** Where a native engine lies. */
export interface NativePaths {
  /** The addon, a `.node` file. */
  readonly addon: string;
  /** The library with the engine. */
  readonly library: string;
}

/** Variable that names the addon where no option does. */
export const addonVariable = "LEANEDGE_CUDA_ADDON";
/** The library's name; it lies beside the addon unless said otherwise. */
export const libraryName = "libleanedge_cuda.so";

/**
 * Finds addon and library.
 *
 * @param addon path of the addon; default: what LEANEDGE_CUDA_ADDON says
 * @param library path of the library; default: libleanedge_cuda.so beside the addon
 * @throws EngineError `unimplemented` where nothing names an addon, or nothing lies there
 */
export function nativePaths(addon = process.env[addonVariable], library?: string): NativePaths {
  if (addon === undefined || addon === "") {
    throw new EngineError(
      "unimplemented",
      `no CUDA engine: ${addonVariable} does not say where its addon lies (docs/cuda.md, 'The addon')`,
    );
  }
  const paths = {
    addon: resolve(addon),
    library: resolve(library ?? `${dirname(resolve(addon))}/${libraryName}`),
  };
  for (const path of [paths.addon, paths.library]) {
    if (!existsSync(path)) {
      throw new EngineError("unimplemented", `no CUDA engine: there is no file ${path}`);
    }
  }
  return paths;
}

/**
 * Loads the addon.
 *
 * @throws EngineError `unimplemented` for a file that Node cannot load
 */
export function loadAddon(path: string): Addon {
  try {
    return createRequire(import.meta.url)(path) as Addon;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new EngineError("unimplemented", `the CUDA addon ${path} cannot be loaded: ${reason}`);
  }
}
