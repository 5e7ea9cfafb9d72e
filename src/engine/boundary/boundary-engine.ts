/** An engine behind its boundary: what engine.ts promises, over whatever computes. */
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
  type EngineLimits,
  type RawStepResult,
  type WeightForm,
} from "./abi.js";
import type { EngineBoundary } from "./engine-boundary.js";
import { streamWeights, type StreamOptions } from "./stream-weights.js";

/** Sequences of an engine where the host sets none. */
export const sequencesDefault = 16;
/** Rows of one matrix product where the host sets none: what amortises reading the weights. */
export const batchRowsDefault = 64;
/** Most ids of one prompt segment: they pass through the staging buffer in one piece. */
export const appendIdsMax = stagingBytes / 4;

const backends: ReadonlyMap<number, BackendName> = new Map([
  [1, "reference"],
  [2, "wasm"],
  [3, "cuda"],
]);

const segmentKinds: Readonly<Record<SegmentKind, number>> = { prompt: 1, generated: 2 };

/** What an engine needs to know of a model file. */
export type ModelDescription = Pick<ModelFile, "config" | "tensors">;

/** What every engine is made of, whatever computes. */
export interface EngineLoadOptions {
  /** What readModelFile found in the file; its token table is not needed. */
  readonly modelFile: ModelDescription;
  /** Where the weights come from: the file that `modelFile` was read from. */
  readonly source: ModelSource;
  /** 1 .. 1,024; default 16. */
  readonly sequencesMax?: number;
  /** Rows of one matrix product, 1 .. 4,096; sizes the scratch. Default 64. */
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
   * How a device holds matrices: as the file has them (default), or those of F32, F16 and BF16 as FP8 with
   * a scale a row. Engines on a CPU know the first only.
   */
  readonly weights?: WeightForm;
}

/** See the head of this file. */
export class BoundaryEngine implements Engine {
  readonly vocabSize: number;
  readonly layers: number;
  readonly snapshots = true;
  readonly stepSync: Engine["stepSync"];
  /** As before the pending step. */
  #statsBefore: EngineStats | undefined;
  /** Undefined once closed, so that its memory can go. */
  #boundary: EngineBoundary | undefined;
  /** Values that a layer's observation has. */
  readonly #sums: { readonly kvValues: number; readonly qValues: number };

  private constructor(
    boundary: EngineBoundary,
    readonly backend: BackendName,
    modelFile: ModelDescription,
    readonly contextTokensMax: number,
    readonly sequencesMax: number,
    readonly plans: readonly EnginePlan[],
  ) {
    this.#boundary = boundary;
    this.vocabSize = modelFile.config.vocabSize;
    this.layers = modelFile.config.layers;
    const { heads, kvHeads, headDim } = modelFile.config;
    this.#sums = { kvValues: kvHeads * headDim, qValues: heads * headDim };
    this.stepSync = boundary.stepsElsewhere ? undefined : (entries) => this.#step(entries);
  }

  /**
   * Creates an engine behind a fresh boundary and streams the weights in; they are never in memory twice.
   * The boundary is the engine's from here on, and closed if this fails.
   *
   * @throws EngineError if the model or a plan does not fit; ModelFileError if the source fails
   */
  static async load(boundary: EngineBoundary, options: EngineLoadOptions): Promise<BoundaryEngine> {
    try {
      return await BoundaryEngine.#loadInto(boundary, options);
    } catch (error) {
      boundary.close();
      throw error;
    }
  }

