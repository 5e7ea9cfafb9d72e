/**
 * The index of one tenant's sessions, for lists. Owns one row a session, a copy of what the SessionObject says; that one
 * is the truth. Updates carry a version: an older one changes nothing, so they may arrive twice or out of order.
 * Everything is in storage and survives eviction. There is no alarm; tombstones of deletions go with later updates, and places
 * of sessions that were never made lapse.
 */
import { DurableObject } from "cloudflare:workers";
import type { GatewayEnv } from "../bindings.js";
import { sessionReserveMs, tombstoneMs } from "../limits.js";
import type { IndexEntry } from "./index-entry.js";
import { int, text } from "./sql-row.js";

/** Where a page ends: the last session on it. */
export interface IndexPosition {
  readonly updateMs: number;
  readonly sessionId: string;
}

/** Kinds of rows, in column `deleted`. */
const rowKind = {
  session: 0,
  /** A tombstone. */
  deleted: 1,
  /** The place of a session that is being made. */
  reserved: 2,
} as const;

/** See the head of this file. */
export class TenantObject extends DurableObject<GatewayEnv> {
  readonly #sql: SqlStorage;

  constructor(ctx: DurableObjectState, env: GatewayEnv) {
    super(ctx, env);
    this.#sql = ctx.storage.sql;
    this.#sql.exec(
      `CREATE TABLE IF NOT EXISTS session (
        session_id TEXT PRIMARY KEY,
        version INTEGER NOT NULL,
        deleted INTEGER NOT NULL,
        model TEXT NOT NULL,
        title TEXT NOT NULL,
        create_ms INTEGER NOT NULL,
        update_ms INTEGER NOT NULL,
        last_turn INTEGER NOT NULL,
        running_turn INTEGER NOT NULL,
        message_count INTEGER NOT NULL,
        forked_from TEXT NOT NULL
      )`,
    );
    const columns = this.#sql.exec("PRAGMA table_info(session)").toArray();
    if (!columns.some((row) => row["name"] === "key_id")) {
      this.#sql.exec("ALTER TABLE session ADD COLUMN key_id TEXT NOT NULL DEFAULT ''");
    }
    this.#sql.exec("CREATE INDEX IF NOT EXISTS by_key ON session (key_id, deleted)");
    this.#sql.exec(
      "CREATE INDEX IF NOT EXISTS by_update ON session (deleted, update_ms DESC, session_id DESC)",
    );
  }

  /** Takes an entry unless a newer one is there. Returns the version that is held now. */
  put(entry: IndexEntry): number {
    const taken = this.#sql.exec(
      `INSERT INTO session (session_id, version, deleted, model, title, create_ms, update_ms, last_turn, running_turn,
        message_count, forked_from, key_id) VALUES (?, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?)
       ON CONFLICT (session_id) DO UPDATE SET version = excluded.version, deleted = 0, model = excluded.model,
        title = excluded.title, create_ms = excluded.create_ms, update_ms = excluded.update_ms,
        last_turn = excluded.last_turn, running_turn = excluded.running_turn,
        message_count = excluded.message_count, forked_from = excluded.forked_from, key_id = excluded.key_id
       WHERE excluded.version > session.version
        -- A deletion is the last of its life: the same version alive is another life in the same millisecond.
        OR (excluded.version = session.version AND session.deleted <> 0)
       RETURNING version`,
      entry.sessionId,
      entry.version,
      entry.model,
      entry.title,
      entry.createMs,
      entry.updateMs,
      entry.lastTurn,
      entry.runningTurn,
      entry.messageCount,
      entry.forkedFrom,
      entry.keyId,
    );
    // A row that was not changed is not returned.
    return taken.toArray().length > 0 ? entry.version : this.#version(entry.sessionId);
  }

  /** The same for several, in one commit; the version of each that is there afterwards. */
  putAll(entries: readonly IndexEntry[]): number[] {
    return entries.map((entry) => this.put(entry));
  }

  /** Removes a session unless something newer than this version is there. */
  remove(sessionId: string, version: number): number {
    const nowMs = Date.now();
    this.#sql.exec(
      `INSERT INTO session (session_id, version, deleted, model, title, create_ms, update_ms, last_turn, running_turn,
        message_count, forked_from) VALUES (?, ?, 1, '', '', 0, ?, 0, 0, 0, '')
       ON CONFLICT (session_id) DO UPDATE SET version = excluded.version, deleted = 1, model = '', title = '',
        update_ms = excluded.update_ms, forked_from = '', key_id = ''
       WHERE excluded.version > session.version`,
      sessionId,
      version,
      nowMs,
    );
    this.#sql.exec("DELETE FROM session WHERE deleted = 1 AND update_ms < ?", nowMs - tombstoneMs);
    return this.#version(sessionId);
  }

  /** Sessions after a position, latest update first. */
  list(limit: number, after: IndexPosition | undefined): IndexEntry[] {
    const rows =
      after === undefined
        ? this.#sql.exec(
            "SELECT * FROM session WHERE deleted = 0 ORDER BY update_ms DESC, session_id DESC LIMIT ?",
            limit,
          )
        : this.#sql.exec(
            `SELECT * FROM session WHERE deleted = 0 AND (update_ms, session_id) < (?, ?)
             ORDER BY update_ms DESC, session_id DESC LIMIT ?`,
            after.updateMs,
            after.sessionId,
            limit,
          );
    return rows.toArray().map((row) => ({
      sessionId: text(row, "session_id"),
      version: int(row, "version"),
      model: text(row, "model"),
      title: text(row, "title"),
      createMs: int(row, "create_ms"),
      updateMs: int(row, "update_ms"),
      lastTurn: int(row, "last_turn"),
      runningTurn: int(row, "running_turn"),
      messageCount: int(row, "message_count"),
      forkedFrom: text(row, "forked_from"),
      keyId: text(row, "key_id"),
    }));
  }

  /**
   * Takes the place of a session that a key is about to make, for sessionReserveMs; the session's first update makes it
   * lasting. Undefined if the session is there, or its place was taken; otherwise how many the key has, which is `max` or more.
   */
  reserve(sessionId: string, keyId: string, max: number): number | undefined {
    const nowMs = Date.now();
    this.#sql.exec(
      "UPDATE session SET deleted = ?, key_id = '', update_ms = ? WHERE deleted = ? AND update_ms <= ?",
      rowKind.deleted,
      nowMs,
      rowKind.reserved,
      nowMs - sessionReserveMs,
    );
    const [known] = this.#sql
      .exec(
        "SELECT deleted FROM session WHERE session_id = ? AND deleted <> ?",
        sessionId,
        rowKind.deleted,
      )
      .toArray();
    if (known !== undefined) {
      return undefined;
    }
    const count = this.#sql
      .exec(
        "SELECT COUNT(*) AS n FROM session WHERE key_id = ? AND deleted <> ?",
        keyId,
        rowKind.deleted,
      )
      .one();
    const held = int(count, "n");
    if (held >= max) {
      return held;
    }
    this.#sql.exec(
      `INSERT INTO session (session_id, version, deleted, model, title, create_ms, update_ms, last_turn, running_turn,
        message_count, forked_from, key_id) VALUES (?, 0, ?, '', '', 0, ?, 0, 0, 0, '', ?)
       ON CONFLICT (session_id) DO UPDATE SET deleted = excluded.deleted, update_ms = excluded.update_ms,
        key_id = excluded.key_id`,
      sessionId,
      rowKind.reserved,
      nowMs,
      keyId,
    );
    return undefined;
  }

  #version(sessionId: string): number {
    const row = this.#sql
      .exec("SELECT version FROM session WHERE session_id = ?", sessionId)
      .toArray()[0];
    return row === undefined ? 0 : int(row, "version");
  }
}
