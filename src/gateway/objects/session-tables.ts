/**
 * Which of a SessionObject's tables there are. They are made when something is first stored in them, in the transaction that
 * stores it: a session that begins is one commit, and an object that nobody stores anything in stays empty. To who reads, a
 * table that is not there is one without rows.
 */
import { migrate } from "./session-migration.js";
import { everySessionTables, makes } from "./session-schema.js";
import type { SessionTable } from "./session-schema.js";
import { text } from "./sql-row.js";

const everySession = new Set<SessionTable>(everySessionTables);
const makesEverySession = everySessionTables.map(makes).join(";");

/** See the head of this file. */
export class SessionTables {
  readonly #storage: DurableObjectStorage;
  #known: Set<string> | undefined;

  /** Looks at nothing yet. */
  constructor(storage: DurableObjectStorage) {
    this.#storage = storage;
  }

  /** Whether a table is there, in its form of today: what was stored in an older one is migrated at the first look. */
  has(table: SessionTable): boolean {
    this.#known ??= this.#look();
    return this.#known.has(table);
  }

  /** Makes a table that is not there, and with one that every session has all of these. */
  make(table: SessionTable): void {
    const every = everySession.has(table);
    this.#storage.sql.exec(every ? makesEverySession : makes(table));
    for (const made of every ? everySession : [table]) {
      this.#known?.add(made);
    }
  }

  /** Forgets which there are: storage was undone. */
  forget(): void {
    this.#known = undefined;
  }

  #look(): Set<string> {
    const made = new Map<string, string>();
    const query = "SELECT name, sql FROM sqlite_master WHERE type = 'table'";
    for (const row of this.#storage.sql.exec(query)) {
      made.set(text(row, "name"), text(row, "sql"));
    }
    migrate(this.#storage, made);
    return new Set(made.keys());
  }
}
