/** The one row of a session in a table that has one at most, kept in memory (store-writes.ts). */
import type { SessionTable } from "./session-schema.js";
import type { Row } from "./sql-row.js";
import type { KeptTable, StoreWrites } from "./store-writes.js";
import { StoredColumns } from "./stored-columns.js";
import type { Columns } from "./stored-columns.js";

/** What a table's row is. */
export interface RowKind<T> {
  readonly table: SessionTable;
  readonly read: (row: Row) => T;
  /** All columns but the key. */
  readonly columns: Columns<T>;
}

/** See the head of this file. */
export class KeptRow<T> implements KeptTable {
  readonly #writes: StoreWrites;
  readonly #kind: RowKind<T>;
  readonly #columns: StoredColumns<T>;
  #kept: { readonly record: T | undefined } | undefined;

  /** Reads nothing yet. */
  constructor(writes: StoreWrites, kind: RowKind<T>) {
    this.#writes = writes;
    this.#kind = kind;
    this.#columns = new StoredColumns(kind.table, kind.columns);
    writes.register(this);
  }

  /** What it says; undefined if there is no row. */
  get record(): T | undefined {
    if (this.#kept === undefined) {
      const { read, table } = this.#kind;
      const row = this.#writes.first(table, `SELECT * FROM ${table} WHERE session = ?`);
      this.#kept = { record: row === undefined ? undefined : read(row) };
    }
    return this.#kept.record;
  }

  /** Says something else from now on; it is stored now, or with what it belongs to. */
  set(record: T): void {
    this.#kept = { record };
    this.#writes.changed(this);
  }

  /** The same for what need not survive: it is stored with the next change that must. */
  setIdly(record: T): void {
    this.#kept = { record };
    this.#writes.changedIdly(this);
  }

  /** The same for what is stored only where the row is stored for something else. */
  keep(record: T): void {
    this.#kept = { record };
  }

  /** Deletes the row. */
  clear(): void {
    this.#writes.delete(this.#kind.table);
    this.#kept = { record: undefined };
  }

  look(): unknown {
    return this.record;
  }

  write(): void {
    const record = this.#kept?.record;
    if (record !== undefined) {
      this.#columns.replace(this.#writes, record);
    }
  }

  reset(): void {
    this.#kept = undefined;
  }
}
