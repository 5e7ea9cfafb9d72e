/** An engine in WebAssembly, on the calling thread and, with a threaded module, on helpers of it. */
import type {
  Engine,
  EnginePlan,
  EngineStats,
  BackendName,
  Sampling,
  SegmentKind,
  SequenceHandle,
  SequenceStats,
  StepEntry,
  StepResult,
} from "../engine.js";
import type { ModelFile } from "../gguf/model-file.js";
import type { ModelSource } from "../gguf/source.js";
import { planBlock, planBlockBytes } from "../plan/binary.js";
import { planFingerprint } from "../plan/fingerprint.js";
import { defaultRecent, defaultSink, identityPlan, type CachePlan } from "../plan/plan.js";
import type { ChannelSums } from "../plan/think.js";
import { pageLayout } from "../page/layout.js";
import { engineStatus, EngineError, engineStatusName } from "../status.js";
import {
  readEngineStats,
  readSequenceStats,
  readStepResult,
  sequencesMax,
  stagingBytes,
  stepEntriesMax,
  structBytes,
  writeConfig,
  writeOptions,
  writeSampling,
  writeStepEntry,
  writeTensor,
  type RawStepResult,
} from "./abi.js";
import { WasmInstance } from "./instance.js";
import { streamWeights, type StreamOptions } from "./stream-weights.js";

/** Memory of an engine where the host sets none: what fits a Workers isolate of 128 MB. */
export const memoryBytesDefault = 88 * 1024 * 1024;
/** Sequences of an engine where the host sets none. */
export const sequencesDefault = 16;
/** Rows of one matrix product where the host sets none: what amortises reading the weights. */
export const batchRowsDefault = 64;
/** Most ids of one append or segment: they pass through the staging buffer in one piece. */
export const appendIdsMax = stagingBytes / 4;

const backends: ReadonlyMap<number, BackendName> = new Map([
  [1, "reference"],
  [2, "wasm"],
]);

const segmentKinds: Readonly<Record<SegmentKind, number>> = { prompt: 1, generated: 2 };

/** What an engine needs to know of a model file. */
export type ModelDescription = Pick<ModelFile, "config" | "tensors">;

/** What an engine is made of. */
export interface WasmEngineOptions {
  /** A module of wasm/prebuilt, compiled. */
  readonly module: WebAssembly.Module;
  /** What readModelFile found in the file; its token table is not needed. */
  readonly modelFile: ModelDescription;
  /** Where the weights come from: the file that `modelFile` was read from. */
  readonly source: ModelSource;
  /** All memory: statics, weights, cache, scratch. Default 88 MiB. */
  readonly memoryBytesMax?: number;
  /** 1 .. 1,024; default 16. */
  readonly sequencesMax?: number;
  /** Rows of one matrix product, 1 .. 1,024; sizes the scratch. Default 64. */
  readonly batchRowsMax?: number;
  /** Longest log of a sequence; default and maximum: the model's window. */
  readonly contextTokensMax?: number;
  /** Rows of the identity plan's sink zone; default 16. */
  readonly sink?: number;
  /** Least rows of the identity plan's recent zone; default 112. */
  readonly recent?: number;
  /** Plans besides the identity plan, at most 7. */
  readonly plans?: readonly CachePlan[];
  /** How the weights are read. */
  readonly stream?: StreamOptions;
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

/** See the head of this file. */
export class WasmEngine implements Engine {
  readonly vocabSize: number;
  readonly layers: number;
  readonly snapshots = true;
  readonly stepSync: Engine["stepSync"];
  /** As before the pending step. */
  #statsBefore: EngineStats | undefined;
  /** Undefined once closed, so that its memory can go. */
  #instance: WasmInstance | undefined;
  /** Values that a layer's observation has. */
  readonly #sums: { readonly kvValues: number; readonly qValues: number };

  private constructor(
    instance: WasmInstance,
    readonly backend: BackendName,
    modelFile: ModelDescription,
    readonly contextTokensMax: number,
    readonly sequencesMax: number,
    readonly plans: readonly EnginePlan[],
  ) {
    this.#instance = instance;
    this.vocabSize = modelFile.config.vocabSize;
    this.layers = modelFile.config.layers;
    const { heads, kvHeads, headDim } = modelFile.config;
    this.#sums = { kvValues: kvHeads * headDim, qValues: heads * headDim };
    this.stepSync = instance.hasStepThread ? undefined : (entries) => this.#step(entries);
  }

