/**
 * The TypeScript face of an engine: model, kernels and cache memory on one device. Policy above
 * it (scheduling, sessions, text) works with this interface only; the WASM module, its threaded
 * variant and the native CUDA addon implement it. It mirrors engine/include/leanedge/engine.h.
 *
 * All calls are synchronous but for `step`: a device backend must not block the event loop while it
 * computes. Calls throw EngineError. While a step is pending, only `stats` may be called.
 */
import type { EngineError } from "./status.js";

/** What runs the model; values as in leanedge.v1.Backend. */
export type BackendName = "reference" | "wasm" | "cuda";

/** Where the ids of a segment came from; decides what their rows may attend to (sequence.h). */
export type SegmentKind = "prompt" | "generated";

/** A run of ids of one kind in a sequence's log. */
export interface LogSegment {
  readonly kind: SegmentKind;
  /** Token ids, each in 0 .. vocabSize - 1. */
  readonly ids: readonly number[];
}

/** Handle of a sequence in its engine: a small non-negative integer, reused after `freeSequence`. */
export type SequenceHandle = number;

/** How tokens are drawn; ranges as in leanedge.v1.SamplingParams, all resolved. */
export interface Sampling {
  /** 0 .. 2; 0 is greedy, ties to the lowest id. */
  readonly temperature: number;
  /** 0 .. 1,000; 0 keeps all. */
  readonly topK: number;
  /** Above 0 .. 1; 1 keeps all. */
  readonly topP: number;
  /** 0 .. 1; 0 drops none. */
  readonly minP: number;
  /** Above 0 .. 2; 1 has no effect. */
  readonly repetitionPenalty: number;
  /** Tokens that the penalty looks back on, 1 .. 4,096. */
  readonly repetitionWindow: number;
  /** Any 64-bit value; noise is keyed by (seed, position). */
  readonly seed: bigint;
}

/** The likeliest token, always: no draw, so no seed that matters. */
export const greedySampling: Sampling = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  repetitionWindow: 64,
  seed: 1n,
};

/** One piece of a step. */
export interface StepEntry {
  readonly sequence: SequenceHandle;
  /** Most rows x layers to compute for this sequence in this step, at least 1. */
  readonly workMax: number;
  /** Draw a token, and append it to the log, once the log's last row is computed. */
  readonly sample: boolean;
}

/** What became of one piece of a step. */
export interface StepResult {
  /** The drawn token, already appended to the log as generated; undefined if none was drawn. */
  readonly token: number | undefined;
  /** Natural log of the token's probability before temperature; 0 without a token. */
  readonly logprob: number;
  /** Log rows without K and V, the drawn token included. */
  readonly rowsPending: number;
  /** Rows x layers computed. */
  readonly workDone: number;
  /** This entry failed; its log and cache are as before, but for rows already computed. */
  readonly error: EngineError | undefined;
}

/** Numbers of one sequence. */
export interface SequenceStats {
  /** Length of the log. */
  readonly tokens: number;
  /** Rows whose K and V are in the cache. */
  readonly computed: number;
  readonly segments: number;
  /** Archive pages held. */
  readonly pages: number;
  /** Bytes of cache held: sink and recent regions, and pages. */
  readonly cacheBytes: number;
}

/** Numbers of an engine. */
export interface EngineStats {
  readonly memoryBytes: number;
  readonly memoryBytesMax: number;
  readonly weightBytes: number;
  readonly scratchBytes: number;
  /** Cache memory in all, free or not. */
  readonly cacheBytes: number;
  readonly cacheBytesFree: number;
  /** Calls of `step` so far. */
  readonly steps: number;
  /** Rows computed so far. */
  readonly rows: number;
  /** Allocations since start; stays 0. */
  readonly allocations: number;
  /** Bytes of weights that one decoded row reads. */
  readonly weightBytesPerRow: number;
  /** Most bytes of the cache that were in use at once so far. */
  readonly cacheBytesPeak: number;
}

