/**
 * An engine for tests that computes nothing: the next token is a hash of the whole log and the
 * position, so a wrong log, a lost id or a repeated one changes every later token. Logs, cache bytes,
 * pages and refusals follow the rules of a real engine.
 */
import type {
  Engine,
  EngineStats,
  Sampling,
  SegmentKind,
  SequenceHandle,
  SequenceStats,
  StepEntry,
  StepResult,
} from "../../engine/engine.js";
import { EngineError } from "../../engine/status.js";

/** Bytes of one page of the model engine. */
export const modelPageBytes = 1024;
/** Bytes of a sequence before its first page. */
export const modelSequenceBytes = 2048;
/** Shape of its cache; what a worker says of its plans follows from it. */
export const modelGeometry = { layers: 4, kvHeads: 1, headDim: 2, dim: 2 } as const;
const pageSlots = 32;
const regionSlots = 64;

interface ModelSequence {
  segments: { kind: SegmentKind; ids: number[] }[];
  computed: number;
  bytes: number;
  seed: bigint;
  /** Work that did not make up a whole row yet. */
  workLeft: number;
}

/** What a model engine is made of. */
export interface ModelEngineOptions {
  readonly vocabSize?: number;
  readonly layers?: number;
  readonly contextTokensMax?: number;
  readonly sequencesMax?: number;
  readonly cacheBytes?: number;
  /** Called at the start of every step; may throw. */
  readonly onStep?: (entries: readonly StepEntry[]) => void;
}

/** See the head of this file. */
export class ModelEngine implements Engine {
  readonly backend = "reference";
  readonly vocabSize: number;
  readonly layers: number;
  readonly contextTokensMax: number;
  readonly sequencesMax: number;
  readonly snapshots = false;
  readonly plans = [
    {
      index: 0,
      name: "identity",
      fingerprint: "plan",
      sink: 16,
      recent: 16,
      pageBytes: modelPageBytes,
      sequenceBytes: modelSequenceBytes,
    },
  ];
  readonly #cacheBytes: number;
  readonly #onStep: (entries: readonly StepEntry[]) => void;
  readonly #sequences = new Map<SequenceHandle, ModelSequence>();
  #nextHandle = 0;
  #steps = 0;
  #rows = 0;

  constructor(options: ModelEngineOptions = {}) {
    this.vocabSize = options.vocabSize ?? 256;
    this.layers = options.layers ?? 4;
    this.contextTokensMax = options.contextTokensMax ?? 4096;
    this.sequencesMax = options.sequencesMax ?? 64;
    this.#cacheBytes = options.cacheBytes ?? 1 << 20;
    this.#onStep = options.onStep ?? ((): void => undefined);
  }

  createSequence(): SequenceHandle {
    if (this.#sequences.size >= this.sequencesMax) {
      throw new EngineError(
        "tooManySequences",
        `${this.#sequences.size} sequences, at most ${this.sequencesMax}`,
      );
    }
    const handle = this.#nextHandle++;
    this.#sequences.set(handle, { segments: [], computed: 0, bytes: 0, seed: 0n, workLeft: 0 });
    return handle;
  }

  freeSequence(sequence: SequenceHandle): void {
    this.#get(sequence);
    this.#sequences.delete(sequence);
  }

  append(sequence: SequenceHandle, kind: SegmentKind, ids: ArrayLike<number>): void {
    const held = this.#get(sequence);
    const list = Array.from(ids);
    const wrong = list.find((id) => id < 0 || id >= this.vocabSize);
    if (wrong !== undefined) throw new EngineError("invalidArgument", `id ${wrong}`);
    const tokens = length(held) + list.length;
    if (tokens > this.contextTokensMax) {
      throw new EngineError("contextFull", `${tokens} tokens, at most ${this.contextTokensMax}`);
    }
    const last = held.segments.at(-1);
    if (kind === "generated" && last?.kind === kind) last.ids.push(...list);
    else held.segments.push({ kind, ids: list });
  }

  truncate(sequence: SequenceHandle, tokens: number): void {
    const held = this.#get(sequence);
    let left = tokens;
    held.segments = held.segments.flatMap(({ kind, ids }) => {
      const kept = ids.slice(0, Math.max(0, left));
      left -= ids.length;
      return kept.length > 0 ? [{ kind, ids: kept }] : [];
    });
    held.computed = Math.min(held.computed, tokens);
    held.bytes = bytesOf(held.computed);
  }

  dropCache(sequence: SequenceHandle): void {
    const held = this.#get(sequence);
    held.computed = 0;
    held.bytes = 0;
  }

  fork(sequence: SequenceHandle, tokens: number): SequenceHandle {
    const source = this.#get(sequence);
    const copy = this.createSequence();
    this.#sequences.set(copy, structuredClone(source));
    this.truncate(copy, tokens);
    return copy;
  }