  static async #loadInto(
    boundary: EngineBoundary,
    options: EngineLoadOptions,
  ): Promise<BoundaryEngine> {
    const { modelFile } = options;
    const backend = backends.get(boundary.backend);
    if (backend === undefined) {
      throw new EngineError(
        "invalidArgument",
        `what computes is of backend ${boundary.backend}, must be 1 to 3`,
        boundary.backend,
        3,
      );
    }
    const limits = {
      memoryBytesMax: boundary.memoryBytesMax,
      sequencesMax: options.sequencesMax ?? sequencesDefault,
      batchRowsMax: options.batchRowsMax ?? batchRowsDefault,
      contextTokensMax: options.contextTokensMax ?? modelFile.config.contextTokensMax,
      weights: options.weights ?? "file",
    };
    await createEngine(boundary, modelFile, limits);
    await streamWeights(
      options.source,
      modelFile.tensors,
      (index, offset, bytes) => boundary.writeWeights(index, offset, bytes),
      options.stream,
    );
    const { layers, kvHeads, headDim } = modelFile.config;
    const identity = identityPlan(
      { layers, kvHeads, headDim },
      { sink: options.sink ?? defaultSink, recent: options.recent ?? defaultRecent },
    );
    const added = [{ plan: identity, index: addPlan(boundary, undefined, identity) }];
    for (const plan of options.plans ?? []) {
      added.push({ plan, index: addPlan(boundary, plan, plan) });
    }
    await boundary.startEngine();
    const plans = await Promise.all(
      added.map(async ({ plan, index }) => ({
        index,
        name: plan.name,
        fingerprint: await planFingerprint(plan),
        sink: plan.sink,
        recent: plan.recent,
        pageBytes: pageLayout(plan).pageBytes,
        sequenceBytes: Number(boundary.run((x) => x.le_plan_sequence_bytes(index, 1))),
      })),
    );
    return new BoundaryEngine(
      boundary,
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
    if (kind === "prompt" || ids.length <= appendIdsMax) {
      this.#append(sequence, kind, ids, 0, ids.length);
      return;
    }
    // Generated ids continue a generated segment, so a long answer can come in pieces.
    const { tokens } = this.sequenceStats(sequence);
    try {
      for (let at = 0; at < ids.length; at += appendIdsMax) {
        this.#append(sequence, kind, ids, at, Math.min(appendIdsMax, ids.length - at));
      }
    } catch (error) {
      this.truncate(sequence, tokens);
      throw error;
    }
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
    const boundary = this.#open();
    writeSampling(boundary.buffer, boundary.staging, sampling);
    boundary.check((x) => x.le_sequence_sampling(sequence, boundary.staging));
  }

  ids(sequence: SequenceHandle, begin: number, end: number): Uint32Array {
    const boundary = this.#open();
    const out = new Uint32Array(Math.max(0, end - begin));
    for (let at = 0; at < out.length; at += appendIdsMax) {
      const count = Math.min(appendIdsMax, out.length - at);
      boundary.check((x) => x.le_sequence_ids(sequence, begin + at, count, boundary.staging));
      out.set(new Uint32Array(boundary.buffer, boundary.staging, count), at);
    }
    return out;
  }

  sequenceStats(sequence: SequenceHandle): SequenceStats {
    const boundary = this.#open();
    boundary.check((x) => x.le_sequence_stats(sequence, boundary.staging));
    return readSequenceStats(boundary.buffer, boundary.staging);
  }

  sequenceCacheBytes(plan: number, tokens: number): number {
    return Number(this.#open().run((x) => x.le_plan_sequence_bytes(plan, tokens)));
  }

  step(entries: readonly StepEntry[]): Promise<readonly StepResult[]> {
    if (this.#boundary?.stepsElsewhere === true) return this.#stepElsewhere(entries);
    // A throw inside the executor rejects, as callers of an asynchronous step expect.
    return new Promise((resolve) => {
      resolve(this.#step(entries));
    });
  }

  logits(sequence: SequenceHandle): Float32Array {
    const boundary = this.#open();
    const logits = boundary.logits(sequence, this.vocabSize);
    if (logits === undefined) {
      throw new EngineError(
        "wrongState",
        `sequence ${sequence} has no logits: its last row was not computed in its latest sampling step`,
        sequence,
      );
    }
    return logits;
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
    const boundary = this.#open();
    const bytes = Number(boundary.run((x) => x.le_snapshot_bytes(sequence)));
    if (bytes === 0) throw boundary.lastError(engineStatus.wrongState);
    return bytes;
  }

  snapshotPiece(sequence: SequenceHandle, offset: number, bytes: number): Uint8Array<ArrayBuffer> {
    const boundary = this.#open();
    const out = new Uint8Array(bytes);
    for (let at = 0; at < bytes; at += stagingBytes) {
      const count = Math.min(stagingBytes, bytes - at);
      boundary.check((x) =>
        x.le_snapshot_read(sequence, BigInt(offset + at), boundary.staging, count),
      );
      out.set(boundary.stagingView(count), at);
    }
    return out;
  }

  beginRestore(plan: number, bytes: number): SequenceHandle {
    return this.#open().check((x) => x.le_snapshot_begin(plan, BigInt(bytes)));
  }

  writeRestore(sequence: SequenceHandle, offset: number, piece: Uint8Array): void {
    const boundary = this.#open();
    for (let at = 0; at < piece.length; at += stagingBytes) {
      const part = piece.subarray(at, at + stagingBytes);
      boundary.stagingView(part.length).set(part);
      boundary.check((x) =>
        x.le_snapshot_write(sequence, BigInt(offset + at), boundary.staging, part.length),
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
    const boundary = this.#open();
    const { kvValues, qValues } = this.#sums;
    return Array.from({ length: this.layers }, (_, layer) => {
      boundary.check((x) => x.le_observed(layer, boundary.staging));
      const sums = new Float64Array(boundary.buffer, boundary.staging, kvValues + qValues).slice();
      return { k: sums.subarray(0, kvValues), q: sums.subarray(kvValues) };
    });
  }

  stats(): EngineStats {
    const boundary = this.#open();
    if (boundary.stepping && this.#statsBefore !== undefined) return this.#statsBefore;
    boundary.check((x) => x.le_engine_stats(boundary.staging));
    return readEngineStats(boundary.buffer, boundary.staging);
  }

  close(): void {
    this.#boundary?.close();
    this.#boundary = undefined;
  }

  /** Appends `count` ids from `from` on. */
  #append(
    sequence: SequenceHandle,
    kind: SegmentKind,
    ids: ArrayLike<number>,
    from: number,
    count: number,
  ): void {
    const boundary = this.#open();
    if (count > appendIdsMax) {
      throw new EngineError(
        "invalidArgument",
        `${count} ids in one segment, at most ${appendIdsMax}`,
        count,
        appendIdsMax,
      );
    }
    const view = new DataView(boundary.buffer, boundary.staging, count * 4);
    for (let i = 0; i < count; i++) {
      const id = ids[from + i] ?? -1;
      // What is no 32-bit integer must not become a valid id by wrapping.
      view.setInt32(i * 4, (id | 0) === id ? id : -1, true);
    }
    boundary.check((x) =>
      x.le_sequence_append(sequence, segmentKinds[kind], boundary.staging, count),
    );
  }

  #open(): EngineBoundary {
    if (this.#boundary === undefined) throw new EngineError("wrongState", "the engine is closed");
    return this.#boundary;
  }

  #step(entries: readonly StepEntry[]): readonly StepResult[] {
    const boundary = this.#open();
    const results = writeStep(boundary, entries);
    boundary.check((x) => x.le_step(boundary.staging, entries.length, results));
    return readResults(boundary, entries, results);
  }

  async #stepElsewhere(entries: readonly StepEntry[]): Promise<readonly StepResult[]> {
    const boundary = this.#open();
    // Before the entries: both pass through the staging buffer.
    this.#statsBefore = this.stats();
    const results = writeStep(boundary, entries);
    await boundary.step(boundary.staging, entries.length, results);
    return readResults(boundary, entries, results);
  }
}

/** Writes the entries of a step where the staging buffer begins. Returns the address for its results. */
function writeStep(boundary: EngineBoundary, entries: readonly StepEntry[]): number {
  if (entries.length > stepEntriesMax) {
    throw new EngineError(
      "invalidArgument",
      `${entries.length} entries in one step, at most ${stepEntriesMax}`,
      entries.length,
      stepEntriesMax,
    );
  }
  entries.forEach((entry, i) => {
    writeStepEntry(boundary.buffer, boundary.staging + i * structBytes.StepEntry, entry);
  });
  return boundary.staging + stepEntriesMax * structBytes.StepEntry;
}

function readResults(
  boundary: EngineBoundary,
  entries: readonly StepEntry[],
  results: number,
): readonly StepResult[] {
  const raw = entries.map((_, i) =>
    readStepResult(boundary.buffer, results + i * structBytes.StepResult),
  );
  return raw.map((result, i) => ({
    token: result.token < 0 ? undefined : result.token,
    logprob: result.logprob,
    rowsPending: result.rowsPending,
    workDone: result.workDone,
    error: entryError(boundary, raw, i, entries[i]?.sequence ?? -1),
  }));
}

/** The error of entry `index`, if it has one. The engine remembers the message of the last only. */
function entryError(
  boundary: EngineBoundary,
  results: readonly RawStepResult[],
  index: number,
  sequence: SequenceHandle,
): EngineError | undefined {
  const status = results[index]?.status ?? 0;
  if (status === 0) return undefined;
  if (results.filter((result) => result.status !== 0).length === 1) {
    return boundary.lastError(status);
  }
  const name = engineStatusName(status) ?? "deviceLost";
  return new EngineError(name, `entry ${index}, sequence ${sequence}: ${name}`, sequence);
}

/** Lays out memory for the model. */
async function createEngine(
  boundary: EngineBoundary,
  modelFile: ModelDescription,
  limits: EngineLimits,
): Promise<void> {
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
  const { buffer, staging } = boundary;
  // Throws if the table is longer than the buffer.
  boundary.stagingView(tensors + modelFile.tensors.length * structBytes.TensorDesc);
  writeOptions(buffer, staging, limits);
  writeConfig(buffer, staging + config, modelFile.config);
  modelFile.tensors.forEach((tensor, i) => {
    writeTensor(buffer, staging + tensors + i * structBytes.TensorDesc, tensor);
  });
  await boundary.createEngine(
    staging,
    staging + config,
    staging + tensors,
    modelFile.tensors.length,
  );
}

/** Adds a plan; `block` is undefined for the identity plan, which must come first. Returns its index. */
function addPlan(boundary: EngineBoundary, block: CachePlan | undefined, plan: CachePlan): number {
  if (block === undefined) {
    return boundary.check((x) => x.le_plan_add(0, plan.sink, plan.recent));
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
  boundary.stagingView(bytes.length).set(bytes);
  return boundary.check((x) => x.le_plan_add(boundary.staging, plan.sink, plan.recent));
}
