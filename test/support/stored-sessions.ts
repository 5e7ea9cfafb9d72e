/** Sessions in the storage of a gateway, written and read without one: for tests of what moves them. */
import { mkdir, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { expect } from "vitest";
import { objectId } from "../../src/cli/object-id.js";
import { sessionClassKey } from "../../src/cli/session-objects.js";
import { storageOf, storageParts } from "../../src/cli/storage-parts.js";
import { makes, makesOccupants, sessionTables } from "../../src/gateway/objects/session-schema.js";
import { sharedName, sharedOf } from "../../src/gateway/objects/shared-name.js";

/** The database of an object, made as process `index` of `count` does. */
export async function store(
  storage: string,
  name: string,
  sql: string,
  index = 0,
  count = 1,
): Promise<string> {
  const folder = join(storageOf(storage, index, count), sessionClassKey);
  await mkdir(folder, { recursive: true });
  const path = join(folder, `${objectId(sessionClassKey, name)}.sqlite`);
  const database = new DatabaseSync(path);
  database.exec(`PRAGMA journal_mode = WAL; BEGIN; ${sql}; COMMIT`);
  database.close();
  return path;
}

/** A session of tenant `t` of an object of its own: what makes it. */
export function ownSession(id: string, dueMs = 0): string {
  const alarm = `CREATE TABLE _cf_METADATA (key INTEGER PRIMARY KEY, value BLOB);
    INSERT INTO _cf_METADATA VALUES (1, ${dueMs}000000)`;
  return [...sessionTables.map(makes), rowsOf(1, id), ...(dueMs === 0 ? [] : [alarm])].join(";");
}

/** Rows of a session under a number: one that each session has, several, and those of a worker that was left. */
function rowsOf(number: number, id: string): string {
  return `INSERT INTO session (session, tenant, session_id, model, title, title_given, implicit, create_ms, update_ms, forked_from, forked_turn)
      VALUES (${number}, 't', '${id}', 'm', 'title of ${id}', 0, 1, 1795476246113, 1795476246182, '', 0);
    INSERT INTO message VALUES (${number}, 0, 1, 2, 'ask of ${id}', 0, 5), (${number}, 1, 1, 3, 'answer to ${id}', 1, 6);
    INSERT INTO segment VALUES (${number}, 0, 1, 1, x'01000000');
    INSERT INTO snapshot_row VALUES (${number}, 1, 0, x'00ff');
    INSERT INTO left_worker VALUES (${number}, 0, 'left by ${id}', '', 3, 0)`;
}

/** Stores objects that so many sessions `s0`, ... of tenant `t` share. Some are due. */
export async function storeShared(
  storage: string,
  objects: number,
  sessions: number,
  count = 1,
): Promise<void> {
  for (let object = 0; object < objects; object++) {
    const rows: string[] = [];
    for (let session = 0; session < sessions; session++) {
      const name = `t/s${session}`;
      if (sharedOf(name, objects) !== object) continue;
      const number = rows.length + 5;
      const dueMs = session % 3 === 0 ? 0 : 1_795_479_000_000 + session;
      rows.push(`INSERT INTO occupant VALUES (${number}, '${name}', ${dueMs});
        ${rowsOf(number, `s${session}`)}`);
    }
    const sql = [makesOccupants, ...sessionTables.map(makes), ...rows].join(";");
    await store(storage, sharedName(object), sql, object % count, count);
  }
  await writeFile(join(storage, "sessions.json"), `{"objects":${objects}}\n`);
}

/** What a storage has of a session: its rows by table, without its number. */
export interface Found {
  readonly dueMs: number;
  readonly number: number;
  readonly file: string;
  readonly rows: Readonly<Record<string, readonly (readonly unknown[])[]>>;
}

/** All sessions of shared objects by name, the alarms of the objects, and rows under numbers that nobody has. */
export async function found(storage: string): Promise<{
  sessions: Record<string, Found>;
  alarms: Record<string, bigint>;
}> {
  const sessions: Record<string, Found> = {};
  const alarms: Record<string, bigint> = {};
  for (const { path } of await storageParts(storage)) {
    for (const file of await readdir(join(path, sessionClassKey))) {
      const database = new DatabaseSync(join(path, sessionClassKey, file));
      const all = (query: string): Record<string, unknown>[] => database.prepare(query).all();
      if (file === "metadata.sqlite") {
        const query = database.prepare("SELECT actor_id, scheduled_time FROM _cf_ALARM");
        query.setReadBigInts(true);
        for (const row of query.all())
          alarms[String(row["actor_id"])] = row["scheduled_time"] as bigint;
        database.close();
        continue;
      }
      const tables = all("SELECT name FROM sqlite_master WHERE type = 'table'")
        .map(({ name }) => String(name))
        .filter((name) => name !== "occupant" && !name.startsWith("_cf"));
      const occupants = all("SELECT number, name, due_ms FROM occupant");
      for (const { number, name, due_ms: dueMs } of occupants) {
        expect(sessions).not.toHaveProperty([String(name)]);
        const rows = Object.fromEntries(
          tables.map((table) => [
            table,
            all(`SELECT * FROM ${table} WHERE session = ${Number(number)}`).map((row) =>
              Object.values(row).slice(1),
            ),
          ]),
        );
        sessions[String(name)] = { dueMs: Number(dueMs), number: Number(number), file, rows };
      }
      for (const table of tables) {
        const query = `SELECT * FROM ${table} WHERE session NOT IN (SELECT number FROM occupant)`;
        expect(all(query)).toEqual([]);
      }
      database.close();
    }
  }
  return { sessions, alarms };
}

/** Name of the database of a shared object. */
export function sharedFile(index: number): string {
  return `${objectId(sessionClassKey, sharedName(index))}.sqlite`;
}
