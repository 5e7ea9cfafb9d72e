/**
 * The way of a session's changes to its tables. The object is the only writer of its storage, so what its tables say is kept
 * in memory once it was read, changes there first, and is written through: each changed row once, however often it changed.
 * Nothing is read back. What is undone in storage is forgotten in memory, and read anew.
 *
 * Rows of other sessions may be in the same tables (session-key.ts). Queries and conditions therefore begin with `session = ?`,
 * whose value is given here.
 */
import { singleCommits } from "./commit-group.js";
import type { Commits } from "./commit-group.js";
import { onlySession } from "./session-key.js";
import type { SessionKey } from "./session-key.js";
import type { SessionTable } from "./session-schema.js";
import { SessionTables } from "./session-tables.js";
import { int } from "./sql-row.js";
import type { Row, SqlValue } from "./sql-row.js";

/** A part of the tables that is kept in memory. */
export interface KeptTable {
  /** Reads what changes of it need, unless that is kept; what comes back means nothing. */
  look(): unknown;
  /** Writes what changed of it since this was last called. */
  write(): void;
  /** Forgets all of it: the next look reads it. */
  reset(): void;
}

/** See the head of this file. */
export class StoreWrites {
  /** Whose rows these are. */
  readonly key: SessionKey;
  readonly #storage: DurableObjectStorage;
  readonly #sql: SqlStorage;
  readonly #commits: Commits;
  /** Those that are there. */
  readonly #made: SessionTables;
  readonly #tables: KeptTable[] = [];
  /** Statements that wait, in order. */
  #statements: (() => void)[] = [];
  /** Tables with rows that changed. */
  readonly #changed = new Set<KeptTable>();
  /** The same, of changes that no one waits for and that may be lost. */
  readonly #idle = new Set<KeptTable>();
  #depth = 0;
  /** Counts changes. */
  #changes = 0;
  /** Counts statements that wrote; those up to `#durable` are known to be durable. */
  #written = 0;
  #durable = 0;
  #onWaiting = (): void => undefined;

  /** Writes nothing yet. @param tables those of `storage`, which other sessions may know, too */
  constructor(
    storage: DurableObjectStorage,
    key: SessionKey = onlySession,
    tables = new SessionTables(storage),
    commits = singleCommits(storage),
  ) {
    this.key = key;
    this.#storage = storage;
    this.#sql = storage.sql;
    this.#made = tables;
    this.#commits = commits;
  }

  /** Has somebody told whenever changes were put off, to write them in time; told again for each of them. */
  onWaiting(tell: () => void): void {
    this.#onWaiting = tell;
  }

  /** Something was put off and waits to be written. */
  get waiting(): boolean {
    return !this.#nothingWaits;
  }

  /** Nothing waits, and all that was written is known to be durable. */
  get durable(): boolean {
    return this.#nothingWaits && this.#durable >= this.#written;
  }

  /** Has a table forget what it keeps whenever storage was undone. */
  register(table: KeptTable): void {
    this.#tables.push(table);
  }

  /** Rows of a query of one table, whose first value is the session's number. What waits is written first. */
  all(table: SessionTable, query: string, ...values: SqlValue[]): Row[] {
    this.#write();
    return this.#made.has(table) ? this.#sql.exec(query, this.key.number, ...values).toArray() : [];
  }

  /** The first row of a query of one table; undefined if there is none. */
  first(table: SessionTable, query: string, ...values: SqlValue[]): Row | undefined {
    return this.all(table, query, ...values)[0];
  }

  /** Rows of a table whose `position` counts them from 0 without gaps. */
  count(table: "message" | "segment"): number {
    const row = this.first(
      table,
      `SELECT COALESCE(MAX(position) + 1, 0) AS n FROM ${table} WHERE session = ?`,
    );
    return row === undefined ? 0 : int(row, "n");
  }

  /** A statement that stores rows in a table, at once: for `KeptTable.write`. Its values name the session, too. */
  run(table: SessionTable, statement: string, ...values: SqlValue[]): void {
    if (!this.#made.has(table)) {
      this.#made.make(table);
    }
    this.key.taken();
    this.#written++;
    this.#sql.exec(statement, ...values);
  }

