/** The boundary of an engine in a native library, called through the Node addon. */
import { stagingBytes, structBytes } from "../boundary/abi.js";
import { EngineBoundary } from "../boundary/engine-boundary.js";
import { EngineError } from "../status.js";
import { loadAddon, type AddonEngine, type NativePaths } from "./addon.js";

/** Where the staging buffer begins in the memory that both sides see; 0 is null. */
const stagingOffset = 64;
const errorOffset = stagingOffset + stagingBytes;
const memoryBytes = errorOffset + structBytes.ErrorDetail;

/** Rows of one matrix product that keep a GPU busy; its scratch takes about 70 KB a row at 8B parameters. */
export const deviceBatchRows = 2048;

/** Engines whose memory is on its way back: the next one waits for it. */
const closings = new Set<Promise<unknown>>();

/**
 * See the head of this file. Steps and weights run on a thread of the addon's, one call at a time. Nothing is
 * lost with an engine that is closed while one of them runs: it ends in the background.
 */
export class NativeBoundary extends EngineBoundary<AddonEngine> {
  readonly staging = stagingOffset;
  readonly stepsElsewhere = true;

  private constructor(
    readonly buffer: ArrayBuffer,
    protected readonly calls: AddonEngine,
    readonly memoryBytesMax: number,
  ) {
    super();
  }

  get backend(): number {
    return this.calls.backend;
  }

  /**
   * Loads a library for one engine, once all that were closed before have given back their memory.
   *
   * @param memoryBytesMax most bytes that the engine may take where it computes
   * @throws EngineError `unimplemented` for an addon or library that cannot be loaded, of another version for
   *   example, or without the libraries that it needs itself
   */
  static async open(paths: NativePaths, memoryBytesMax: number): Promise<NativeBoundary> {
    const addon = loadAddon(paths.addon);
    await Promise.all(closings);
    const memory = new ArrayBuffer(memoryBytes);
    try {
      const calls = await addon.open(paths.library, memory, errorOffset);
      return new NativeBoundary(memory, calls, memoryBytesMax);
    } catch (cause) {
      const reason = cause instanceof Error ? cause.message : String(cause);
      throw new EngineError(
        "unimplemented",
        `the engine ${paths.library} cannot be loaded: ${reason}`,
      );
    }
  }

  async createEngine(
    options: number,
    config: number,
    tensors: number,
    count: number,
  ): Promise<void> {
    await this.#settled(() => this.calls.createEngine(options, config, tensors, count));
  }

  async writeWeights(index: number, offset: number, bytes: Uint8Array): Promise<void> {
    await this.#settled(() => this.calls.writeWeights(index, BigInt(offset), bytes));
  }

  async startEngine(): Promise<void> {
    await this.#settled(() => this.calls.startEngine());
  }

  logits(sequence: number, count: number): Float32Array | undefined {
    const out = new Float32Array(count);
    return this.run((x) => x.logits(sequence, out)) ? out : undefined;
  }

  protected stepElsewhere(entries: number, count: number, results: number): Promise<number> {
    return this.calls.step(entries, count, results);
  }

  /** The library says deviceLost itself; what the addon throws is a caller's mistake. */
  protected losesEngine(): boolean {
    return false;
  }

  protected release(): void {
    const closing = this.calls.close();
    if (closing === undefined) return;
    closings.add(closing);
    // It never rejects.
    void closing.then(() => closings.delete(closing));
  }

  async #settled(call: () => Promise<number>): Promise<void> {
    const status = await this.later(call);
    if (status < 0) throw this.lastError(status);
  }
}
