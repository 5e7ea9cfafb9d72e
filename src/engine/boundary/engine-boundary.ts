/**
 * The boundary of an engine (engine/include/leanedge/engine.h) as its TypeScript side calls it, whatever lies
 * behind: a WASM module and its memory, or a native library and a buffer that both sides see. Pointers are
 * offsets into `buffer`, 0 is null, and 64-bit integers are bigint.
 */
import { engineStatusName, EngineError } from "../status.js";
import { readError, stagingBytes } from "./abi.js";

/** Calls that come back at once. What takes its time goes through methods of EngineBoundary. */
export interface EngineCalls {
  le_error(): number;
  le_plan_add(plan: number, sink: number, recent: number): number;
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
  le_engine_stats(out: number): number;
  le_snapshot_bytes(sequence: number): bigint;
  le_snapshot_read(sequence: number, offset: bigint, out: number, bytes: number): number;
  le_snapshot_begin(plan: number, bytes: bigint): number;
  le_snapshot_write(sequence: number, offset: bigint, data: number, bytes: number): number;
}

/** See the head of this file. One engine each; subclasses say how calls get there. */
export abstract class EngineBoundary<Calls extends EngineCalls = EngineCalls> {
  #lost: string | undefined;
  #stepping = false;

  /** leanedge.v1.Backend of what computes. */
  abstract readonly backend: number;
  /** Most bytes that the engine may take. */
  abstract readonly memoryBytesMax: number;
  /** Where the staging buffer begins, which everything passes through. */
  abstract readonly staging: number;
  /** Whether steps run beside the calling thread. */
  abstract readonly stepsElsewhere: boolean;
  /** What pointers are offsets into; to be taken anew after any call. */
  abstract get buffer(): ArrayBufferLike;
  protected abstract readonly calls: Calls;

  /** le_engine_create. @throws EngineError for a refusal, now or later */
  abstract createEngine(
    options: number,
    config: number,
    tensors: number,
    count: number,
  ): void | Promise<void>;
  /** le_weights_write, in as many pieces as it takes. `bytes` may change once the promise is settled. */
  abstract writeWeights(index: number, offset: number, bytes: Uint8Array): void | Promise<void>;
  /** le_engine_start. */
  abstract startEngine(): void | Promise<void>;
  /** le_logits: a copy of `count` values; undefined where there are none. */
  abstract logits(sequence: number, count: number): Float32Array | undefined;
  /** le_step, where stepsElsewhere. Rejects with anything but an EngineError if what computes is lost. */
  protected abstract stepElsewhere(
    entries: number,
    count: number,
    results: number,
  ): Promise<number>;
  /** Whether what a call threw means that the engine is lost. */
  protected abstract losesEngine(cause: unknown): boolean;
  /** Gives back what can be given back; called once the engine is closed or lost, maybe twice. */
  protected abstract release(): void;

  /** Whether a step is pending elsewhere; no other call may be made then. */
  get stepping(): boolean {
    return this.#stepping;
  }

  /** Ends the engine; no call may follow. */
  close(): void {
    this.#lost ??= "the engine is closed";
    this.release();
  }

  /** le_step beside this thread. Throws EngineError for a refusal, or if what computes is lost. */
  async step(entries: number, count: number, results: number): Promise<void> {
    const status = await this.later(() => this.stepElsewhere(entries, count, results));
    if (status < 0) throw this.lastError(status);
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
    return new Uint8Array(this.buffer, this.staging + offset, length);
  }

  /** Runs a call whose result means something in itself. */
  run<T>(call: (calls: Calls) => T): T {
    this.#checkCallable();
    try {
      return call(this.calls);
    } catch (cause) {
      if (!this.losesEngine(cause)) throw cause;
      this.#lose(cause);
    }
  }

  /** Runs a call that returns a Status or a non-negative number. Throws EngineError for a refusal. */
  check(call: (calls: Calls) => number): number {
    const result = this.run(call);
    if (result < 0) throw this.lastError(result);
    return result;
  }

  /** The error that the engine remembers, as `status`. */
  lastError(status: number): EngineError {
    const raw = readError(this.buffer, this.calls.le_error());
    const same = raw.status === status;
    return new EngineError(
      engineStatusName(status) ?? "deviceLost",
      same && raw.message !== "" ? raw.message : `engine status ${status}`,
      same ? raw.value : 0,
      same ? raw.bound : 0,
    );
  }

  /** Awaits a call that runs beside this thread; until then no other one may be made. */
  protected async later<T>(call: () => Promise<T>): Promise<T> {
    this.#checkCallable();
    this.#stepping = true;
    let result: T;
    try {
      result = await call();
    } catch (cause) {
      if (cause instanceof EngineError) throw cause;
      this.#lose(cause);
    } finally {
      this.#stepping = false;
    }
    // It may have been closed meanwhile.
    this.#checkCallable();
    return result;
  }

  #checkCallable(): void {
    if (this.#lost !== undefined) throw new EngineError("deviceLost", this.#lost);
    if (this.#stepping) throw new EngineError("wrongState", "a step is pending");
  }

  /** Nothing behind the boundary can be trusted any more. */
  #lose(cause: unknown): never {
    const reason = cause instanceof Error ? cause.message : String(cause);
    this.#lost ??= `the engine stopped: ${reason}; all sequences are lost`;
    this.release();
    throw new EngineError("deviceLost", this.#lost);
  }
}
