/**
 * What a SessionObject stores: typed records in and out, no policy; every call is synchronous. Each table's statements are in a
 * file of its own; how they are written is store-writes.ts's.
 */
import { concatBytes } from "@noble/hashes/utils.js";
import { create } from "@bufbuild/protobuf";
import type { SamplingParams } from "../../gen/leanedge/v1/sampling_pb.js";
import { Role } from "../../gen/leanedge/v1/session_pb.js";
import type { Backend, PlacementReason } from "../../gen/leanedge/v1/session_pb.js";
import { FingerprintsSchema, SegmentKind } from "../../gen/leanedge/worker/v1/worker_pb.js";
import type { Fingerprints, PrefixName } from "../../gen/leanedge/worker/v1/worker_pb.js";
import { utf8Bytes } from "../utf8.js";
import { packIds, segmentTokens } from "../worker-client/segments.js";
import type { PackedSegment } from "../worker-client/segments.js";
import { BindingRow } from "./binding-row.js";
import type { Commits } from "./commit-group.js";
import { CacheStore } from "./cache-store.js";
import { KeptRow } from "./kept-row.js";
import type { RowKind } from "./kept-row.js";
import { LeftWorkers } from "./left-workers.js";
import { LogTable } from "./log-table.js";
import type { TurnSegment } from "./log-table.js";
import type {
  BindingRecord,
  DeletionRecord,
  MessageRecord,
  PieceRecord,
  SessionRecord,
  TurnEnd,
  TurnRecord,
} from "./session-records.js";
import type { SessionKey } from "./session-key.js";
import { SessionRow } from "./session-row.js";
import type { NewSession } from "./session-row.js";
import { sessionTables } from "./session-schema.js";
import type { SessionTables } from "./session-tables.js";
import { int, text } from "./sql-row.js";
import { StoreWrites } from "./store-writes.js";
import { TranscriptTable } from "./transcript-table.js";
import { TurnTable } from "./turn-table.js";
import type { NewTurn } from "./turn-table.js";

/** The tables of one session. */
export class SessionStore {
  /** Its cache: plan, sizes, snapshot. */
  readonly cache: CacheStore;
  /** Workers that may hold its sequence without being bound. */
  readonly left: LeftWorkers;
  readonly #writes: StoreWrites;
  readonly #session: SessionRow;
  readonly #binding: BindingRow;
  readonly #turns: TurnTable;
  readonly #transcript: TranscriptTable;
  readonly #log: LogTable;
  readonly #deletion: KeptRow<DeletionRecord>;

