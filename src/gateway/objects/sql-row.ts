/** Values of SQL rows, with their types checked: a column of another type is a bug, and says so. */

/** A value that SQLite stores; SqlStorageValue of the runtime. */
export type SqlValue = ArrayBuffer | string | number | null;

/** A row of a result. */
export type Row = Record<string, SqlValue>;

/** SQLite takes a whole ArrayBuffer, not a view of a part. */
export function blob(value: Uint8Array): ArrayBuffer {
  return new Uint8Array(value).buffer;
}

/** A text column. */
export function text(row: Row, column: string): string {
  const value = row[column];
  if (typeof value !== "string") {
    throw new TypeError(`column ${column} holds no text`);
  }
  return value;
}

/** A column of numbers that need not be whole. */
export function real(row: Row, column: string): number {
  const value = row[column];
  if (typeof value !== "number") {
    throw new TypeError(`column ${column} holds no number`);
  }
  return value;
}

/** A column of whole numbers; its type in the table keeps them whole. */
export function int(row: Row, column: string): number {
  return real(row, column);
}

/** A column of 0 and 1. */
export function flag(row: Row, column: string): boolean {
  return int(row, column) !== 0;
}

/** A column of bytes. */
export function bytes(row: Row, column: string): Uint8Array {
  const value = row[column];
  if (!(value instanceof ArrayBuffer)) {
    throw new TypeError(`column ${column} holds no bytes`);
  }
  return new Uint8Array(value);
}

/** A column that holds the number of an enum. */
// eslint-disable-next-line @typescript-eslint/no-unnecessary-type-parameters -- the caller names the enum
export function member<E extends number>(row: Row, column: string): E {
  return int(row, column) as E;
}
