/**
 * Moves what a gateway's Durable Objects stored from one number of processes to another: which process keeps an object
 * follows from their number (src/gateway/processes/object-owner.ts); and sessions from one number of objects to another
 * (move-sessions.ts). No gateway may run over it meanwhile.
 *
 * workerd has, in a folder a class, a database an object, named by its id, and one with the times of their alarms. A move
 * that was interrupted goes on where it was: all that lies in the wrong place is moved, wherever it came from.
 */
import { mkdir, readdir, rename, rm, rmdir } from "node:fs/promises";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { sharedName } from "../gateway/objects/shared-name.js";
import { ownerOfId, ownerOfShared } from "../gateway/processes/object-owner.js";
import { endMove, moveSessions } from "./move-sessions.js";
import { alarmsFile, moveAlarms } from "./object-alarms.js";
import { objectId } from "./object-id.js";
import {
  checkProcesses,
  sessionClassKey,
  storedSessionObjects,
  writeObjects,
} from "./session-objects.js";
import { storageOf, storageParts, type StoragePart } from "./storage-parts.js";

/** A file of an object. */
const objectFile = /^(?<id>[0-9a-f]{64})\.sqlite(?<kind>|-wal|-shm|-journal)$/;

/** What was moved. */
export interface Moved {
  /** Sessions to another number of objects; undefined: none were to be, or they were by a move that was interrupted. */
  readonly sessions?: number;
  /** Objects to other processes. */
  readonly objects: number;
}

/**
 * Moves all of it, sessions to another number of objects first.
 * @param storage folder that keeps the objects
 * @param processes how many will serve them, 1 to 64
 * @param asked how many objects are to hold the sessions, 0 (one a session) to 1024; undefined: as many as processes where
 * sessions share objects
 * @throws Error where a gateway runs over it, its sessions cannot be kept so, or the file system or a database refuses
 */
export async function spreadObjects(
  storage: string,
  processes: number,
  asked?: number,
): Promise<Moved> {
  for (const { path } of await classFolders(await storageParts(storage))) {
    checkUnused(join(path, alarmsFile), await readdir(path));
  }
  await endMove(storage);
  const stored = await storedSessionObjects(storage);
  const objects = asked ?? (stored === 0 ? 0 : processes);
  checkProcesses(storage, objects, processes);
  if (stored === undefined && asked !== undefined) await writeObjects(storage, asked);
  const moves = stored !== undefined && stored !== objects;
  const sessions = moves ? await moveSessions(storage, stored, objects, processes) : undefined;
  return {
    ...(sessions === undefined ? {} : { sessions }),
    objects: await moveObjects(storage, processes, objects),
  };
}

/** Moves objects to the processes that will keep them, where so many hold the sessions. Returns how many were moved. */
async function moveObjects(storage: string, processes: number, objects: number): Promise<number> {
  const owner = ownerAmong(processes, objects);
  const sources = (await storageParts(storage)).filter(({ count }) => count !== processes);
  let moved = 0;
  for (const { className, path } of await classFolders(sources)) {
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

/** Folders of the objects of a class. */
async function classFolders(
  parts: readonly StoragePart[],
): Promise<{ readonly className: string; readonly path: string }[]> {
  const folders: { readonly className: string; readonly path: string }[] = [];
  for (const { path } of parts) {
    for (const name of await readdir(path)) {
      if (name.startsWith("leanedge-")) folders.push({ className: name, path: join(path, name) });
    }
  }
  return folders;
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
