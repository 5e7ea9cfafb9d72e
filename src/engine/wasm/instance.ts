/** One instance of a WASM module, its memory, and the errors of its calls. */
import { engineStatusName, EngineError } from "../status.js";
import {
  abiVersion,
  readError,
  stagingBytes,
  wasmPageBytes,
  wasmPagesInitial,
  wasmPagesMax,
} from "./abi.js";
import { StepThread } from "./step-thread.js";
import {
  checkThreads,
  isThreaded,
  startHelpers,
  type HelperThreads,
  type ThreadExports,
} from "./threads.js";

/** Functions that a module exports for engines (engine/include/leanedge/engine.h); 64-bit integers are bigint. */
export interface EngineExports {
  le_abi_version(): number;
  le_backend(): number;
  le_error(): number;
  le_staging(): number;
  le_engine_create(options: number, config: number, tensors: number, count: number): number;
  le_weights_write(index: number, offset: bigint, data: number, bytes: number): number;
  le_plan_add(plan: number, sink: number, recent: number): number;
  le_engine_start(): number;
  le_sequence_create(plan: number): number;
  le_sequence_free(sequence: number): number;
  le_sequence_append(sequence: number, kind: number, ids: number, count: number): number;
  le_sequence_truncate(sequence: number, tokens: number): number;
  le_sequence_drop_cache(sequence: number): number;
  le_sequence_fork(sequence: number, tokens: number): number;
  le_sequence_sampling(sequence: number, params: number): number;
  le_sequence_stats(sequence: number, out: number): number;
  le_sequence_ids(sequence: number, begin: number, count: number, out: number): number;
  le_plan_sequence_bytes(plan: number, tokens: number): bigint;
  le_observe(sequence: number, queryFrom: number): number;
  le_observed(layer: number, out: number): number;
  le_step(entries: number, count: number, results: number): number;
  le_logits(sequence: number): number;
  le_engine_stats(out: number): number;
  le_snapshot_bytes(sequence: number): bigint;
  le_snapshot_read(sequence: number, offset: bigint, out: number, bytes: number): number;
  le_snapshot_begin(plan: number, bytes: bigint): number;
  le_snapshot_write(sequence: number, offset: bigint, data: number, bytes: number): number;
}

/**
 * A module's memory and functions. The memory's buffer changes when the module grows it, so it is
 * asked for anew at each use and never kept.
 */
export class WasmInstance {
  #lost: string | undefined;
  /** Whether the step thread is at work. */
  #stepping = false;

  private constructor(
    private readonly memory: WebAssembly.Memory,
    private readonly exports: EngineExports,
    /** Address of the staging buffer. */
    readonly staging: number,
    /** leanedge.v1.Backend of the module. */
    readonly backend: number,
    /** The memory's maximum: whole pages, at most what was asked for. */
    readonly memoryBytesMax: number,
    private readonly helpers: HelperThreads | undefined,
    private readonly stepThread: StepThread | undefined,
  ) {}

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

  /** Whether steps run on a thread of their own. */
  get hasStepThread(): boolean {
    return this.stepThread !== undefined;
  }

  /** Whether a step is pending there; no other call may be made then. */
  get stepping(): boolean {
    return this.#stepping;
  }

  /** Ends the threads, if there are any; no call may follow. */
  close(): void {
    this.#lost ??= "the engine is closed";
    this.helpers?.stop();
    this.stepThread?.stop();
  }

  /** le_step on the step thread. Throws EngineError for a refusal, or if the thread is lost. */
  async step(entries: number, count: number, results: number): Promise<void> {
    if (this.stepThread === undefined) throw new EngineError("wrongState", "no step thread");
    this.#checkCallable();
    this.#stepping = true;
    let status: number;
    try {
      status = await this.stepThread.step({ entries, count, results });
    } catch (cause) {
      this.#lose(cause instanceof Error ? cause.message : String(cause));
    } finally {
      this.#stepping = false;
    }
    if (status < 0) throw this.lastError(status);
  }

  /** The memory as it is now; take it again after any call. */
  get buffer(): ArrayBufferLike {
    return this.memory.buffer;
  }

  /** Bytes [offset, offset + length) of the staging buffer; to be taken anew after any call. */
  stagingView(length: number, offset = 0): Uint8Array {
    if (offset + length > stagingBytes) {
      throw new EngineError(
        "invalidArgument",
        `${offset + length} bytes do not fit the staging buffer of ${stagingBytes}`,
        offset + length,
        stagingBytes,
      );
    }
    return new Uint8Array(this.memory.buffer, this.staging + offset, length);
  }

  /** Runs a call whose result means something in itself. */
  run<T>(call: (exports: EngineExports) => T): T {
    this.#checkCallable();
    try {
      return call(this.exports);
    } catch (cause) {
      if (!(cause instanceof WebAssembly.RuntimeError)) throw cause;
      this.#lose(cause.message);
    }
  }

  #checkCallable(): void {
    if (this.#lost !== undefined) throw new EngineError("deviceLost", this.#lost);
    if (this.#stepping) throw new EngineError("wrongState", "a step is pending");
  }

  /** A broken assertion: nothing in the module's memory can be trusted any more. */
  #lose(reason: string): never {
    this.#lost ??= `the engine stopped: ${reason}; all sequences are lost`;
    this.helpers?.stop();
    this.stepThread?.stop();
    throw new EngineError("deviceLost", this.#lost);
  }

  /** Runs a call that returns a Status or a non-negative number. Throws EngineError for a refusal. */
  check(call: (exports: EngineExports) => number): number {
    const result = this.run(call);
    if (result < 0) throw this.lastError(result);
    return result;
  }

  /** The error that the module remembers, as `status`. */
  lastError(status: number): EngineError {
    const raw = readError(this.memory.buffer, this.exports.le_error());
    const same = raw.status === status;
    return new EngineError(
      engineStatusName(status) ?? "deviceLost",
      same && raw.message !== "" ? raw.message : `engine status ${status}`,
      same ? raw.value : 0,
      same ? raw.bound : 0,
    );
  }
}
