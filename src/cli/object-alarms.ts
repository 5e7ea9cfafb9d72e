/** When the alarms of objects come: workerd has a database of them in the folder of each class, and each time in its object's own database, too. */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { DatabaseSync, type SQLOutputValue } from "node:sqlite";

/** Name of the database of a class. */
export const alarmsFile = "metadata.sqlite";
const alarmsTable = `CREATE TABLE IF NOT EXISTS _cf_ALARM (
      actor_id TEXT PRIMARY KEY,
      scheduled_time INTEGER,
      actor_name TEXT
    ) WITHOUT ROWID`;
/** An object's table of what the runtime knows of it; the alarm is row 1. */
const ownTable = `CREATE TABLE IF NOT EXISTS _cf_METADATA (
        key INTEGER PRIMARY KEY,
        value BLOB
      )`;
const nanosecondsAMs = 1_000_000n;

/** A row of the database of a class. */
export interface ObjectAlarm {
  readonly id: string;
  readonly name: string;
  /** When it comes, in milliseconds since 1970. */
  readonly dueMs: number;
}

/** When the alarm of an object's database comes, in milliseconds since 1970; 0: never. */
export function ownAlarmMs(object: DatabaseSync): number {
  const table = "SELECT 1 FROM sqlite_master WHERE name = '_cf_METADATA'";
  if (object.prepare(table).get() === undefined) return 0;
  // Nanoseconds are more than a number holds.
  const query = `SELECT value / ${nanosecondsAMs} AS ms FROM _cf_METADATA WHERE key = 1`;
  return Number(object.prepare(query).get()?.["ms"] ?? 0);
}

/** Sets it. */
export function setOwnAlarm(object: DatabaseSync, dueMs: number): void {
  object.exec(ownTable);
  object
    .prepare("INSERT OR REPLACE INTO _cf_METADATA VALUES (1, ?)")
    .run(BigInt(dueMs) * nanosecondsAMs);
}

/** Makes the database of a class. */
export function writeAlarms(path: string, alarms: readonly ObjectAlarm[]): void {
  storeAlarms(
    path,
    alarms.map(({ id, name, dueMs }) => [id, BigInt(dueMs) * nanosecondsAMs, name]),
  );
}

/** Moves the times of alarms: all of a target in one transaction. */
export async function moveAlarms(path: string, target: (id: string) => string): Promise<void> {
  const database = new DatabaseSync(path);
  database.exec(alarmsTable);
  const alarms = database.prepare("SELECT actor_id, scheduled_time, actor_name FROM _cf_ALARM");
  alarms.setReadBigInts(true);
  const byTarget = new Map<string, SQLOutputValue[][]>();
  for (const { actor_id: id, scheduled_time: time, actor_name: name } of alarms.all()) {
    if (typeof id !== "string") throw new Error(`${path} has an alarm without an object`);
    const folder = target(id);
    const rows = byTarget.get(folder) ?? [];
    rows.push([id, time ?? null, name ?? null]);
    byTarget.set(folder, rows);
  }
  database.close();
  for (const [folder, rows] of byTarget) storeAlarms(join(folder, alarmsFile), rows);
  for (const suffix of ["", "-wal", "-shm", "-journal"])
    await rm(`${path}${suffix}`, { force: true });
}

function storeAlarms(path: string, rows: readonly (readonly SQLOutputValue[])[]): void {
  const database = new DatabaseSync(path);
  database.exec(`PRAGMA journal_mode = WAL; ${alarmsTable}; BEGIN`);
  const insert = database.prepare("INSERT OR REPLACE INTO _cf_ALARM VALUES (?, ?, ?)");
  for (const row of rows) insert.run(...row);
  database.exec("COMMIT");
  database.close();
}