  /**
   * Creates an engine and streams the weights in; they are never in memory twice.
   *
   * @throws EngineError if the model or a plan does not fit; ModelFileError if the source fails
   */
  static async load(options: WasmEngineOptions): Promise<WasmEngine> {
    const instance = await WasmInstance.create(
      options.module,
      options.memoryBytesMax ?? memoryBytesDefault,
      options.threads,
      options.stepThread,
    );
    try {
      return await WasmEngine.#loadInto(instance, options);
    } catch (error) {
      instance.close();
      throw error;
    }
  }

  static async #loadInto(instance: WasmInstance, options: WasmEngineOptions): Promise<WasmEngine> {
    const { modelFile } = options;
    const backend = backends.get(instance.backend);
    if (backend === undefined) {
      throw new EngineError(
        "invalidArgument",
        `module is of backend ${instance.backend}, must be 1 or 2`,
        instance.backend,
        2,
      );
    }
    const limits = {
      memoryBytesMax: instance.memoryBytesMax,
      sequencesMax: options.sequencesMax ?? sequencesDefault,
      batchRowsMax: options.batchRowsMax ?? batchRowsDefault,
      contextTokensMax: options.contextTokensMax ?? modelFile.config.contextTokensMax,
    };
    createEngine(instance, modelFile, limits);
    await streamWeights(
      options.source,
      modelFile.tensors,
      (index, offset, bytes) => {
        writeWeights(instance, index, offset, bytes);
      },
      options.stream,
    );
    const { layers, kvHeads, headDim } = modelFile.config;
    const identity = identityPlan(
      { layers, kvHeads, headDim },
      { sink: options.sink ?? defaultSink, recent: options.recent ?? defaultRecent },
    );
    const added = [{ plan: identity, index: addPlan(instance, undefined, identity) }];
    for (const plan of options.plans ?? []) {
      added.push({ plan, index: addPlan(instance, plan, plan) });
    }
    instance.check((x) => x.le_engine_start());
    const plans = await Promise.all(
      added.map(async ({ plan, index }) => ({
        index,
        name: plan.name,
        fingerprint: await planFingerprint(plan),
        sink: plan.sink,
        recent: plan.recent,
        pageBytes: pageLayout(plan).pageBytes,
        sequenceBytes: Number(instance.run((x) => x.le_plan_sequence_bytes(index, 1))),
      })),
    );
    return new WasmEngine(
      instance,
      backend,
      modelFile,
      limits.contextTokensMax,
      limits.sequencesMax,
      plans,
    );
  }

  createSequence(plan = 0): SequenceHandle {
    return this.#open().check((x) => x.le_sequence_create(plan));
  }

  freeSequence(sequence: SequenceHandle): void {
    this.#open().check((x) => x.le_sequence_free(sequence));
  }

  append(sequence: SequenceHandle, kind: SegmentKind, ids: ArrayLike<number>): void {
    const instance = this.#open();
    if (ids.length > appendIdsMax) {
      throw new EngineError(
        "invalidArgument",
        `${ids.length} ids in one segment, at most ${appendIdsMax}`,
        ids.length,
        appendIdsMax,
      );
    }
    const view = new DataView(instance.buffer, instance.staging, ids.length * 4);
    for (let i = 0; i < ids.length; i++) {
      const id = ids[i] ?? -1;
      // What is no 32-bit integer must not become a valid id by wrapping.
      view.setInt32(i * 4, (id | 0) === id ? id : -1, true);
    }
    instance.check((x) =>
      x.le_sequence_append(sequence, segmentKinds[kind], instance.staging, ids.length),
    );
  }

  truncate(sequence: SequenceHandle, tokens: number): void {
    this.#open().check((x) => x.le_sequence_truncate(sequence, tokens));
  }

  dropCache(sequence: SequenceHandle): void {
    this.#open().check((x) => x.le_sequence_drop_cache(sequence));
  }

  fork(sequence: SequenceHandle, tokens: number): SequenceHandle {
    return this.#open().check((x) => x.le_sequence_fork(sequence, tokens));
  }

  setSampling(sequence: SequenceHandle, sampling: Sampling): void {
    const instance = this.#open();
    writeSampling(instance.buffer, instance.staging, sampling);
    instance.check((x) => x.le_sequence_sampling(sequence, instance.staging));
  }

  ids(sequence: SequenceHandle, begin: number, end: number): Uint32Array {
    const instance = this.#open();
    const out = new Uint32Array(Math.max(0, end - begin));
    for (let at = 0; at < out.length; at += appendIdsMax) {
      const count = Math.min(appendIdsMax, out.length - at);
      instance.check((x) => x.le_sequence_ids(sequence, begin + at, count, instance.staging));
      out.set(new Uint32Array(instance.buffer, instance.staging, count), at);
    }
    return out;
  }

