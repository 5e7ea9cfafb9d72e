/** Tables of a SessionObject. All of its SQL text about their shape is here; session-store.ts holds the statements. */

/** Statements that make the tables, in order; each may run again. */
export const sessionSchema: readonly string[] = [
  // The one session of this object.
  `CREATE TABLE IF NOT EXISTS session (
    one INTEGER PRIMARY KEY CHECK (one = 1),
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
    indexed_version INTEGER NOT NULL DEFAULT 0
  )`,
  // The worker that holds the cache. 'issued' counts generations ever sent, also by attempts that failed.
  `CREATE TABLE IF NOT EXISTS binding (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    worker TEXT NOT NULL,
    generation INTEGER NOT NULL,
    issued INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL
  )`,
  `CREATE TABLE IF NOT EXISTS turn (
    number INTEGER PRIMARY KEY,
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
    cache_bytes INTEGER NOT NULL DEFAULT 0
  )`,
  `CREATE TABLE IF NOT EXISTS message (
    position INTEGER PRIMARY KEY,
    turn INTEGER NOT NULL,
    role INTEGER NOT NULL,
    text TEXT NOT NULL,
    answer INTEGER NOT NULL,
    create_ms INTEGER NOT NULL
  )`,
  // The log: token ids of prompts and answers, packed as u32 little endian.
  `CREATE TABLE IF NOT EXISTS segment (
    position INTEGER PRIMARY KEY,
    turn INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    ids BLOB NOT NULL
  )`,
  // The running answer, append by append; it becomes a message and a segment when the turn ends.
  `CREATE TABLE IF NOT EXISTS piece (
    number INTEGER PRIMARY KEY,
    byte_offset INTEGER NOT NULL,
    byte_length INTEGER NOT NULL,
    tokens_end INTEGER NOT NULL,
    text TEXT NOT NULL,
    ids BLOB NOT NULL
  )`,
  // The cache: its plan, pages that the worker held when it last said so, when to save it (0: not at all).
  `CREATE TABLE IF NOT EXISTS cache (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    plan TEXT NOT NULL DEFAULT '',
    plan_pages_max INTEGER NOT NULL DEFAULT 0,
    plan_bytes_max INTEGER NOT NULL DEFAULT 0,
    pages INTEGER NOT NULL DEFAULT 0,
    save_due_ms INTEGER NOT NULL DEFAULT 0
  )`,
  // The saved cache; its bytes are the rows of that number.
  `CREATE TABLE IF NOT EXISTS snapshot (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    number INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    sha256 BLOB NOT NULL,
    fingerprint_model TEXT NOT NULL,
    fingerprint_template TEXT NOT NULL,
    fingerprint_plan TEXT NOT NULL,
    engine_version TEXT NOT NULL,
    bytes INTEGER NOT NULL
  )`,
  `CREATE TABLE IF NOT EXISTS snapshot_row (
    number INTEGER NOT NULL,
    position INTEGER NOT NULL,
    bytes BLOB NOT NULL,
    PRIMARY KEY (number, position)
  )`,
  // Workers that may still hold the sequence though the session has left them (left-workers.ts).
  `CREATE TABLE IF NOT EXISTS left_worker (
    worker TEXT NOT NULL,
    address TEXT NOT NULL,
    generation INTEGER NOT NULL,
    tries INTEGER NOT NULL
  )`,
  // A deletion that the tenant's index does not know of yet.
  `CREATE TABLE IF NOT EXISTS deletion (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    tenant TEXT NOT NULL,
    session_id TEXT NOT NULL,
    version INTEGER NOT NULL
  )`,
];

/** Columns that came later: each is added to a table that was made without it. */
export const sessionColumns: readonly {
  readonly table: string;
  readonly column: string;
  readonly definition: string;
}[] = [
  // Where the worker of the binding is reached; empty where its name says it.
  { table: "binding", column: "address", definition: "TEXT NOT NULL DEFAULT ''" },
  // leanedge.v1.PlacementReason of the turn's worker.
  { table: "turn", column: "placement", definition: "INTEGER NOT NULL DEFAULT 0" },
  // Whether another model may answer: 0 as the configuration says, 1 yes, 2 no.
  { table: "turn", column: "fallback", definition: "INTEGER NOT NULL DEFAULT 0" },
  // What the turn keeps of the key that began it (turn-ticket.ts); empty for none.
  { table: "turn", column: "ticket", definition: "TEXT NOT NULL DEFAULT ''" },
  // Id of the key that made the session; empty for none.
  { table: "session", column: "key_id", definition: "TEXT NOT NULL DEFAULT ''" },
];

/** Tables that a deletion empties. */
export const sessionTables = [
  "session",
  "binding",
  "turn",
  "message",
  "segment",
  "piece",
  "cache",
  "snapshot",
  "snapshot_row",
  "left_worker",
] as const;
