/**
 * Which of a SessionObject's tables there are. They are made when something is first stored in them, in the transaction that
 * stores it: a session that begins is one commit, and an object that nobody stores anything in stays empty. To who reads, a
 * table that is not there is one without rows.
 */
import { everySessionTables, sessionSchema } from "./session-schema.js";
import type { SessionTable } from "./session-schema.js";
import { text } from "./sql-row.js";

/** What makes a table, without what only people read: SQLite keeps the text, and reads it with every start of an object. */
function makes(table: SessionTable): string {
  return sessionSchema[table].replaceAll(/--[^\n]*\n/g, "").replaceAll(/\s+/g, " ");
}

const everySession = new Set<SessionTable>(everySessionTables);
const makesEverySession = everySessionTables.map(makes).join(";");

/** See the head of this file. */
export class SessionTables {
  readonly #sql: SqlStorage;
  #known: Set<string> | undefined;

  /** Looks at nothing yet. */
  constructor(sql: SqlStorage) {
    this.#sql = sql;
  }

  /** Whether a table is there. */
  has(table: SessionTable): boolean {
    this.#known ??= new Set(
      this.#sql
        .exec("SELECT name FROM sqlite_master WHERE type = 'table'")
        .toArray()
        .map((row) => text(row, "name")),
    );
    return this.#known.has(table);
  }

  /** Makes a table that is not there, and with one that every session has all of these. */
  make(table: SessionTable): void {
    const every = everySession.has(table);
    this.#sql.exec(every ? makesEverySession : makes(table));
    for (const made of every ? everySession : [table]) {
      this.#known?.add(made);
    }
  }

  /** Forgets which there are: storage was undone. */
  forget(): void {
    this.#known = undefined;
  }
}