  /**
   * Reads and makes nothing yet.
   *
   * @param key which rows of the object's tables are the session's; that of an object with one session by default
   * @param tables of `storage`; given, as `commits`, where sessions share them
   */
  constructor(
    storage: DurableObjectStorage,
    key?: SessionKey,
    tables?: SessionTables,
    commits?: Commits,
  ) {
    this.#writes = new StoreWrites(storage, key, tables, commits);
    this.#session = new SessionRow(this.#writes);
    this.#binding = new BindingRow(this.#writes);
    this.#log = new LogTable(this.#writes);
    this.#turns = new TurnTable(this.#writes, () => {
      const last = this.#log.pieces.at(-1);
      return {
        completionTokens: last?.tokensEnd ?? 0,
        textBytes: last === undefined ? 0 : last.byteOffset + last.byteLength,
      };
    });
    this.#transcript = new TranscriptTable(this.#writes);
    this.#deletion = new KeptRow(this.#writes, deletionKind);
    this.cache = new CacheStore(this.#writes);
    this.left = new LeftWorkers(this.#writes);
  }

  /** Runs changes as one transaction. */
  atomically<T>(work: () => T): T {
    return this.#writes.atomically(work);
  }

  /** Makes changes that are stored with the next one, or with `commit`; until then they may be lost. */
  later<T>(work: () => T): T {
    // What changes need is read first: to read it in between, what waits would have to be written.
    this.#writes.lookAll();
    return this.#writes.later(work);
  }

  /** Has somebody told whenever changes were put off, to store them in time; told again for each of them. */
  onWaiting(tell: () => void): void {
    this.#writes.onWaiting(tell);
  }

  /** Something was put off and waits to be stored. */
  get waiting(): boolean {
    return this.#writes.waiting;
  }

  /** Nothing waits to be stored, and all that was is known to be durable. */
  get durable(): boolean {
    return this.#writes.durable;
  }

  /** Stores what was put off. */
  commit(): void {
    this.#writes.commit();
  }

  /** Resolves once everything so far is durable. `before` is called before that is written. */
  sync(before?: () => void): Promise<void> {
    return this.#writes.sync(before);
  }

  /** The session; undefined if none was created. */
  session(): SessionRecord | undefined {
    return this.#session.record;
  }

  /** Creates the session. */
  insertSession(session: NewSession): void {
    this.#session.insert(session);
  }

  /** Marks the session as changed: its time, and a new version for the index. Versions only grow. */
  touch(nowMs: number): void {
    this.#session.change(({ indexVersion }) => ({
      updateMs: nowMs,
      indexVersion: Math.max(indexVersion + 1, nowMs),
    }));
  }

  /** Notes which version the tenant's index holds; where that is lost, the index is told once more. */
  setIndexedVersion(version: number): void {
    this.#session.changeIdly(({ indexedVersion }) => ({
      indexedVersion: Math.max(indexedVersion, version),
    }));
  }

  /** Lifts the version above one that the index holds. */
  raiseIndexVersion(version: number): void {
    this.#session.change(({ indexVersion }) => ({ indexVersion: Math.max(indexVersion, version) }));
  }

  /** Sets the title. */
  setTitle(title: string): void {
    this.#session.change(() => ({ title }));
  }

  /** Deletes everything; what is left says that the index must forget the session too. */
  deleteSession(nowMs: number): void {
    this.atomically(() => {
      const session = this.session();
      this.erase();
      if (session !== undefined) {
        this.#deletion.set({
          tenant: session.tenant,
          sessionId: session.sessionId,
          version: Math.max(session.indexVersion + 1, nowMs),
        });
      }
    });
  }

  /** Deletes what may be left of a session that is gone. */
  erase(): void {
    this.atomically(() => {
      for (const table of sessionTables) {
        this.#writes.delete(table);
      }
      this.#writes.resetAll();
    });
  }

  /** A deletion that the index does not know of yet. */
  deletion(): DeletionRecord | undefined {
    return this.#deletion.record;
  }

  /** The index knows of the deletion. */
  forgetDeletion(): void {
    this.#deletion.clear();
  }

  /** The worker that holds the cache; undefined before the first attempt. */
  binding(): BindingRecord | undefined {
    return this.#binding.record;
  }

  /**
   * A generation number that no attempt has used. The first one is stored with what its turn stores first: where both are
   * lost the next turn begins under it again, as one that begins on a bound worker does under that of its binding.
   */
  issueGeneration(): number {
    const before = this.binding();
    const issued = (before?.issued ?? 0) + 1;
    const issue = (): void => this.#binding.change({ issued });
    if (before === undefined) {
      this.later(issue);
    } else {
      issue();
    }
    return issued;
  }

  /** Binds the session to a worker that has answered, and notes the one that it leaves. */
  bind(
    { worker, address }: { readonly worker: string; readonly address: string },
    generation: number,
    expiresMs: number,
  ): void {
    this.atomically(() => {
      const before = this.binding();
      if (before !== undefined && before.worker !== "" && before.worker !== worker) {
        this.left.note({ ...before, generation: before.issued });
      }
      this.left.forget(worker);
      const issued = Math.max(before?.issued ?? 0, generation);
      this.#binding.change({ worker, address, generation, issued, expiresMs });
    });
  }

  /** Notes a worker that was asked in vain: it may have begun a sequence that nobody will take up. */
  noteTried(
    { worker, address }: { readonly worker: string; readonly address: string },
    generation: number,
  ): void {
    if (this.binding()?.worker !== worker) {
      this.left.note({ worker, address, generation });
    }
  }

  /** Forgets the worker and keeps the count of generations. */
  unbind(): void {
    if (this.binding() !== undefined) {
      this.#binding.change({ worker: "", expiresMs: 0 });
    }
  }

  /** A turn; undefined if there is none of this number. */
  turn(number: number): TurnRecord | undefined {
    return this.#turns.get(number);
  }

  /** The turn that runs, which is the last one; undefined if none does. */
  runningTurn(): TurnRecord | undefined {
    const { last } = this.#turns;
    return last?.running === true ? last : undefined;
  }

  /** Number of the last turn, 0 before the first. */
  lastTurn(): number {
    return this.#turns.last?.number ?? 0;
  }

  /** The turn that was started under this key; undefined if none was. */
  turnByIdempotencyKey(key: string): TurnRecord | undefined {
    return this.#turns.byIdempotencyKey(key);
  }

  /** Stores a running turn, whose first attempt counts already. */
  insertTurn(turn: NewTurn): void {
    this.#turns.insert(turn);
  }

  /** Makes the running turn outlive its clients. */
  setDetached(): void {
    this.#changeRunning({ detach: true });
  }

  /** Notes since when nobody runs or waits for the running turn; 0: somebody does. */
  setOrphaned(sinceMs: number): void {
    this.#changeRunning({ orphanMs: sinceMs });
  }

  /** Counts one more attempt; returns how many there were, this one included. */
  countAttempt(number: number): number {
    const attempts = (this.turn(number)?.attempts ?? 0) + 1;
    this.#turns.change(number, { attempts });
    return attempts;
  }

  /** Stores what a worker said when it accepted a turn for the first time: the log grows by the prompt's ids. */
  acceptPrompt(accepted: {
    readonly turn: number;
    /** The request's own and the model's defaults; what a later attempt asks for too. */
    readonly sampling: SamplingParams;
    readonly promptIds: readonly number[];
    readonly fingerprints: Fingerprints | undefined;
    /** The prompt renders the whole transcript and replaces the log. */
    readonly rebuilt: boolean;
  }): void {
    if (accepted.rebuilt) {
      this.#log.clear();
    }
    if (accepted.promptIds.length > 0) {
      this.#log.append(accepted.turn, SegmentKind.PROMPT, packIds(accepted.promptIds));
    }
    const fingerprints = accepted.fingerprints ?? create(FingerprintsSchema);
    this.#session.change(() => ({ messagesCovered: this.messageCount(), fingerprints }));
    this.#turns.change(accepted.turn, { accepted: true, sampling: accepted.sampling });
  }

  /** Notes who answers a turn. */
  setServedBy(
    number: number,
    served: {
      readonly promptTokens: number;
      readonly cachedTokens: number;
      readonly model: string;
      readonly backend: Backend;
      readonly worker: string;
      readonly placement: PlacementReason;
    },
  ): void {
    this.#turns.change(number, served);
  }

  /** Appends to the running answer, to be stored later. Tokens are progress: attempts count anew. */
  appendPiece(turn: number, ids: readonly number[], pieceText: string): PieceRecord {
    return this.later(() => {
      const added = this.#log.appendPiece(ids, pieceText);
      this.#turns.grow(turn, {
        completionTokens: added.tokensEnd,
        textBytes: added.byteOffset + added.byteLength,
      });
      if (ids.length > 0 && this.turn(turn)?.attempts !== 0) {
        this.#turns.change(turn, { attempts: 0 });
      }
      return added;
    });
  }

  /** Pieces of the running answer that end after `byteOffset`, in order. */
  piecesFrom(byteOffset: number): readonly PieceRecord[] {
    return this.#log.piecesFrom(byteOffset);
  }

  /** All pieces of the running answer. */
  pieces(): readonly PieceRecord[] {
    return this.#log.pieces;
  }

  /** Ends a turn: the running answer becomes a message of the transcript and a segment of the log. */
  endTurn(number: number, end: TurnEnd): void {
    this.atomically(() => {
      const accepted = this.turn(number)?.accepted === true;
      const pieces = this.#log.takePieces();
      const kept =
        end.generatedTokens === undefined
          ? pieces.ids
          : pieces.ids.subarray(0, end.generatedTokens * 4);
      if (kept.byteLength > 0) {
        this.#log.append(number, SegmentKind.GENERATED, kept);
      }
      this.insertMessage(number, Role.ASSISTANT, pieces.text, true, end.nowMs);
      this.#turns.change(number, {
        running: false,
        endMs: end.nowMs,
        finishReason: end.finishReason,
        errorMessage: end.errorMessage,
        completionTokens: kept.byteLength / 4,
        textBytes: utf8Bytes(pieces.text),
        cacheBytes: end.cacheBytes,
      });
      this.#session.change(({ messagesCovered }) => ({
        cacheBytes: end.cacheBytes,
        messagesCovered: accepted ? this.messageCount() : messagesCovered,
      }));
    });
  }

  /** Takes back a turn that no worker accepted, with its messages. */
  withdrawTurn(number: number): void {
    this.atomically(() => {
      this.#log.withdraw(number);
      this.#transcript.withdraw(number);
      this.#turns.withdraw(number);
      this.#session.change(({ messagesCovered }) => ({
        messagesCovered: Math.min(messagesCovered, this.messageCount()),
      }));
    });
  }

  /** Appends a message to the transcript. */
  insertMessage(
    turn: number,
    role: Role,
    messageText: string,
    answer: boolean,
    nowMs: number,
  ): void {
    this.#transcript.append({ turn, role, text: messageText, answer, createMs: nowMs });
  }

  /** Messages from a position on, in order, at most `limit`. */
  messages(from: number, limit: number): readonly MessageRecord[] {
    return this.#transcript.from(from, limit);
  }

  /** Messages from a position on, one by one. */
  eachMessage(from: number): Generator<MessageRecord, void, undefined> {
    return this.#transcript.each(from);
  }

  /** Number of stored messages; a running answer is not one yet. */
  messageCount(): number {
    return this.#transcript.count;
  }

  /** The answer of an ended turn. */
  answerText(turn: number): string {
    return this.#transcript.answer(turn);
  }

  /** The log. */
  segments(): readonly PackedSegment[] {
    return this.#log.segments;
  }

  /** Name of the whole log, without fingerprints. */
  logName(): PrefixName {
    return this.#log.name;
  }

  /** Segments of turns up to and including `turn`, with their turns. */
  segmentsUpTo(turn: number): TurnSegment[] {
    return this.#log.segments.filter((segment) => segment.turn <= turn);
  }

  /** Tokens in the log, those of a running answer included. */
  tokenCount(): number {
    return this.#log.tokens;
  }

  /** Turns up to and including `turn`, in order. */
  turnsUpTo(turn: number): TurnRecord[] {
    return this.#turns.upTo(turn);
  }

  /** Copies an ended turn in, as a fork does. */
  importTurn(turn: TurnRecord): void {
    this.#turns.import(turn);
  }

  /** Copies a segment in, as a fork does. */
  importSegment(turn: number, segment: PackedSegment): void {
    this.#log.append(turn, segment.kind, segment.ids);
  }

  #changeRunning(change: Pick<Partial<TurnRecord>, "detach" | "orphanMs">): void {
    const running = this.runningTurn();
    if (running !== undefined) {
      this.#turns.change(running.number, change);
    }
  }
}

const deletionKind: RowKind<DeletionRecord> = {
  table: "deletion",
  read: (row) => ({
    tenant: text(row, "tenant"),
    sessionId: text(row, "session_id"),
    version: int(row, "version"),
  }),
  columns: {
    tenant: ({ tenant }) => tenant,
    session_id: ({ sessionId }) => sessionId,
    version: ({ version }) => version,
  },
};

/** All segments of a log and the tokens of its prompt part, as a resumed answer needs them. */
export function logWithAnswer(
  segments: readonly PackedSegment[],
  pieces: readonly PieceRecord[],
): { readonly segments: readonly PackedSegment[]; readonly answerTokens: number } {
  const ids = concatBytes(...pieces.map((piece) => piece.ids));
  if (ids.byteLength === 0) {
    return { segments, answerTokens: 0 };
  }
  const answer = { kind: SegmentKind.GENERATED, ids } as const;
  return { segments: [...segments, answer], answerTokens: segmentTokens(answer) };
}
