/** One instance of a WASM module, its memory, and its calls. */
import { abiVersion, stagingBytes } from "../boundary/abi.js";
import { EngineBoundary, type EngineCalls } from "../boundary/engine-boundary.js";
import { EngineError } from "../status.js";
import { wasmPageBytes, wasmPagesInitial, wasmPagesMax } from "./memory-pages.js";
import { StepThread } from "./step-thread.js";
import {
  checkThreads,
  isThreaded,
  startHelpers,
  type HelperThreads,
  type ThreadExports,
} from "./threads.js";

/** Functions that a module exports for engines (engine/include/leanedge/engine.h). */
export interface EngineExports extends EngineCalls {
  le_abi_version(): number;
  le_backend(): number;
  le_staging(): number;
  le_engine_create(options: number, config: number, tensors: number, count: number): number;
  le_weights_write(index: number, offset: bigint, data: number, bytes: number): number;
  le_engine_start(): number;
  le_logits(sequence: number): number;
}

/**
 * A module's memory and functions. The memory's buffer changes when the module grows it, so it is
 * asked for anew at each use and never kept.
 */
export class WasmInstance extends EngineBoundary<EngineExports> {
  private constructor(
    private readonly memory: WebAssembly.Memory,
    protected readonly calls: EngineExports,
    /** Address of the staging buffer. */
    readonly staging: number,
    /** leanedge.v1.Backend of the module. */
    readonly backend: number,
    /** The memory's maximum: whole pages, at most what was asked for. */
    readonly memoryBytesMax: number,
    private readonly helpers: HelperThreads | undefined,
    private readonly stepThread: StepThread | undefined,
  ) {
    super();
  }

  /**
   * @param memoryBytesMax most bytes of memory, rounded down to whole pages of 64 KiB
   * @param threads threads that compute, the calling one included; more than 1 with a threaded module
   * @param ownStepThread whether steps run on a thread of their own, beside the calling one
   * @throws EngineError `outOfMemory` if that is less than the module itself takes, `invalidArgument`
   *   for a module of another kind or version, or for threads that cannot be had
   */
  static async create(
    module: WebAssembly.Module,
    memoryBytesMax: number,
    threads = 1,
    ownStepThread = false,
  ): Promise<WasmInstance> {
    checkThreads(module, threads);
    const pages = Math.min(Math.floor(memoryBytesMax / wasmPageBytes), wasmPagesMax);
    if (!(pages >= wasmPagesInitial)) {
      const least = wasmPagesInitial * wasmPageBytes;
      throw new EngineError(
        "outOfMemory",
        `memory maximum is ${memoryBytesMax} bytes, the module itself takes ${least}`,
        memoryBytesMax,
        least,
      );
    }
    const shared = isThreaded(module);
    const memory = new WebAssembly.Memory({ initial: wasmPagesInitial, maximum: pages, shared });
    const instance = await WebAssembly.instantiate(module, { env: { memory } });
    const exports = instance.exports as unknown as Partial<EngineExports>;
    const version = exports.le_abi_version?.();
    if (version !== abiVersion) {
      throw new EngineError(
        "invalidArgument",
        `module speaks version ${version ?? "none"} of the engine's boundary, must be ${abiVersion}`,
        version ?? 0,
        abiVersion,
      );
    }
    const checked = exports as EngineExports;
    const helpers = shared
      ? await startHelpers(module, memory, exports as unknown as ThreadExports, threads)
      : undefined;
    const stepThread = ownStepThread ? await StepThread.start(module, memory) : undefined;
    return new WasmInstance(
      memory,
      checked,
      checked.le_staging(),
      checked.le_backend(),
      pages * wasmPageBytes,
      helpers,
      stepThread,
    );
  }

  get stepsElsewhere(): boolean {
    return this.stepThread !== undefined;
  }

  /** The memory as it is now; take it again after any call. */
  get buffer(): ArrayBufferLike {
    return this.memory.buffer;
  }

  createEngine(options: number, config: number, tensors: number, count: number): void {
    this.check((x) => x.le_engine_create(options, config, tensors, count));
  }

  writeWeights(index: number, offset: number, bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; at += stagingBytes) {
      const piece = bytes.subarray(at, at + stagingBytes);
      this.stagingView(piece.length).set(piece);
      this.check((x) => x.le_weights_write(index, BigInt(offset + at), this.staging, piece.length));
    }
  }

  startEngine(): void {
    this.check((x) => x.le_engine_start());
  }

  logits(sequence: number, count: number): Float32Array | undefined {
    const address = this.run((x) => x.le_logits(sequence));
    return address === 0 ? undefined : new Float32Array(this.buffer, address, count).slice();
  }

  protected async stepElsewhere(entries: number, count: number, results: number): Promise<number> {
    if (this.stepThread === undefined) throw new EngineError("wrongState", "no step thread");
    return this.stepThread.step({ entries, count, results });
  }

  /** A broken assertion traps: nothing in the module's memory can be trusted any more. */
  protected losesEngine(cause: unknown): boolean {
    return cause instanceof WebAssembly.RuntimeError;
  }

  protected release(): void {
    this.helpers?.stop();
    this.stepThread?.stop();
  }
}