  /** A statement that stores rows in a table, whose first value is the session's number, now or with what it belongs to. */
  exec(table: SessionTable, statement: string, ...values: SqlValue[]): void {
    this.#changes++;
    this.#statements.push(() => this.run(table, statement, this.key.number, ...values));
    this.#writeUnlessInside();
  }

  /** Deletes the session's rows of a table, all or those `where`, now or with what it belongs to. */
  delete(table: SessionTable, where?: string, ...values: SqlValue[]): void {
    const condition = where === undefined ? "" : ` AND ${where}`;
    const statement = `DELETE FROM ${table} WHERE session = ?${condition}`;
    this.#changes++;
    this.#statements.push(() => {
      if (this.#made.has(table)) {
        this.#written++;
        this.#sql.exec(statement, this.key.number, ...values);
      }
    });
    this.#writeUnlessInside();
  }

  /** Rows of a table changed in memory: they are written, now or with what the change belongs to. */
  changed(table: KeptTable): void {
    this.#changes++;
    this.#changed.add(table);
    this.#writeUnlessInside();
  }

  /** The same for a change that need not survive: it is written with the next one that must. */
  changedIdly(table: KeptTable): void {
    this.#idle.add(table);
  }

  /** Runs statements as one transaction: all of them, or none where `work` throws. */
  atomically<T>(work: () => T): T {
    if (this.#depth > 0) {
      return work();
    }
    // What waits from before is not undone with this.
    this.commit();
    return this.#undone(() => {
      this.#depth++;
      try {
        return this.#storage.transactionSync(() => {
          const result = work();
          this.#write();
          return result;
        });
      } finally {
        this.#depth--;
      }
    });
  }

  /**
   * Makes changes that are written with whatever is written next, or with `commit`. Where `work` throws after its first change,
   * they are gone, and with them all that waited.
   */
  later<T>(work: () => T): T {
    const before = this.#changes;
    this.#depth++;
    try {
      return work();
    } catch (error) {
      if (this.#changes > before) {
        this.#drop();
      }
      throw error;
    } finally {
      this.#depth--;
      if (this.#depth === 0 && !this.#nothingWaits) {
        this.#onWaiting();
      }
    }
  }

  /** Writes what waits. */
  commit(): void {
    if (this.#depth > 0 || this.#nothingWaits) {
      return;
    }
    this.#undone(() => {
      if (this.#statements.length === 1 && this.#changed.size + this.#idle.size === 0) {
        this.#write();
      } else {
        this.#storage.transactionSync(() => this.#write());
      }
    });
  }

  /** Forgets what memory holds: the next look reads it. */
  resetAll(): void {
    for (const table of this.#tables) {
      table.reset();
    }
  }

  /**
   * Resolves once everything so far is durable: at once where nothing was written since that was last waited for.
   *
   * @param before called before that is written: what it changes is stored with it
   */
  async sync(before: () => void = () => undefined): Promise<void> {
    if (this.durable) {
      before();
      return;
    }
    let written = 0;
    await this.#commits.store(() => {
      before();
      this.commit();
      written = this.#written;
    });
    this.#durable = Math.max(this.#durable, written);
  }

  get #nothingWaits(): boolean {
    return this.#statements.length === 0 && this.#changed.size === 0;
  }

  #writeUnlessInside(): void {
    if (this.#depth === 0) {
      this.commit();
    }
  }

  #write(): void {
    if (this.#nothingWaits) {
      return;
    }
    const statements = this.#statements;
    this.#statements = [];
    for (const statement of statements) {
      statement();
    }
    const tables = new Set([...this.#changed, ...this.#idle]);
    this.#changed.clear();
    this.#idle.clear();
    for (const table of tables) {
      table.write();
    }
  }

  /** Reads what changes need. */
  lookAll(): void {
    for (const table of this.#tables) {
      table.look();
    }
  }

  /** Forgets what memory holds where storage did not take it. */
  #undone<T>(work: () => T): T {
    try {
      return work();
    } catch (error) {
      this.#drop();
      throw error;
    }
  }

  #drop(): void {
    this.#statements = [];
    this.#changed.clear();
    this.#idle.clear();
    this.#made.forget();
    this.key.undone();
    this.resetAll();
  }
}
