/**
 * Tables that were made before a row began with its session's number (session-schema.ts): such an object has one session. Each is made
 * anew with the rows of the old one, which become those of session 1.
 */
import { onlySession } from "./session-key.js";
import { makes } from "./session-schema.js";
import type { SessionTable } from "./session-schema.js";

/** Columns that the old tables have, and the new ones still; their key `one`, which was always 1, is the session's number now. */
const columnsBefore: Readonly<Record<SessionTable, string>> = {
  session: `tenant, session_id, model, title, title_given, implicit, create_ms, update_ms, forked_from, forked_turn,
    messages_covered, cache_bytes, fingerprint_model, fingerprint_template, fingerprint_plan, index_version, indexed_version, key_id`,
  binding: "worker, generation, issued, expires_ms, address",
  turn: `number, running, messages_hash, request_hash, idempotency_key, sampling, detach, request_id, start_ms, end_ms, orphan_ms,
    attempts, accepted, prompt_tokens, cached_tokens, completion_tokens, text_bytes, finish_reason, error_message, model, backend,
    worker, cache_bytes, placement, fallback, ticket`,
  message: "position, turn, role, text, answer, create_ms",
  segment: "position, turn, kind, ids",
  piece: "number, byte_offset, byte_length, tokens_end, text, ids",
  cache: "plan, plan_pages_max, plan_bytes_max, pages, save_due_ms",
  snapshot: `number, tokens, sha256, fingerprint_model, fingerprint_template, fingerprint_plan, engine_version,
    bytes`,
  snapshot_row: "number, position, bytes",
  left_worker: "worker, address, generation, tries",
  deletion: "tenant, session_id, version",
};

const tables = Object.keys(columnsBefore) as SessionTable[];

/**
 * Gives an object's old tables their form of today, all of them or none. All rows are kept.
 *
 * @param made the object's tables by name, with the statements that made them
 */
export function migrate(storage: DurableObjectStorage, made: ReadonlyMap<string, string>): void {
  const old = tables.filter((table) => made.get(table)?.includes("session INTEGER") === false);
  if (old.length > 0) {
    storage.transactionSync(() => {
      for (const table of old) {
        migrateTable(storage.sql, table);
      }
    });
  }
}

function migrateTable(sql: SqlStorage, table: SessionTable): void {
  const old = `${table}_before`;
  const columns = columnsBefore[table];
  // The order of left workers was that of their row ids.
  const [position, rowId] = table === "left_worker" ? ["position, ", "rowid, "] : ["", ""];
  sql.exec(`ALTER TABLE ${table} RENAME TO ${old}`);
  sql.exec(makes(table));
  sql.exec(
    `INSERT INTO ${table} (session, ${position}${columns}) SELECT ?, ${rowId}${columns} FROM ${old}`,
    onlySession.number,
  );
  sql.exec(`DROP TABLE ${old}`);
}