/** A plan as an engine holds it. */
export interface EnginePlan {
  /** Index in the engine; 0 is the identity plan. */
  readonly index: number;
  readonly name: string;
  /** SHA-256 of the plan's canonical form, lower-case hexadecimal. */
  readonly fingerprint: string;
  /** Rows of the sink zone. */
  readonly sink: number;
  /** Least rows of the recent zone, once a sequence is long enough. */
  readonly recent: number;
  /** Bytes of one page, all layers together. */
  readonly pageBytes: number;
  /** Bytes of a sequence before its first page. */
  readonly sequenceBytes: number;
}

/** One engine. */
export interface Engine {
  readonly backend: BackendName;
  readonly vocabSize: number;
  readonly layers: number;
  /** Longest log of a sequence, in tokens. */
  readonly contextTokensMax: number;
  /** Most sequences at once. */
  readonly sequencesMax: number;
  /** Plans that sequences can be created under; the first is the identity plan. */
  readonly plans: readonly EnginePlan[];
  /** Whether caches can be serialised and put back. */
  readonly snapshots: boolean;

  /** Creates an empty sequence under a plan (index, 0 if unset). */
  createSequence(plan?: number): SequenceHandle;
  /** Forgets a sequence. */
  freeSequence(sequence: SequenceHandle): void;
  /** Appends ids; refused as a whole on a bad id or a full context. Nothing is computed. */
  append(sequence: SequenceHandle, kind: SegmentKind, ids: ArrayLike<number>): void;
  /** Shortens the log to `tokens` tokens, and the cache with it. */
  truncate(sequence: SequenceHandle, tokens: number): void;
  /** Frees the cache and keeps the log; the next step replays it. */
  dropCache(sequence: SequenceHandle): void;
  /** A new sequence with the first `tokens` tokens and as much of the cache as can be had. */
  fork(sequence: SequenceHandle, tokens: number): SequenceHandle;
  /** Sets how tokens of this sequence are drawn. */
  setSampling(sequence: SequenceHandle, sampling: Sampling): void;
  /** Ids [begin, end) of the log. */
  ids(sequence: SequenceHandle, begin: number, end: number): Uint32Array;
  sequenceStats(sequence: SequenceHandle): SequenceStats;
  /** Bytes of cache of a sequence of `tokens` tokens under a plan; known before admission. */
  sequenceCacheBytes(plan: number, tokens: number): number;

  /**
   * Advances every entry by at most its workMax; decode rows of several sequences share one pass
   * over the weights. Errors of single entries stand in their results.
   */
  step(entries: readonly StepEntry[]): Promise<readonly StepResult[]>;
  /** `step` for backends that compute on the calling thread; undefined elsewhere. */
  readonly stepSync: ((entries: readonly StepEntry[]) => readonly StepResult[]) | undefined;
  /** Logits of the sequence's last row in the latest step that had `sample`, copied. */
  logits(sequence: SequenceHandle): Float32Array;

  /** Serialised cache of a sequence (docs/page-format.md), without its checksum. */
  snapshot(sequence: SequenceHandle): Uint8Array;
  /** Starts a sequence from a serialised cache whose checksum was verified. */
  restore(plan: number, snapshot: Uint8Array): SequenceHandle;

  /** Bytes of the serialised cache of a sequence, without its checksum. */
  snapshotBytes(sequence: SequenceHandle): number;
  /**
   * Bytes [offset, offset + bytes) of it, copied. The pieces of a sequence belong together as long as
   * nothing else was called for it.
   */
  snapshotPiece(sequence: SequenceHandle, offset: number, bytes: number): Uint8Array<ArrayBuffer>;
  /**
   * Begins to restore a serialised cache of `bytes` bytes; one at a time (wrongState otherwise).
   * Until all of it was written the sequence can only be freed, which gives it up.
   */
  beginRestore(plan: number, bytes: number): SequenceHandle;
  /**
   * The next bytes of the restore; the last ones make the sequence usable. Each piece is checked as
   * it comes, but for the checksum. After an error nothing is left of the sequence.
   */
  writeRestore(sequence: SequenceHandle, offset: number, piece: Uint8Array): void;

  stats(): EngineStats;
  /** Ends the engine; every further call throws. */
  close(): void;
}
