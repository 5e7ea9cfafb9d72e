/**
 * The sequences that a worker holds: their engine handles, segment borders and who works on them.
 * A sequence without a call is idle: its cache may be dropped at any time, least recently used
 * first, and its log with it when handles run out. The gateway's log is the durable truth.
 */
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Engine, SegmentKind, SequenceHandle } from "../engine/engine.js";
import { prefixHash } from "../engine/prefix.js";
import { EngineError } from "../engine/status.js";
import type { Fingerprints, PrefixName } from "../gen/leanedge/worker/v1/worker_pb.js";
import { PrefixNameSchema, SegmentKind as WireKind } from "../gen/leanedge/worker/v1/worker_pb.js";
import { keptTokensMin } from "./limits.js";

/** A run of ids of one kind; `tokens` of the log. */
export interface SegmentBorder {
  readonly kind: SegmentKind;
  readonly tokens: number;
}

/** One sequence of a worker. */
export interface HeldSequence {
  readonly id: string;
  readonly handle: SequenceHandle;
  /** Index of its plan in the engine, fixed for its life. */
  readonly plan: number;
  /** Borders of its log; they add up to its length. */
  segments: SegmentBorder[];
  /** Largest binding generation that called. */
  generation: bigint;
  /** Ends the call that works on it; undefined while idle. */
  abort: ((reason: Error) => void) | undefined;
  /** Ends the call that reads its snapshot; undefined while none does. */
  stopReader: ((reason: Error) => void) | undefined;
  /** Its owner has a snapshot of the log as it stands: nothing is lost when it goes as a whole. */
  saved: boolean;
  /** What became of the request to save it before it is dropped; forgotten when the log changes. */
  keeping: Promise<void> | "done" | undefined;
  /** Clock of last use, for the order in which idle caches go. */
  lastUsed: number;
}

const wireKinds = {
  prompt: WireKind.PROMPT,
  generated: WireKind.GENERATED,
} as const satisfies Record<SegmentKind, WireKind>;

/** Kind of a segment on the wire. */
export function segmentKindToWire(kind: SegmentKind): WireKind {
  return wireKinds[kind];
}

/** Kind of a segment from the wire; undefined if it is not set or unknown. */
export function segmentKindFromWire(kind: WireKind): SegmentKind | undefined {
  if (kind === WireKind.PROMPT) return "prompt";
  if (kind === WireKind.GENERATED) return "generated";
  return undefined;
}

function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, index) => byte === b[index]);
}

/** The first `tokens` tokens of borders, the last one shortened where it is cut. */
export function cutSegments(segments: readonly SegmentBorder[], tokens: number): SegmentBorder[] {
  const cut: SegmentBorder[] = [];
  let left = tokens;
  for (const segment of segments) {
    if (left <= 0) break;
    cut.push({ kind: segment.kind, tokens: Math.min(segment.tokens, left) });
    left -= segment.tokens;
  }
  return cut;
}

/** A log as it stood at a moment. */
export interface LogCopy {
  readonly ids: Uint32Array;
  /** Borders; they add up to its length. */
  readonly segments: readonly SegmentBorder[];
}

/** Names a log: takes a hash over its ids, and no engine. */
export function nameLog({ ids, segments }: LogCopy, fingerprints: Fingerprints): PrefixName {
  return create(PrefixNameSchema, {
    tokens: ids.length,
    sha256: prefixHash(ids),
    segmentTokens: segments.map((segment) => segment.tokens),
    segmentKinds: segments.map((segment) => wireKinds[segment.kind]),
    fingerprints,
  });
}

/** Asks the owner of a sequence to save its cache; settles when that is done or has failed. */
export type KeepCache = (sequenceId: string) => Promise<void>;

const dropped = new ConnectError("the cache is dropped for other sequences", Code.Aborted);

