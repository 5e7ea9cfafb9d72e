/**
 * Sessions in the databases of objects: which there are, and how their rows come into the database of another object. Objects
 * of one session have it under number 1, or, from before rows had a number, under none (session-migration.ts).
 */
import { DatabaseSync, type StatementSync } from "node:sqlite";
import { sessionObjectName } from "../gateway/objects/session-name.js";
import {
  everySessionTables,
  makes,
  makesOccupants,
  sessionTables,
  type SessionTable,
} from "../gateway/objects/session-schema.js";
import { ownAlarmMs, setOwnAlarm } from "./object-alarms.js";

/** A session that is stored. */
export interface StoredSession {
  /** Number of its rows. */
  readonly number: number;
  /** Name that an object of its own has. */
  readonly name: string;
  /** When it is due, in milliseconds since 1970; 0: never. */
  readonly dueMs: number;
}

/** A session that gets another number. */
export interface RenumberedSession extends StoredSession {
  readonly to: number;
}

const allTables: readonly SessionTable[] = [...sessionTables, "deletion"];
/** Tables that are made together. */
const together = new Set<SessionTable>(everySessionTables);

/** The sessions of an object's database, also those of which only the deletion is stored. */
export function sessionsIn(path: string): StoredSession[] {
  const object = new DatabaseSync(path);
  try {
    const has = (table: string): boolean => tablesOf(object, "main").has(table);
    if (has("occupant")) {
      const rows = object
        .prepare("SELECT number, name, due_ms FROM occupant ORDER BY number")
        .all();
      return rows.map((row) => ({
        number: Number(row["number"]),
        name: String(row["name"]),
        dueMs: Number(row["due_ms"]),
      }));
    }
    const queries = ["session", "deletion"]
      .filter(has)
      .map((table) => `SELECT tenant, session_id FROM ${table}`);
    if (queries.length === 0) return [];
    const dueMs = ownAlarmMs(object);
    return object
      .prepare(queries.join(" UNION "))
      .all()
      .map((row) => ({
        ...{ number: 1, dueMs },
        name: sessionObjectName(String(row["tenant"]), String(row["session_id"])),
      }));
  } catch (cause) {
    throw new Error(`${path} cannot be read`, { cause });
  } finally {
    object.close();
  }
}

/** The database of an object of sessions, which is made. Nobody else may have it, and nothing of it is kept before it is closed. */
export class SessionDatabase {
  readonly #database: DatabaseSync;
  readonly #tables: Set<string>;
  /** Undefined: it is the object of one session, which needs no name there. */
  readonly #occupy: StatementSync | undefined;
  #dueMs = Infinity;

  /** Makes it, for sessions that share it or for one. */
  constructor(path: string, shared: boolean) {
    this.#database = new DatabaseSync(path);
    this.#database.exec("PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF");
    this.#tables = new Set();
    if (shared) {
      this.#database.exec(makesOccupants);
      this.#occupy = this.#database.prepare(
        "INSERT INTO occupant (number, name, due_ms) VALUES (?, ?, ?)",
      );
    }
  }

  /** Takes sessions of another object's database, all rows of each. */
  take(path: string, sessions: readonly RenumberedSession[]): void {
    const database = this.#database;
    database.prepare("ATTACH ? AS source").run(path);
    database.exec("BEGIN");
    for (const { to, name, dueMs } of sessions) {
      this.#occupy?.run(to, name, dueMs);
      if (dueMs > 0) this.#dueMs = Math.min(this.#dueMs, dueMs);
    }
    const there = tablesOf(database, "source");
    for (const table of allTables.filter((name) => there.has(name))) {
      this.#make(table);
      this.#copy(table, sessions);
    }
    database.exec("COMMIT; DETACH source");
  }

  /** Ends it. Returns when the first of its sessions is due; undefined: none is. */
  close(): number | undefined {
    const dueMs = Number.isFinite(this.#dueMs) ? this.#dueMs : undefined;
    if (dueMs !== undefined) setOwnAlarm(this.#database, dueMs);
    this.#database.exec("PRAGMA journal_mode = WAL");
    this.#database.close();
    return dueMs;
  }

  /** Gives it up, and lets go what it took from. */
  discard(): void {
    this.#database.close();
  }

  #make(table: SessionTable): void {
    if (this.#tables.has(table)) return;
    for (const made of together.has(table) ? everySessionTables : [table]) {
      this.#database.exec(makes(made));
      this.#tables.add(made);
    }
  }

  #copy(table: SessionTable, sessions: readonly RenumberedSession[]): void {
    const before = this.#database
      .prepare(`SELECT name FROM pragma_table_info('${table}', 'source')`)
      .all()
      .map((row) => String(row["name"]));
    const numbered = before.includes("session");
    const columns = before.filter((name) => name !== "session" && name !== "one");
    const from = [...columns];
    // The order of left workers was that of their row ids.
    if (table === "left_worker" && !numbered) {
      columns.push("position");
      from.push("rowid");
    }
    const copy = this.#database.prepare(
      `INSERT INTO main.${table} (session, ${columns.join(", ")}) SELECT ?, ${from.join(", ")} ` +
        `FROM source.${table}${numbered ? " WHERE session = ?" : ""}`,
    );
    for (const { to, number } of sessions) copy.run(to, ...(numbered ? [number] : []));
  }
}

/** Names of the tables of a database. */
function tablesOf(database: DatabaseSync, schema: "main" | "source"): Set<string> {
  const rows = database.prepare(`SELECT name FROM ${schema}.sqlite_master WHERE type = 'table'`);
  return new Set(rows.all().map((row) => String(row["name"])));
}