  sequenceStats(sequence: SequenceHandle): SequenceStats {
    const instance = this.#open();
    instance.check((x) => x.le_sequence_stats(sequence, instance.staging));
    return readSequenceStats(instance.buffer, instance.staging);
  }

  sequenceCacheBytes(plan: number, tokens: number): number {
    return Number(this.#open().run((x) => x.le_plan_sequence_bytes(plan, tokens)));
  }

  step(entries: readonly StepEntry[]): Promise<readonly StepResult[]> {
    if (this.#instance?.hasStepThread === true) return this.#stepElsewhere(entries);
    // A throw inside the executor rejects, as callers of an asynchronous step expect.
    return new Promise((resolve) => {
      resolve(this.#step(entries));
    });
  }

  logits(sequence: SequenceHandle): Float32Array {
    const instance = this.#open();
    const address = instance.run((x) => x.le_logits(sequence));
    if (address === 0) {
      throw new EngineError(
        "wrongState",
        `sequence ${sequence} has no logits: its last row was not computed in its latest sampling step`,
        sequence,
      );
    }
    return new Float32Array(instance.buffer, address, this.vocabSize).slice();
  }

  snapshot(sequence: SequenceHandle): Uint8Array {
    return this.snapshotPiece(sequence, 0, this.snapshotBytes(sequence));
  }

  restore(plan: number, snapshot: Uint8Array): SequenceHandle {
    const sequence = this.beginRestore(plan, snapshot.length);
    this.writeRestore(sequence, 0, snapshot);
    return sequence;
  }

  snapshotBytes(sequence: SequenceHandle): number {
    const instance = this.#open();
    const bytes = Number(instance.run((x) => x.le_snapshot_bytes(sequence)));
    if (bytes === 0) throw instance.lastError(engineStatus.wrongState);
    return bytes;
  }

  snapshotPiece(sequence: SequenceHandle, offset: number, bytes: number): Uint8Array<ArrayBuffer> {
    const instance = this.#open();
    const out = new Uint8Array(bytes);
    for (let at = 0; at < bytes; at += stagingBytes) {
      const count = Math.min(stagingBytes, bytes - at);
      instance.check((x) =>
        x.le_snapshot_read(sequence, BigInt(offset + at), instance.staging, count),
      );
      out.set(instance.stagingView(count), at);
    }
    return out;
  }

  beginRestore(plan: number, bytes: number): SequenceHandle {
    return this.#open().check((x) => x.le_snapshot_begin(plan, BigInt(bytes)));
  }

  writeRestore(sequence: SequenceHandle, offset: number, piece: Uint8Array): void {
    const instance = this.#open();
    for (let at = 0; at < piece.length; at += stagingBytes) {
      const part = piece.subarray(at, at + stagingBytes);
      instance.stagingView(part.length).set(part);
      instance.check((x) =>
        x.le_snapshot_write(sequence, BigInt(offset + at), instance.staging, part.length),
      );
    }
  }

  /**
   * Starts to add up squares of Q's and K's channels, after RoPE, over the rows of a sequence that are
   * computed from now on; Q's of rows from position `queryFrom` on. Ends an earlier observation;
   * undefined only ends it. For evaluations: src/engine/plan/think.ts.
   */
  observe(sequence: SequenceHandle | undefined, queryFrom = 0): void {
    this.#open().check((x) => x.le_observe(sequence ?? -1, queryFrom));
  }

  /** What was added up so far, per layer; K's sums are (kvHeads, headDim), Q's (heads, headDim). */
  observed(): ChannelSums[] {
    const instance = this.#open();
    const { kvValues, qValues } = this.#sums;
    return Array.from({ length: this.layers }, (_, layer) => {
      instance.check((x) => x.le_observed(layer, instance.staging));
      const sums = new Float64Array(instance.buffer, instance.staging, kvValues + qValues).slice();
      return { k: sums.subarray(0, kvValues), q: sums.subarray(kvValues) };
    });
  }

  stats(): EngineStats {
    const instance = this.#open();
    if (instance.stepping && this.#statsBefore !== undefined) return this.#statsBefore;
    instance.check((x) => x.le_engine_stats(instance.staging));
    return readEngineStats(instance.buffer, instance.staging);
  }

  close(): void {
    this.#instance?.close();
    this.#instance = undefined;
  }

  #open(): WasmInstance {
    if (this.#instance === undefined) throw new EngineError("wrongState", "the engine is closed");
    return this.#instance;
  }

  #step(entries: readonly StepEntry[]): readonly StepResult[] {
    const instance = this.#open();
    const results = writeStep(instance, entries);
    instance.check((x) => x.le_step(instance.staging, entries.length, results));
    return readResults(instance, entries, results);
  }

  async #stepElsewhere(entries: readonly StepEntry[]): Promise<readonly StepResult[]> {
    const instance = this.#open();
    // Before the entries: both pass through the staging buffer.
    this.#statsBefore = this.stats();
    const results = writeStep(instance, entries);
    await instance.step(instance.staging, entries.length, results);
    return readResults(instance, entries, results);
  }
}

/** Writes the entries of a step where the staging buffer begins. Returns the address for its results. */
function writeStep(instance: WasmInstance, entries: readonly StepEntry[]): number {
  if (entries.length > stepEntriesMax) {
    throw new EngineError(
      "invalidArgument",
      `${entries.length} entries in one step, at most ${stepEntriesMax}`,
      entries.length,
      stepEntriesMax,
    );
  }
  entries.forEach((entry, i) => {
    writeStepEntry(instance.buffer, instance.staging + i * structBytes.StepEntry, entry);
  });
  return instance.staging + stepEntriesMax * structBytes.StepEntry;
}

function readResults(
  instance: WasmInstance,
  entries: readonly StepEntry[],
  results: number,
): readonly StepResult[] {
  const raw = entries.map((_, i) =>
    readStepResult(instance.buffer, results + i * structBytes.StepResult),
  );
  return raw.map((result, i) => ({
    token: result.token < 0 ? undefined : result.token,
    logprob: result.logprob,
    rowsPending: result.rowsPending,
    workDone: result.workDone,
    error: entryError(instance, raw, i, entries[i]?.sequence ?? -1),
  }));
}

/** The error of entry `index`, if it has one. The engine remembers the message of the last only. */
function entryError(
  instance: WasmInstance,
  results: readonly RawStepResult[],
  index: number,
  sequence: SequenceHandle,
): EngineError | undefined {
  const status = results[index]?.status ?? 0;
  if (status === 0) return undefined;
  if (results.filter((result) => result.status !== 0).length === 1) {
    return instance.lastError(status);
  }
  const name = engineStatusName(status) ?? "deviceLost";
  return new EngineError(name, `entry ${index}, sequence ${sequence}: ${name}`, sequence);
}

/** Lays out memory for the model. */
function createEngine(
  instance: WasmInstance,
  modelFile: ModelDescription,
  limits: Parameters<typeof writeOptions>[2],
): void {
  if (!(limits.sequencesMax >= 1 && limits.sequencesMax <= sequencesMax)) {
    throw new EngineError(
      "invalidArgument",
      `sequencesMax is ${limits.sequencesMax}, must be 1 .. ${sequencesMax}`,
      limits.sequencesMax,
      sequencesMax,
    );
  }
  const config = structBytes.EngineOptions;
  const tensors = config + structBytes.ModelConfig;
  const { buffer, staging } = instance;
  // Throws if the table is longer than the buffer.
  instance.stagingView(tensors + modelFile.tensors.length * structBytes.TensorDesc);
  writeOptions(buffer, staging, limits);
  writeConfig(buffer, staging + config, modelFile.config);
  modelFile.tensors.forEach((tensor, i) => {
    writeTensor(buffer, staging + tensors + i * structBytes.TensorDesc, tensor);
  });
  instance.check((x) =>
    x.le_engine_create(staging, staging + config, staging + tensors, modelFile.tensors.length),
  );
}

/** Sends bytes of a tensor down, through the staging buffer. */
function writeWeights(
  instance: WasmInstance,
  index: number,
  offset: number,
  bytes: Uint8Array,
): void {
  for (let at = 0; at < bytes.length; at += stagingBytes) {
    const piece = bytes.subarray(at, at + stagingBytes);
    instance.stagingView(piece.length).set(piece);
    instance.check((x) =>
      x.le_weights_write(index, BigInt(offset + at), instance.staging, piece.length),
    );
  }
}

/** Adds a plan; `block` is undefined for the identity plan, which must come first. Returns its index. */
function addPlan(instance: WasmInstance, block: CachePlan | undefined, plan: CachePlan): number {
  if (block === undefined) {
    return instance.check((x) => x.le_plan_add(0, plan.sink, plan.recent));
  }
  const size = planBlockBytes(block);
  if (size > stagingBytes) {
    throw new EngineError(
      "invalidPlan",
      `plan ${block.name} takes ${size} bytes as a block, at most ${stagingBytes}`,
      size,
      stagingBytes,
    );
  }
  const bytes = planBlock(block);
  instance.stagingView(bytes.length).set(bytes);
  return instance.check((x) => x.le_plan_add(instance.staging, plan.sink, plan.recent));
}