/** See the head of this file. */
export class SequenceTable {
  readonly #engine: Engine;
  readonly #relieveTable: (() => boolean) | undefined;
  readonly #sequences = new Map<string, HeldSequence>();
  /** Sequences of the engine that are not in the table yet: restores under way. */
  beside = 0;
  #clock = 0;

  /** @param relieveTable as WorkerConfig.relieveTable */
  constructor(engine: Engine, relieveTable?: () => boolean) {
    this.#engine = engine;
    this.#relieveTable = relieveTable;
  }

  /** Sequences held. */
  get size(): number {
    return this.#sequences.size;
  }

  /** The sequence of an id, if it is held. */
  get(id: string): HeldSequence | undefined {
    return this.#sequences.get(id);
  }

  /**
   * Creates a sequence, or returns the one there is. Where the engine's table is full the idle
   * sequence that was used least recently goes.
   * @throws EngineError tooManySequences if none is idle
   */
  open(id: string, plan: number): HeldSequence {
    const held = this.#sequences.get(id);
    if (held !== undefined) {
      this.touch(held);
      return held;
    }
    const handle = this.withRoom(() => this.#engine.createSequence(plan));
    return this.#put(id, handle, plan, []);
  }

  /** Takes a sequence that was restored, in the place of an earlier one of that id. */
  adopt(id: string, handle: SequenceHandle, plan: number, segments: SegmentBorder[]): HeldSequence {
    const earlier = this.#sequences.get(id);
    if (earlier !== undefined) this.release(earlier);
    const held = this.#put(id, handle, plan, segments);
    held.saved = true;
    return held;
  }

  /**
   * Copies the first `tokens` tokens of a sequence under a new id. Where the engine's table is full another idle one goes.
   * @throws EngineError tooManySequences if no other is idle
   */
  fork(source: HeldSequence, tokens: number, id: string): HeldSequence {
    this.touch(source);
    const handle = this.withRoom(() => this.#engine.fork(source.handle, tokens), source);
    return this.#put(id, handle, source.plan, cutSegments(source.segments, tokens));
  }

  /** Frees a sequence whatever its state; whoever reads its snapshot is told why. */
  release(held: HeldSequence, reason: Error = dropped): void {
    if (this.#sequences.get(held.id) !== held) return;
    held.stopReader?.(reason);
    this.#sequences.delete(held.id);
    this.#engine.freeSequence(held.handle);
  }

  /** Ends every call with `reason`, then frees every sequence. A lost engine's memory goes as a whole, with the engine. */
  releaseAll(reason: Error): void {
    const all = [...this.#sequences.values()];
    for (const held of all) held.abort?.(reason);
    for (const held of all) {
      try {
        this.release(held, reason);
      } catch (error) {
        if (!(error instanceof EngineError)) throw error;
      }
    }
  }

  /** Marks a sequence as used now. */
  touch(held: HeldSequence): void {
    held.lastUsed = ++this.#clock;
  }

  /** Length of a sequence's log. */
  tokens(held: HeldSequence): number {
    return held.segments.reduce((sum, segment) => sum + segment.tokens, 0);
  }

  /**
   * Appends a segment to log and borders; a generated one continues a generated one. Where the memory of all logs is full
   * idle sequences go, the one that was used least recently first.
   */
  append(held: HeldSequence, kind: SegmentKind, ids: ArrayLike<number>): void {
    for (;;) {
      try {
        this.#engine.append(held.handle, kind, ids);
        break;
      } catch (error) {
        const full = error instanceof EngineError && error.status === "outOfMemory";
        const victim = full ? this.#idle().find((idle) => idle !== held) : undefined;
        if (victim === undefined) throw error;
        this.release(victim);
      }
    }
    this.noteAppended(held, kind, ids.length);
  }

  /** Takes note of ids that the engine itself appended. */
  noteAppended(held: HeldSequence, kind: SegmentKind, tokens: number): void {
    changed(held);
    const last = held.segments.at(-1);
    if (last?.kind === "generated" && kind === "generated") {
      held.segments[held.segments.length - 1] = { kind, tokens: last.tokens + tokens };
    } else {
      held.segments.push({ kind, tokens });
    }
  }

  /** Shortens log, cache and borders. */
  truncate(held: HeldSequence, tokens: number): void {
    if (tokens === this.tokens(held)) return;
    changed(held);
    this.#engine.truncate(held.handle, tokens);
    held.segments = cutSegments(held.segments, tokens);
  }

  /** Cuts off what the engine appended and nobody took note of. */
  cutToBorders(held: HeldSequence): void {
    if (this.#sequences.get(held.id) !== held) return;
    this.#engine.truncate(held.handle, this.tokens(held));
  }

  /** A copy of a sequence's log. */
  log(held: HeldSequence): LogCopy {
    return {
      ids: this.#engine.ids(held.handle, 0, this.tokens(held)),
      segments: [...held.segments],
    };
  }

  /** Names a sequence. */
  name(held: HeldSequence, fingerprints: Fingerprints): PrefixName {
    return nameLog(this.log(held), fingerprints);
  }

  /** Whether a sequence starts with the prefix that is named: same borders, kinds and ids. */
  hasPrefix(held: HeldSequence, prefix: PrefixName): boolean {
    if (prefix.tokens > this.tokens(held)) return false;
    const segments = cutSegments(held.segments, prefix.tokens);
    const sameBorders =
      segments.length === prefix.segmentTokens.length &&
      segments.length === prefix.segmentKinds.length &&
      segments.every(
        (segment, index) =>
          segment.tokens === prefix.segmentTokens[index] &&
          wireKinds[segment.kind] === prefix.segmentKinds[index],
      );
    if (!sameBorders) return false;
    return equalBytes(prefixHash(this.#engine.ids(held.handle, 0, prefix.tokens)), prefix.sha256);
  }

  /** Bytes of cache that idle sequences hold. */
  idleBytes(): number {
    return this.#idle().reduce(
      (sum, held) => sum + this.#engine.sequenceStats(held.handle).cacheBytes,
      0,
    );
  }

  /**
   * Has those caches saved that would go next until idle ones hold at most `bytesMax` bytes.
   * @returns whether all of them are saved, or cannot be
   */
  keepIdleCaches(bytesMax: number, keep: KeepCache): boolean {
    let bytes = this.idleBytes();
    let ready = true;
    for (const held of this.#idle()) {
      if (bytes <= bytesMax) break;
      bytes -= this.#engine.sequenceStats(held.handle).cacheBytes;
      if (this.#losesNothing(held)) continue;
      ready = false;
      void this.#keep(held, keep);
    }
    return ready;
  }

  /** Has the cache saved that goes as a whole where a new sequence finds the engine's table full. */
  async keepForRoom(keep: KeepCache): Promise<void> {
    const victim = this.#nextToGo();
    if (victim !== undefined && !this.#losesNothing(victim)) await this.#keep(victim, keep);
  }

  /** Drops idle caches, least recently used first, until they hold at most `bytesMax` bytes. */
  dropIdleCaches(bytesMax: number): void {
    let bytes = this.idleBytes();
    for (const held of this.#idle()) {
      if (bytes <= bytesMax) return;
      bytes -= this.#dropCache(held);
    }
  }

  /**
   * Drops one idle cache: the oldest of those whose loss costs nothing, or else the oldest. With
   * `keep` that one is saved first, and goes when it is.
   * @returns whether memory became free, or soon will; false if no idle sequence has a cache
   */
  dropOneIdleCache(keep?: KeepCache): boolean {
    // A prompt that was left half read holds memory, too, and no row is computed of it.
    const holding = this.#idle().filter(
      ({ handle }) => this.#engine.sequenceStats(handle).cacheBytes > 0,
    );
    const cheap = holding.find((held) => this.#losesNothing(held));
    const victim = cheap ?? holding[0];
    if (victim === undefined) return false;
    if (cheap === undefined && keep !== undefined) void this.#keep(victim, keep);
    else this.#dropCache(victim);
    return true;
  }

  #dropCache(held: HeldSequence): number {
    const { cacheBytes } = this.#engine.sequenceStats(held.handle);
    if (cacheBytes === 0) return 0;
    held.stopReader?.(dropped);
    // Without its log the sequence is one that this worker lacks: its owner brings the snapshot.
    if (held.saved) this.release(held);
    else this.#engine.dropCache(held.handle);
    return cacheBytes;
  }

  #put(id: string, handle: SequenceHandle, plan: number, segments: SegmentBorder[]): HeldSequence {
    const held: HeldSequence = {
      id,
      handle,
      plan,
      segments,
      generation: 0n,
      abort: undefined,
      stopReader: undefined,
      saved: false,
      keeping: undefined,
      lastUsed: ++this.#clock,
    };
    this.#sequences.set(id, held);
    return held;
  }

  /**
   * Makes a sequence. Where the engine's table is full the idle one that was used least recently goes; `kept` stays.
   * @throws what `make` throws: EngineError tooManySequences if no other is idle
   */
  withRoom(make: () => SequenceHandle, kept?: HeldSequence): SequenceHandle {
    for (let victim = this.#nextToGo(kept); ; victim = this.#leastWorth(kept)) {
      if (victim !== undefined) this.release(victim);
      try {
        return make();
      } catch (error) {
        // Other workers on the same engine hold a part of its table: then it is full before this one's share is.
        const full = error instanceof EngineError && error.status === "tooManySequences";
        if (!full) throw error;
        if (this.#leastWorth(kept) === undefined && this.#relieveTable?.() !== true) throw error;
      }
    }
  }

  /** Frees an idle sequence for others on the same engine; false if there is none. */
  releaseOldestIdle(): boolean {
    const victim = this.#leastWorth();
    if (victim !== undefined) this.release(victim);
    return victim !== undefined;
  }

  /** The idle sequence that goes where this worker has filled the table. */
  #nextToGo(kept?: HeldSequence): HeldSequence | undefined {
    const full = this.#sequences.size + this.beside >= this.#engine.sequencesMax;
    return full ? this.#leastWorth(kept) : undefined;
  }

  /** An idle sequence whose loss costs nothing, or else the one that was used least recently. */
  #leastWorth(kept?: HeldSequence): HeldSequence | undefined {
    const idle = this.#idle().filter((held) => held !== kept);
    return idle.find((held) => held.saved || this.#computed(held) === 0) ?? idle[0];
  }

  /** Whether a cache is saved, or is not worth it, or cannot be. */
  #losesNothing(held: HeldSequence): boolean {
    return held.saved || held.keeping === "done" || this.#computed(held) < keptTokensMin;
  }

  #computed(held: HeldSequence): number {
    return this.#engine.sequenceStats(held.handle).computed;
  }

  /** Asks for a cache to be saved, once for each state of its log; settles when that was tried. Never rejects. */
  #keep(held: HeldSequence, keep: KeepCache): Promise<void> {
    if (held.keeping instanceof Promise) return held.keeping;
    const settled = (): void => {
      // Whatever came of it, the cache may go now; a log that changed meanwhile counts anew.
      if (held.keeping === keeping) held.keeping = "done";
    };
    const keeping: Promise<void> = keep(held.id).then(settled, settled);
    held.keeping = keeping;
    return keeping;
  }

  #idle(): HeldSequence[] {
    return [...this.#sequences.values()]
      .filter((held) => held.abort === undefined)
      .sort((a, b) => a.lastUsed - b.lastUsed);
  }
}

function changed(held: HeldSequence): void {
  held.stopReader?.(new ConnectError("the sequence goes on", Code.Aborted));
  held.saved = false;
  held.keeping = undefined;
}
