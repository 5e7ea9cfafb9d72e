/**
 * Moves what a gateway's Durable Objects stored from one number of processes to another: which process keeps an object
 * follows from their number (src/gateway/processes/object-owner.ts). No gateway may run over it meanwhile.
 *
 * workerd has, in a folder a class, a database an object, named by its id, and one with the times of their alarms. A move
 * that was interrupted goes on where it was: all that lies in the wrong place is moved, wherever it came from.
 */
import { mkdir, readdir, rename, rm, rmdir } from "node:fs/promises";
import { join } from "node:path";
import { DatabaseSync, type SQLOutputValue } from "node:sqlite";
import { sharedName } from "../gateway/objects/shared-name.js";
import { ownerOfId, ownerOfShared } from "../gateway/processes/object-owner.js";
import { objectId } from "./object-id.js";
import { checkProcesses, sessionClassKey, storedSessionObjects } from "./session-objects.js";
import { storageOf, storageParts } from "./storage-parts.js";

const objectFile = /^(?<id>[0-9a-f]{64})\.sqlite(?<kind>|-wal|-shm|-journal)$/;
const alarmsFile = "metadata.sqlite";
const alarmsTable = `CREATE TABLE IF NOT EXISTS _cf_ALARM (
  actor_id TEXT PRIMARY KEY,
  scheduled_time INTEGER,
  actor_name TEXT
) WITHOUT ROWID`;

/**
 * Moves all of it.
 * @param storage folder that keeps the objects
 * @param processes how many will serve them, 1 to 64
 * @returns how many objects were moved
 * @throws Error where a gateway runs over it, its sessions share fewer objects, or the file system or a database refuses
 */
export async function spreadObjects(storage: string, processes: number): Promise<number> {
  const objects = (await storedSessionObjects(storage)) ?? 0;
  checkProcesses(storage, objects, processes);
  const owner = ownerAmong(processes, objects);
  const sources = (await storageParts(storage)).filter(({ count }) => count !== processes);
  const folders: { readonly className: string; readonly path: string }[] = [];
  for (const { path } of sources) {
    for (const { name } of await readdir(path, { withFileTypes: true })) {
      if (name.startsWith("leanedge-")) folders.push({ className: name, path: join(path, name) });
    }
  }
  for (const { path } of folders) checkUnused(join(path, alarmsFile), await readdir(path));
  let moved = 0;
  for (const { className, path } of folders) {
    const targets = Array.from({ length: processes }, (_, index) =>
      join(storageOf(storage, index, processes), className),
    );
    for (const folder of targets) await mkdir(folder, { recursive: true });
    const target = (id: string): string => targets[owner(className, id)] ?? "";
    moved += await moveDatabases(path, target);
    if ((await readdir(path)).includes(alarmsFile)) {
      await moveAlarms(join(path, alarmsFile), target);
    }
    await rmdir(path);
  }
  for (const { path } of sources) if (path !== storage) await rmdir(path);
  return moved;
}

/** Which of so many processes keeps an object of a class, by its id, where so many objects hold the sessions. */
function ownerAmong(processes: number, objects: number): (classKey: string, id: string) => number {
  const shared = new Map(
    Array.from({ length: objects }, (_, index) => [
      objectId(sessionClassKey, sharedName(index)),
      index,
    ]),
  );
  return (classKey, id) => {
    const index = classKey === sessionClassKey ? shared.get(id) : undefined;
    return index === undefined ? ownerOfId(id, processes) : ownerOfShared(index, processes);
  };
}

/** Refuses a database that somebody has open: in its mode one that is opened for oneself alone has no others. */
function checkUnused(path: string, files: readonly string[]): void {
  if (!files.includes(alarmsFile)) return;
  const database = new DatabaseSync(path);
  try {
    database.exec("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; COMMIT");
  } catch (cause) {
    throw new Error(`a gateway runs over ${path}: end it first`, { cause });
  } finally {
    database.close();
  }
}

/**
 * Moves an object's log, or the journal of a commit that was interrupted before it had one, before its database: without them that
 * would have lost what is in there.
 */
async function moveDatabases(folder: string, target: (id: string) => string): Promise<number> {
  let moved = 0;
  const files = (await readdir(folder)).sort().reverse();
  for (const file of files) {
    const { id, kind } = objectFile.exec(file)?.groups ?? {};
    if (id === undefined) continue;
    if (kind === "-shm") {
      // It is made anew from the log.
      await rm(join(folder, file));
      continue;
    }
    await rename(join(folder, file), join(target(id), file));
    if (kind === "") moved++;
  }
  return moved;
}

/** Moves the times of alarms: all of a target in one transaction. */
async function moveAlarms(path: string, target: (id: string) => string): Promise<void> {
  const database = new DatabaseSync(path);
  database.exec(alarmsTable);
  const alarms = database.prepare("SELECT actor_id, scheduled_time, actor_name FROM _cf_ALARM");
  // Times are nanoseconds since 1970, more than a number holds.
  alarms.setReadBigInts(true);
  const byTarget = new Map<string, Record<string, SQLOutputValue>[]>();
  for (const row of alarms.all()) {
    const id = row["actor_id"];
    if (typeof id !== "string") throw new Error(`${path} has an alarm without an object`);
    const folder = target(id);
    const rows = byTarget.get(folder) ?? [];
    rows.push(row);
    byTarget.set(folder, rows);
  }
  database.close();
  for (const [folder, rows] of byTarget) {
    const other = new DatabaseSync(join(folder, alarmsFile));
    other.exec(`${alarmsTable}; BEGIN`);
    const insert = other.prepare("INSERT OR REPLACE INTO _cf_ALARM VALUES (?, ?, ?)");
    for (const row of rows) {
      insert.run(row["actor_id"] ?? null, row["scheduled_time"] ?? null, row["actor_name"] ?? null);
    }
    other.exec("COMMIT");
    other.close();
  }
  for (const suffix of ["", "-wal", "-shm", "-journal"])
    await rm(`${path}${suffix}`, { force: true });
}