  setSampling(sequence: SequenceHandle, sampling: Sampling): void {
    this.#get(sequence).seed = sampling.seed;
  }

  ids(sequence: SequenceHandle, begin: number, end: number): Uint32Array {
    return Uint32Array.from(flat(this.#get(sequence)).slice(begin, end));
  }

  sequenceStats(sequence: SequenceHandle): SequenceStats {
    const held = this.#get(sequence);
    return {
      tokens: length(held),
      computed: held.computed,
      segments: held.segments.length,
      pages: 0,
      cacheBytes: held.bytes,
    };
  }

  sequenceCacheBytes(_plan: number, tokens: number): number {
    return bytesOf(tokens);
  }

  step(entries: readonly StepEntry[]): Promise<readonly StepResult[]> {
    return Promise.resolve(this.stepSync(entries));
  }

  readonly stepSync = (entries: readonly StepEntry[]): readonly StepResult[] => {
    this.#steps++;
    this.#onStep(entries);
    return entries.map((entry) => this.#advance(entry));
  };

  logits(): Float32Array {
    throw new EngineError("unimplemented", "the model engine has no logits");
  }

  snapshot(): Uint8Array {
    throw noSnapshots();
  }

  restore(): SequenceHandle {
    throw noSnapshots();
  }

  snapshotBytes(): number {
    throw noSnapshots();
  }

  snapshotPiece(): Uint8Array<ArrayBuffer> {
    throw noSnapshots();
  }

  beginRestore(): SequenceHandle {
    throw noSnapshots();
  }

  writeRestore(): void {
    throw noSnapshots();
  }

  stats(): EngineStats {
    return {
      memoryBytes: this.#used(),
      memoryBytesMax: this.#cacheBytes,
      weightBytes: 0,
      scratchBytes: 0,
      cacheBytes: this.#cacheBytes,
      cacheBytesFree: this.#cacheBytes - this.#used(),
      steps: this.#steps,
      rows: this.#rows,
      allocations: 0,
      weightBytesPerRow: 0,
      cacheBytesPeak: this.#used(),
    };
  }

  close(): void {
    this.#sequences.clear();
  }

  /** Token that a log leads to: what the tests expect after it. */
  static nextToken(ids: readonly number[], seed: bigint, vocabSize: number): number {
    let hash = 0x811c9dc5 ^ Number(seed & 0xffffffffn);
    for (const id of ids) hash = Math.imul(hash ^ id, 0x01000193);
    hash ^= hash >>> 15;
    return (Math.imul(hash, 0x2c1b3c6d) >>> 8) % vocabSize;
  }

  #advance(entry: StepEntry): StepResult {
    const held = this.#get(entry.sequence);
    const tokens = length(held);
    const work = held.workLeft + entry.workMax;
    const rows = Math.min(tokens - held.computed, Math.floor(work / this.layers));
    held.workLeft = work % this.layers;
    const bytes = bytesOf(held.computed + rows);
    const none = { token: undefined, logprob: 0, rowsPending: tokens - held.computed, workDone: 0 };
    if (this.#used() - held.bytes + bytes > this.#cacheBytes) {
      const error = new EngineError("outOfPages", `${bytes} bytes of cache`);
      return { ...none, error };
    }
    held.computed += rows;
    held.bytes = bytes;
    this.#rows += rows;
    const workDone = rows * this.layers;
    if (held.computed < tokens || !entry.sample) {
      return { ...none, rowsPending: tokens - held.computed, workDone, error: undefined };
    }
    if (tokens >= this.contextTokensMax) {
      return { ...none, workDone, error: new EngineError("contextFull", `${tokens} tokens`) };
    }
    const token = ModelEngine.nextToken(flat(held), held.seed, this.vocabSize);
    this.append(entry.sequence, "generated", [token]);
    return { token, logprob: -1, rowsPending: 1, workDone, error: undefined };
  }

  #used(): number {
    return [...this.#sequences.values()].reduce((sum, held) => sum + held.bytes, 0);
  }

  #get(sequence: SequenceHandle): ModelSequence {
    const held = this.#sequences.get(sequence);
    if (held === undefined) throw new EngineError("invalidArgument", `no sequence ${sequence}`);
    return held;
  }
}

function noSnapshots(): EngineError {
  return new EngineError("unimplemented", "the model engine has no snapshots");
}

function flat(held: ModelSequence): number[] {
  return held.segments.flatMap((segment) => segment.ids);
}

function length(held: ModelSequence): number {
  return held.segments.reduce((sum, segment) => sum + segment.ids.length, 0);
}

function bytesOf(tokens: number): number {
  if (tokens === 0) return 0;
  const pages = Math.max(0, Math.ceil((tokens - regionSlots) / pageSlots));
  return modelSequenceBytes + pages * modelPageBytes;
}
