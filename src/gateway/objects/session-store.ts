/** Statements of a SessionObject: rows in, typed records out. No policy; every call is synchronous. */
import { concatBytes } from "@noble/hashes/utils.js";
import { toBinary } from "@bufbuild/protobuf";
import { SamplingParamsSchema } from "../../gen/leanedge/v1/sampling_pb.js";
import type { SamplingParams } from "../../gen/leanedge/v1/sampling_pb.js";
import { Role } from "../../gen/leanedge/v1/session_pb.js";
import type { Backend, PlacementReason } from "../../gen/leanedge/v1/session_pb.js";
import { SegmentKind } from "../../gen/leanedge/worker/v1/worker_pb.js";
import type { Fingerprints } from "../../gen/leanedge/worker/v1/worker_pb.js";
import { packIds, segmentTokens } from "../worker-client/segments.js";
import type { PackedSegment } from "../worker-client/segments.js";
import { CacheStore } from "./cache-store.js";
import { LeftWorkers } from "./left-workers.js";
import { messageRecord, pieceRecord, sessionRecord, turnRecord } from "./session-records.js";
import type {
  BindingRecord,
  DeletionRecord,
  MessageRecord,
  PieceRecord,
  SessionRecord,
  TurnEnd,
  TurnRecord,
} from "./session-records.js";
import { sessionColumns, sessionSchema, sessionTables } from "./session-schema.js";
import { blob, bytes, int, member, text } from "./sql-row.js";
import type { Row, SqlValue } from "./sql-row.js";

