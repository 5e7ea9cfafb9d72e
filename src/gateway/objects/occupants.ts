/**
 * The sessions of an object that many share: what number each has in its tables, and when it is due (SessionHome.setAlarm). A
 * number is taken with the first row that is stored under it, and is free again when nothing is.
 */
import { makesOccupants } from "./session-schema.js";
import { int, text } from "./sql-row.js";
import type { SqlValue } from "./sql-row.js";

/** A session that is stored. */
export interface Occupant {
  readonly number: number;
  readonly name: string;
  /** When its alarm comes, in milliseconds since 1970; 0: never. */
  readonly dueMs: number;
}

/** See the head of this file. */
export class Occupants {
  readonly #sql: SqlStorage;
  /** Whether the table is known to be there; undefined: it was not looked for. */
  #made: boolean | undefined;
  /** The next number that nobody has or had since this object began; undefined: not looked for. */
  #next: number | undefined;

  /** Looks at nothing yet. */
  constructor(sql: SqlStorage) {
    this.#sql = sql;
  }

  /** The session of a name; undefined if none is stored. */
  named(name: string): Occupant | undefined {
    return this.#all("name = ?", name)[0];
  }

  /** The session of a number; undefined if none is stored. */
  numbered(number: number): Occupant | undefined {
    return this.#all("number = ?", number)[0];
  }

  /** Those that are due, the one that is longest due first. */
  due(nowMs: number, limit: number): Occupant[] {
    return this.#all("due_ms > 0 AND due_ms <= ? ORDER BY due_ms LIMIT ?", nowMs, limit);
  }

  /** When the first of them is due; undefined: none is. */
  nextDueMs(): number | undefined {
    return this.#all("due_ms > 0 ORDER BY due_ms LIMIT 1")[0]?.dueMs;
  }

  /** A number that no session has. */
  freeNumber(): number {
    if (this.#next === undefined) {
      this.#next = (this.#all("1 ORDER BY number DESC LIMIT 1")[0]?.number ?? 0) + 1;
    }
    return this.#next++;
  }

  /** Stores one. */
  put({ number, name, dueMs }: Occupant): void {
    if (!this.#isMade()) {
      this.#sql.exec(makesOccupants);
      this.#made = true;
    }
    this.#sql.exec(
      "INSERT INTO occupant (number, name, due_ms) VALUES (?, ?, ?)",
      number,
      name,
      dueMs,
    );
  }

  /** Stores when one is due. */
  setDue(number: number, dueMs: number): void {
    this.#sql.exec("UPDATE occupant SET due_ms = ? WHERE number = ?", dueMs, number);
  }

  /** Nothing of it is stored any more. */
  remove(number: number): void {
    this.#sql.exec("DELETE FROM occupant WHERE number = ?", number);
  }

  /** Storage was undone: what was made may not be there. */
  forget(): void {
    this.#made = undefined;
  }

  #isMade(): boolean {
    this.#made ??=
      this.#sql.exec("SELECT 1 FROM sqlite_master WHERE name = 'occupant'").toArray().length > 0;
    return this.#made;
  }

  #all(condition: string, ...values: SqlValue[]): Occupant[] {
    if (!this.#isMade()) {
      return [];
    }
    return this.#sql
      .exec(`SELECT number, name, due_ms FROM occupant WHERE ${condition}`, ...values)
      .toArray()
      .map((row) => ({
        number: int(row, "number"),
        name: text(row, "name"),
        dueMs: int(row, "due_ms"),
      }));
  }
}
