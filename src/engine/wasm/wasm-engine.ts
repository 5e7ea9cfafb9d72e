/** An engine in WebAssembly, on the calling thread and, with a threaded module, on helpers of it. */
import { BoundaryEngine, type EngineLoadOptions } from "../boundary/boundary-engine.js";
import { WasmInstance } from "./instance.js";

/** Memory of an engine where the host sets none: what fits a Workers isolate of 128 MB. */
export const memoryBytesDefault = 88 * 1024 * 1024;

/** What an engine is made of. */
export interface WasmEngineOptions extends EngineLoadOptions {
  /** A module of wasm/prebuilt, compiled. */
  readonly module: WebAssembly.Module;
  /** All memory: statics, weights, cache, scratch. Default 88 MiB. */
  readonly memoryBytesMax?: number;
  /**
   * Threads that compute, the calling one included, 1 .. 8; default 1. More than one needs a threaded
   * module and an environment that shares memory between threads: Node, or a page that is cross-origin
   * isolated (best in a worker of it: the main thread may not sleep and spins while helpers finish).
   * They are counted in memoryBytesMax and end with `close`.
   */
  readonly threads?: number;
  /**
   * Steps run on a thread of their own, so that the calling one is free meanwhile; default false. Needs a threaded
   * module, and Node. The engine then has no `stepSync`.
   */
  readonly stepThread?: boolean;
}

/**
 * Creates an engine and streams the weights in; they are never in memory twice.
 *
 * @throws EngineError if the model or a plan does not fit; ModelFileError if the source fails
 */
export async function loadWasmEngine(options: WasmEngineOptions): Promise<BoundaryEngine> {
  const { module, memoryBytesMax = memoryBytesDefault, threads, stepThread } = options;
  return BoundaryEngine.load(
    await WasmInstance.create(module, memoryBytesMax, threads, stepThread),
    options,
  );
}
