/** How records become rows: one list of a table's columns behind that of the session, from which its statement and its values follow. */
import type { SessionTable } from "./session-schema.js";
import type { SqlValue } from "./sql-row.js";
import type { StoreWrites } from "./store-writes.js";

/** Columns of a table by name, and what each holds of a record. */
export type Columns<T> = Readonly<Record<string, (record: T) => SqlValue>>;

/** Values of one statement: as many as Cloudflare takes. */
const valuesMax = 100;

/** Stores records of one kind as rows. */
export class StoredColumns<T> {
  readonly #table: SessionTable;
  readonly #names: string;
  readonly #marks: string;
  readonly #columns: readonly ((record: T) => SqlValue)[];

  /** Columns that are left out take their defaults. */
  constructor(table: SessionTable, columns: Columns<T>) {
    const names = Object.keys(columns);
    this.#table = table;
    this.#names = ["session", ...names].join(", ");
    this.#marks = `(?${names.map(() => ", ?").join("")})`;
    this.#columns = Object.values(columns);
  }

  /** Stores a record in the place of the row of the same key, if there is one. */
  replace(writes: StoreWrites, record: T): void {
    const statement = `INSERT OR REPLACE INTO ${this.#table} (${this.#names}) VALUES ${this.#marks}`;
    writes.run(this.#table, statement, ...this.#values(writes, record));
  }

  /** Stores records as new rows, in as few statements as SQLite allows. */
  append(writes: StoreWrites, records: readonly T[]): void {
    const rowsMax = Math.floor(valuesMax / (1 + this.#columns.length));
    for (let first = 0; first < records.length; first += rowsMax) {
      const rows = records.slice(first, first + rowsMax);
      const marks = rows.map(() => this.#marks).join(", ");
      const statement = `INSERT INTO ${this.#table} (${this.#names}) VALUES ${marks}`;
      const values = rows.flatMap((record) => this.#values(writes, record));
      writes.run(this.#table, statement, ...values);
    }
  }

  #values({ key }: StoreWrites, record: T): SqlValue[] {
    return [key.number, ...this.#columns.map((column) => column(record))];
  }
}
