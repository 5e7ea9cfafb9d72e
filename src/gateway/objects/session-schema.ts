/**
 * Tables of a SessionObject. All of its SQL text about their shape is here; each table's statements are in a file of its own. Rows
 * begin with the number of their session (session-key.ts). What was stored before they did is session-migration.ts's.
 */

/** Names of the tables. */
export type SessionTable = keyof typeof sessionSchema;

/** What makes each table. */
const sessionSchema = {
  session: `CREATE TABLE session (
    session INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    session_id TEXT NOT NULL,
    model TEXT NOT NULL,
    title TEXT NOT NULL,
    title_given INTEGER NOT NULL,
    -- Made by a turn, not by CreateSession: it goes again if its first turn is refused.
    implicit INTEGER NOT NULL,
    create_ms INTEGER NOT NULL,
    update_ms INTEGER NOT NULL,
    forked_from TEXT NOT NULL,
    forked_turn INTEGER NOT NULL,
    -- Messages that the log covers; the next turn sends the worker those after them.
    messages_covered INTEGER NOT NULL DEFAULT 0,
    -- Cache that the worker held when it last said so.
    cache_bytes INTEGER NOT NULL DEFAULT 0,
    fingerprint_model TEXT NOT NULL DEFAULT '',
    fingerprint_template TEXT NOT NULL DEFAULT '',
    fingerprint_plan TEXT NOT NULL DEFAULT '',
    -- Version of what the tenant's index should hold, and of what it is known to hold.
    index_version INTEGER NOT NULL DEFAULT 0,
    indexed_version INTEGER NOT NULL DEFAULT 0,
    -- Id of the key that made the session; empty for none.
    key_id TEXT NOT NULL DEFAULT ''
  )`,
  // The worker that holds the cache. 'issued' counts generations ever sent, also by attempts that failed.
  binding: `CREATE TABLE binding (
    session INTEGER PRIMARY KEY,
    worker TEXT NOT NULL,
    generation INTEGER NOT NULL,
    issued INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    -- Where the worker is reached; empty where its name says it.
    address TEXT NOT NULL
  )`,
  turn: `CREATE TABLE turn (
    session INTEGER NOT NULL,
    number INTEGER NOT NULL,
    running INTEGER NOT NULL,
    messages_hash BLOB NOT NULL,
    -- Hash of a whole request in OpenAI form, by which a retry is recognised; empty otherwise.
    request_hash BLOB NOT NULL,
    idempotency_key TEXT NOT NULL,
    -- leanedge.v1.SamplingParams, the seed included.
    sampling BLOB NOT NULL,
    detach INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    start_ms INTEGER NOT NULL,
    end_ms INTEGER NOT NULL DEFAULT 0,
    -- When an alarm first found that nobody runs or waits for the turn; 0 otherwise.
    orphan_ms INTEGER NOT NULL DEFAULT 0,
    -- Attempts in a row that gave no new token.
    attempts INTEGER NOT NULL DEFAULT 0,
    accepted INTEGER NOT NULL DEFAULT 0,
    prompt_tokens INTEGER NOT NULL DEFAULT 0,
    cached_tokens INTEGER NOT NULL DEFAULT 0,
    completion_tokens INTEGER NOT NULL DEFAULT 0,
    text_bytes INTEGER NOT NULL DEFAULT 0,
    finish_reason INTEGER NOT NULL DEFAULT 0,
    error_message TEXT NOT NULL DEFAULT '',
    model TEXT NOT NULL DEFAULT '',
    backend INTEGER NOT NULL DEFAULT 0,
    worker TEXT NOT NULL DEFAULT '',
    cache_bytes INTEGER NOT NULL DEFAULT 0,
    -- leanedge.v1.PlacementReason of its worker.
    placement INTEGER NOT NULL DEFAULT 0,
    -- Whether another model may answer: 0 as the configuration says, 1 yes, 2 no.
    fallback INTEGER NOT NULL DEFAULT 0,
    -- What the turn keeps of the key that began it (turn-ticket.ts); empty for none.
    ticket TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (session, number)
  ) WITHOUT ROWID`,
  message: `CREATE TABLE message (
    session INTEGER NOT NULL,
    position INTEGER NOT NULL,
    turn INTEGER NOT NULL,
    role INTEGER NOT NULL,
    text TEXT NOT NULL,
    answer INTEGER NOT NULL,
    create_ms INTEGER NOT NULL,
    PRIMARY KEY (session, position)
  ) WITHOUT ROWID`,
  // The log: token ids of prompts and answers, packed as u32 little endian.
  segment: `CREATE TABLE segment (
    session INTEGER NOT NULL,
    position INTEGER NOT NULL,
    turn INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    ids BLOB NOT NULL,
    PRIMARY KEY (session, position)
  ) WITHOUT ROWID`,
  // The running answer, append by append; it becomes a message and a segment when the turn ends.
  piece: `CREATE TABLE piece (
    session INTEGER NOT NULL,
    number INTEGER NOT NULL,
    byte_offset INTEGER NOT NULL,
    byte_length INTEGER NOT NULL,
    tokens_end INTEGER NOT NULL,
    text TEXT NOT NULL,
    ids BLOB NOT NULL,
    PRIMARY KEY (session, number)
  ) WITHOUT ROWID`,
  // The cache: its plan, pages that the worker held when it last said so, when to save it (0: not at all).
  cache: `CREATE TABLE cache (
    session INTEGER PRIMARY KEY,
    plan TEXT NOT NULL DEFAULT '',
    plan_pages_max INTEGER NOT NULL DEFAULT 0,
    plan_bytes_max INTEGER NOT NULL DEFAULT 0,
    pages INTEGER NOT NULL DEFAULT 0,
    save_due_ms INTEGER NOT NULL DEFAULT 0
  )`,
  // The saved cache; its bytes are the rows of that number.
  snapshot: `CREATE TABLE snapshot (
    session INTEGER PRIMARY KEY,
    number INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    sha256 BLOB NOT NULL,
    fingerprint_model TEXT NOT NULL,
    fingerprint_template TEXT NOT NULL,
    fingerprint_plan TEXT NOT NULL,
    engine_version TEXT NOT NULL,
    bytes INTEGER NOT NULL
  )`,
  snapshot_row: `CREATE TABLE snapshot_row (
    session INTEGER NOT NULL,
    number INTEGER NOT NULL,
    position INTEGER NOT NULL,
    bytes BLOB NOT NULL,
    PRIMARY KEY (session, number, position)
  )`,
  // Workers that may still hold the sequence though the session has left them (left-workers.ts).
  left_worker: `CREATE TABLE left_worker (
    session INTEGER NOT NULL,
    -- The one that was left first has the smallest.
    position INTEGER NOT NULL,
    worker TEXT NOT NULL,
    address TEXT NOT NULL,
    generation INTEGER NOT NULL,
    tries INTEGER NOT NULL,
    PRIMARY KEY (session, position)
  ) WITHOUT ROWID`,
  // A deletion that the tenant's index does not know of yet.
  deletion: `CREATE TABLE deletion (
    session INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    session_id TEXT NOT NULL,
    version INTEGER NOT NULL
  )`,
} as const satisfies Readonly<Record<string, string>>;

/** The statement that makes a table, without what only people read: SQLite keeps the text, and reads it with every start of an object. */
export function makes(table: SessionTable): string {
  return sessionSchema[table].replaceAll(/--[^\n]*\n/g, "").replaceAll(/\s+/g, " ");
}

/** Tables that every session has: they are made together, with its first row. The others are made when something is stored in them. */
export const everySessionTables = [
  "session",
  "binding",
  "turn",
  "message",
  "segment",
  "piece",
  "cache",
] as const satisfies readonly SessionTable[];

/** Tables that a deletion empties. */
export const sessionTables = [
  ...everySessionTables,
  "snapshot",
  "snapshot_row",
  "left_worker",
] as const satisfies readonly SessionTable[];

/** Statements that make the table of the sessions of an object that many share (occupants.ts). */
export const makesOccupants = [
  `CREATE TABLE IF NOT EXISTS occupant (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, due_ms INTEGER NOT NULL)`,
  "CREATE INDEX IF NOT EXISTS occupant_due ON occupant (due_ms) WHERE due_ms > 0",
].join(";");