const encoder = new TextEncoder();
/** The table of a statement of sessionSchema. */
const tableName = /^CREATE TABLE IF NOT EXISTS (?<table>\w+) \(/;
/** Turns that are kept as they were read: the running one, the one before, and one that is replayed. */
const turnsKeptMax = 4;

/** The tables of one session. */
export class SessionStore {
  /** Its cache: plan, sizes, snapshot. */
  readonly cache: CacheStore;
  /** Workers that may hold its sequence without being bound. */
  readonly left: LeftWorkers;
  readonly #storage: DurableObjectStorage;
  readonly #sql: SqlStorage;
  /** What was read since the table was last written: a row of 26 columns costs more than all else of a lookup. */
  #session: { readonly record: SessionRecord | undefined } | undefined;
  readonly #turns = new Map<number, TurnRecord | undefined>();

  /** Makes the tables where they are missing. */
  constructor(storage: DurableObjectStorage) {
    this.#storage = storage;
    this.#sql = storage.sql;
    this.cache = new CacheStore(storage);
    this.left = new LeftWorkers(storage);
    this.createTables();
  }

  /** Makes what is missing of the tables; needed again after everything was deleted. */
  createTables(): void {
    // One look at every start of the object, instead of a statement a table and a column.
    const rows = this.#all("SELECT name, sql FROM sqlite_master WHERE type = 'table'");
    const known = new Map(rows.map((row) => [text(row, "name"), text(row, "sql")]));
    for (const statement of sessionSchema) {
      const { table = "" } = tableName.exec(statement)?.groups ?? {};
      const later = sessionColumns.filter((column) => column.table === table);
      const stored = known.get(table);
      if (stored === undefined) {
        const more = later.map(({ column, definition }) => `, ${column} ${definition}`);
        this.#sql.exec(statement.replace(/\)$/, `${more.join("")})`));
        continue;
      }
      for (const { column, definition } of later) {
        if (!stored.includes(`${column} ${definition}`)) {
          this.#sql.exec(`ALTER TABLE ${table} ADD COLUMN ${column} ${definition}`);
        }
      }
    }
  }

  /** Runs statements as one transaction. */
  atomically<T>(work: () => T): T {
    try {
      return this.#storage.transactionSync(work);
    } catch (error) {
      // What was read inside is undone with what was written.
      this.#forgetSession();
      this.#forgetTurns();
      throw error;
    }
  }

  /** Resolves once everything written so far is durable. */
  sync(): Promise<void> {
    return this.#storage.sync();
  }

  /** The session; undefined if none was created. */
  session(): SessionRecord | undefined {
    if (this.#session === undefined) {
      const row = this.#first("SELECT * FROM session");
      this.#session = { record: row === undefined ? undefined : sessionRecord(row) };
    }
    return this.#session.record;
  }

  /** Creates the session. */
  insertSession(session: {
    readonly tenant: string;
    readonly sessionId: string;
    readonly model: string;
    readonly title: string;
    readonly titleGiven: boolean;
    readonly implicit: boolean;
    readonly nowMs: number;
    readonly createMs?: number;
    readonly forkedFrom?: string;
    readonly forkedTurn?: number;
    readonly messagesCovered?: number;
    readonly fingerprints?: Fingerprints;
    readonly keyId?: string;
  }): void {
    this.#changeSession(
      `INSERT INTO session (one, tenant, session_id, model, title, title_given, implicit, create_ms, update_ms,
        forked_from, forked_turn, messages_covered, fingerprint_model, fingerprint_template, fingerprint_plan, key_id)
       VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
      session.tenant,
      session.sessionId,
      session.model,
      session.title,
      Number(session.titleGiven),
      Number(session.implicit),
      session.createMs ?? session.nowMs,
      session.nowMs,
      session.forkedFrom ?? "",
      session.forkedTurn ?? 0,
      session.messagesCovered ?? 0,
      session.fingerprints?.model ?? "",
      session.fingerprints?.template ?? "",
      session.fingerprints?.plan ?? "",
      session.keyId ?? "",
    );
  }

  /** Marks the session as changed: its time, and a new version for the index. Versions only grow. */
  touch(nowMs: number): void {
    this.#changeSession(
      "UPDATE session SET update_ms = ?, index_version = MAX(index_version + 1, ?)",
      nowMs,
      nowMs,
    );
  }

  /** Notes which version the tenant's index holds. */
  setIndexedVersion(version: number): void {
    this.#changeSession("UPDATE session SET indexed_version = MAX(indexed_version, ?)", version);
  }

  /** Lifts the version above one that the index holds. */
  raiseIndexVersion(version: number): void {
    this.#changeSession("UPDATE session SET index_version = MAX(index_version, ?)", version);
  }

  /** Sets the title. */
  setTitle(title: string): void {
    this.#changeSession("UPDATE session SET title = ?", title);
  }

  /** Deletes everything; what is left says that the index must forget the session too. */
  deleteSession(nowMs: number): void {
    this.#sql.exec(
      `INSERT OR REPLACE INTO deletion (one, tenant, session_id, version)
       SELECT 1, tenant, session_id, MAX(index_version + 1, ?) FROM session`,
      nowMs,
    );
    for (const table of sessionTables) {
      this.#sql.exec(`DELETE FROM ${table}`);
    }
    this.#forgetSession();
    this.#forgetTurns();
  }

  /** A deletion that the index does not know of yet. */
  deletion(): DeletionRecord | undefined {
    const row = this.#first("SELECT * FROM deletion");
    return row === undefined
      ? undefined
      : {
          tenant: text(row, "tenant"),
          sessionId: text(row, "session_id"),
          version: int(row, "version"),
        };
  }

  /** The index knows of the deletion. */
  forgetDeletion(): void {
    this.#sql.exec("DELETE FROM deletion");
  }

  /** The worker that holds the cache; undefined before the first attempt. */
  binding(): BindingRecord | undefined {
    const row = this.#first("SELECT * FROM binding");
    return row === undefined
      ? undefined
      : {
          worker: text(row, "worker"),
          address: text(row, "address"),
          generation: int(row, "generation"),
          issued: int(row, "issued"),
          expiresMs: int(row, "expires_ms"),
        };
  }

  /** A generation number that no attempt has used. */
  issueGeneration(): number {
    this.#sql.exec(
      `INSERT INTO binding (one, worker, generation, issued, expires_ms) VALUES (1, '', 0, 1, 0)
       ON CONFLICT (one) DO UPDATE SET issued = issued + 1`,
    );
    return this.binding()?.issued ?? 1;
  }

  /** Binds the session to a worker that has answered, and notes the one that it leaves. */
  bind(
    { worker, address }: { readonly worker: string; readonly address: string },
    generation: number,
    expiresMs: number,
  ): void {
    const before = this.binding();
    if (before !== undefined && before.worker !== "" && before.worker !== worker) {
      this.left.note({ ...before, generation: before.issued });
    }
    this.left.forget(worker);
    this.#sql.exec(
      `INSERT INTO binding (one, worker, address, generation, issued, expires_ms) VALUES (1, ?, ?, ?, ?, ?)
       ON CONFLICT (one) DO UPDATE SET worker = excluded.worker, address = excluded.address,
         generation = excluded.generation, issued = MAX(issued, excluded.issued), expires_ms = excluded.expires_ms`,
      worker,
      address,
      generation,
      generation,
      expiresMs,
    );
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
    this.#sql.exec("UPDATE binding SET worker = '', expires_ms = 0");
  }

  /** A turn; undefined if there is none of this number. */
  turn(number: number): TurnRecord | undefined {
    if (this.#turns.has(number)) {
      return this.#turns.get(number);
    }
    const row = this.#first("SELECT * FROM turn WHERE number = ?", number);
    const turn = row === undefined ? undefined : turnRecord(row);
    if (this.#turns.size >= turnsKeptMax) {
      this.#turns.clear();
    }
    this.#turns.set(number, turn);
    return turn;
  }

  /** The turn that runs; undefined if none does. */
  runningTurn(): TurnRecord | undefined {
    const row = this.#first("SELECT * FROM turn WHERE running = 1");
    return row === undefined ? undefined : turnRecord(row);
  }

  /** Number of the last turn, 0 before the first. */
  lastTurn(): number {
    return int(this.#one("SELECT COALESCE(MAX(number), 0) AS n FROM turn"), "n");
  }

  /** The turn that was started under this key; undefined if none was. */
  turnByIdempotencyKey(key: string): TurnRecord | undefined {
    const row = this.#first("SELECT * FROM turn WHERE idempotency_key = ?", key);
    return row === undefined ? undefined : turnRecord(row);
  }

  /** Stores a running turn. */
  insertTurn(turn: {
    readonly number: number;
    readonly messagesHash: Uint8Array;
    readonly requestHash: Uint8Array;
    readonly idempotencyKey: string;
    readonly sampling: SamplingParams;
    readonly detach: boolean;
    readonly requestId: string;
    readonly model: string;
    readonly allowFallback?: boolean | undefined;
    readonly ticket?: string;
    readonly nowMs: number;
  }): void {
    this.#changeTurns(
      `INSERT INTO turn (number, running, messages_hash, request_hash, idempotency_key, sampling, detach, request_id,
        start_ms, model, fallback, ticket) VALUES (?, 1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
      turn.number,
      blob(turn.messagesHash),
      blob(turn.requestHash),
      turn.idempotencyKey,
      blob(toBinary(SamplingParamsSchema, turn.sampling)),
      Number(turn.detach),
      turn.requestId,
      turn.nowMs,
      turn.model,
      turn.allowFallback === undefined ? 0 : turn.allowFallback ? 1 : 2,
      turn.ticket ?? "",
    );
  }

  /** Makes a turn outlive its clients. */
  setDetached(number: number): void {
    this.#changeTurns("UPDATE turn SET detach = 1 WHERE number = ?", number);
  }

  /** Notes since when nobody runs or waits for a turn; 0: somebody does. */
  setOrphaned(number: number, sinceMs: number): void {
    this.#changeTurns("UPDATE turn SET orphan_ms = ? WHERE number = ?", sinceMs, number);
  }

  /** Stores what the defaults of the model made of a turn's sampling. */
  setSampling(number: number, sampling: SamplingParams): void {
    this.#changeTurns(
      "UPDATE turn SET sampling = ? WHERE number = ?",
      blob(toBinary(SamplingParamsSchema, sampling)),
      number,
    );
  }

  /** Counts one more attempt; returns how many there were, this one included. */
  countAttempt(number: number): number {
    this.#changeTurns("UPDATE turn SET attempts = attempts + 1 WHERE number = ?", number);
    return this.turn(number)?.attempts ?? 0;
  }

  /** Stores what a worker said when it accepted a turn for the first time: the log grows by the prompt's ids. */
  acceptPrompt(accepted: {
    readonly turn: number;
    readonly promptIds: readonly number[];
    readonly fingerprints: Fingerprints;
    /** The prompt renders the whole transcript and replaces the log. */
    readonly rebuilt: boolean;
  }): void {
    if (accepted.rebuilt) {
      this.#sql.exec("DELETE FROM segment");
    }
    if (accepted.promptIds.length > 0) {
      this.#insertSegment(accepted.turn, SegmentKind.PROMPT, packIds(accepted.promptIds));
    }
    this.#changeSession(
      `UPDATE session SET messages_covered = (SELECT COUNT(*) FROM message), fingerprint_model = ?,
        fingerprint_template = ?, fingerprint_plan = ?`,
      accepted.fingerprints.model,
      accepted.fingerprints.template,
      accepted.fingerprints.plan,
    );
    this.#changeTurns("UPDATE turn SET accepted = 1 WHERE number = ?", accepted.turn);
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
    this.#changeTurns(
      `UPDATE turn SET prompt_tokens = ?, cached_tokens = ?, model = ?, backend = ?, worker = ?, placement = ?
       WHERE number = ?`,
      served.promptTokens,
      served.cachedTokens,
      served.model,
      served.backend,
      served.worker,
      served.placement,
      number,
    );
  }

  /** Appends to the running answer. */
  appendPiece(turn: number, ids: readonly number[], pieceText: string): PieceRecord {
    const last = this.#first("SELECT * FROM piece ORDER BY number DESC LIMIT 1");
    const byteOffset = last === undefined ? 0 : int(last, "byte_offset") + int(last, "byte_length");
    const tokensEnd = (last === undefined ? 0 : int(last, "tokens_end")) + ids.length;
    const byteLength = encoder.encode(pieceText).byteLength;
    const packed = packIds(ids);
    this.#sql.exec(
      "INSERT INTO piece (byte_offset, byte_length, tokens_end, text, ids) VALUES (?, ?, ?, ?, ?)",
      byteOffset,
      byteLength,
      tokensEnd,
      pieceText,
      packed.buffer,
    );
    this.#changeTurns(
      `UPDATE turn SET completion_tokens = ?, text_bytes = ?,
        attempts = CASE WHEN ? > 0 THEN 0 ELSE attempts END WHERE number = ?`,
      tokensEnd,
      byteOffset + byteLength,
      ids.length,
      turn,
    );
    return { byteOffset, byteLength, tokensEnd, text: pieceText, ids: packed };
  }

  /** Pieces of the running answer that end after `byteOffset`, in order. */
  piecesFrom(byteOffset: number): PieceRecord[] {
    return this.#all(
      "SELECT * FROM piece WHERE byte_offset + byte_length > ? ORDER BY number",
      byteOffset,
    ).map(pieceRecord);
  }

  /** All pieces of the running answer. */
  pieces(): PieceRecord[] {
    return this.#all("SELECT * FROM piece ORDER BY number").map(pieceRecord);
  }

  /** Ends a turn: the running answer becomes a message of the transcript and a segment of the log. */
  endTurn(number: number, end: TurnEnd): void {
    const turn = this.turn(number);
    if (turn === undefined) {
      throw new Error(`turn ${number} is not stored`);
    }
    const pieces = this.pieces();
    const ids = concatBytes(...pieces.map((piece) => piece.ids));
    const kept = end.generatedTokens === undefined ? ids : ids.subarray(0, end.generatedTokens * 4);
    if (kept.byteLength > 0) {
      this.#insertSegment(number, SegmentKind.GENERATED, kept);
    }
    const answer = pieces.map((piece) => piece.text).join("");
    this.insertMessage(number, Role.ASSISTANT, answer, true, end.nowMs);
    if (turn.accepted) {
      this.#changeSession("UPDATE session SET messages_covered = (SELECT COUNT(*) FROM message)");
    }
    this.#sql.exec("DELETE FROM piece");
    this.#changeTurns(
      `UPDATE turn SET running = 0, end_ms = ?, finish_reason = ?, error_message = ?, completion_tokens = ?,
        text_bytes = ?, cache_bytes = ? WHERE number = ?`,
      end.nowMs,
      end.finishReason,
      end.errorMessage,
      kept.byteLength / 4,
      encoder.encode(answer).byteLength,
      end.cacheBytes,
      number,
    );
    this.#changeSession("UPDATE session SET cache_bytes = ?", end.cacheBytes);
  }

  /** Takes back a turn that no worker accepted, with its messages. */
  withdrawTurn(number: number): void {
    this.#sql.exec("DELETE FROM piece");
    this.#sql.exec("DELETE FROM message WHERE turn = ?", number);
    this.#sql.exec("DELETE FROM segment WHERE turn = ?", number);
    this.#changeTurns("DELETE FROM turn WHERE number = ?", number);
    this.#changeSession(
      "UPDATE session SET messages_covered = MIN(messages_covered, (SELECT COUNT(*) FROM message))",
    );
  }

  /** Appends a message to the transcript. */
  insertMessage(
    turn: number,
    role: Role,
    messageText: string,
    answer: boolean,
    nowMs: number,
  ): void {
    this.#sql.exec(
      `INSERT INTO message (position, turn, role, text, answer, create_ms)
       VALUES ((SELECT COALESCE(MAX(position) + 1, 0) FROM message), ?, ?, ?, ?, ?)`,
      turn,
      role,
      messageText,
      Number(answer),
      nowMs,
    );
  }

  /** Messages from a position on, in order, at most `limit`. */
  messages(from: number, limit: number): MessageRecord[] {
    return this.#all(
      "SELECT * FROM message WHERE position >= ? ORDER BY position LIMIT ?",
      from,
      limit,
    ).map(messageRecord);
  }

  /** Messages from a position on, read one by one; nothing may be written meanwhile. */
  *eachMessage(from: number): Generator<MessageRecord, void, undefined> {
    const query = "SELECT * FROM message WHERE position >= ? ORDER BY position";
    for (const row of this.#sql.exec(query, from)) {
      yield messageRecord(row);
    }
  }

  /** Number of stored messages; a running answer is not one yet. */
  messageCount(): number {
    return int(this.#one("SELECT COUNT(*) AS n FROM message"), "n");
  }

  /** The answer of an ended turn. */
  answerText(turn: number): string {
    const row = this.#first(
      "SELECT text FROM message WHERE turn = ? AND answer = 1 ORDER BY position DESC LIMIT 1",
      turn,
    );
    return row === undefined ? "" : text(row, "text");
  }

  /** The log. */
  segments(): PackedSegment[] {
    return this.#all("SELECT kind, ids FROM segment ORDER BY position").map((row) => ({
      kind: segmentKind(row),
      ids: bytes(row, "ids"),
    }));
  }

  /** Segments of turns up to and including `turn`, with their turns. */
  segmentsUpTo(turn: number): (PackedSegment & { readonly turn: number })[] {
    return this.#all(
      "SELECT turn, kind, ids FROM segment WHERE turn <= ? ORDER BY position",
      turn,
    ).map((row) => ({
      turn: int(row, "turn"),
      kind: segmentKind(row),
      ids: bytes(row, "ids"),
    }));
  }

  /** Tokens in the log, those of a running answer included. */
  tokenCount(): number {
    const stored = int(this.#one("SELECT COALESCE(SUM(LENGTH(ids)), 0) AS n FROM segment"), "n");
    const running = int(this.#one("SELECT COALESCE(SUM(LENGTH(ids)), 0) AS n FROM piece"), "n");
    return (stored + running) / 4;
  }

  /** Turns up to and including `turn`, in order. */
  turnsUpTo(turn: number): TurnRecord[] {
    return this.#all("SELECT * FROM turn WHERE number <= ? ORDER BY number", turn).map(turnRecord);
  }

  /** Copies an ended turn in, as a fork does. */
  importTurn(turn: TurnRecord): void {
    this.#changeTurns(
      `INSERT INTO turn (number, running, messages_hash, request_hash, idempotency_key, sampling, detach, request_id,
        start_ms, end_ms, attempts, accepted, prompt_tokens, cached_tokens, completion_tokens, text_bytes,
        finish_reason, error_message, model, backend, worker, cache_bytes)
       VALUES (?, 0, ?, ?, '', ?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)`,
      turn.number,
      blob(turn.messagesHash),
      blob(turn.requestHash),
      blob(toBinary(SamplingParamsSchema, turn.sampling)),
      turn.requestId,
      turn.startMs,
      turn.endMs,
      turn.attempts,
      Number(turn.accepted),
      turn.promptTokens,
      turn.cachedTokens,
      turn.completionTokens,
      turn.textBytes,
      turn.finishReason,
      turn.errorMessage,
      turn.model,
      turn.backend,
      turn.worker,
    );
  }

  /** Copies a segment in, as a fork does. */
  importSegment(turn: number, segment: PackedSegment): void {
    this.#insertSegment(turn, segment.kind, segment.ids);
  }

  #insertSegment(turn: number, kind: SegmentKind, ids: Uint8Array): void {
    this.#sql.exec(
      `INSERT INTO segment (position, turn, kind, ids)
       VALUES ((SELECT COALESCE(MAX(position) + 1, 0) FROM segment), ?, ?, ?)`,
      turn,
      kind,
      blob(ids),
    );
  }

  /** Writes to the table of the session. */
  #changeSession(statement: string, ...values: SqlValue[]): void {
    this.#forgetSession();
    this.#sql.exec(statement, ...values);
  }

  /** Writes to the table of turns. */
  #changeTurns(statement: string, ...values: SqlValue[]): void {
    this.#forgetTurns();
    this.#sql.exec(statement, ...values);
  }

  #forgetSession(): void {
    this.#session = undefined;
  }

  #forgetTurns(): void {
    this.#turns.clear();
  }

  #all(query: string, ...values: SqlValue[]): Row[] {
    return this.#sql.exec(query, ...values).toArray();
  }

  #first(query: string, ...values: SqlValue[]): Row | undefined {
    return this.#all(query, ...values)[0];
  }

  #one(query: string): Row {
    return this.#sql.exec(query).one();
  }
}

function segmentKind(row: Row): SegmentKind.PROMPT | SegmentKind.GENERATED {
  const kind = member<SegmentKind>(row, "kind");
  return kind === SegmentKind.PROMPT ? SegmentKind.PROMPT : SegmentKind.GENERATED;
}

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
