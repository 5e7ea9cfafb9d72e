/**
 * Moves what a gateway's Durable Objects stored from one number of processes to another: which process keeps an object
 * follows from their number (src/gateway/processes/object-owner.ts); and sessions from one number of objects to another
 * (move-sessions.ts). No gateway may run over it meanwhile.
 *
 * workerd has, in a folder a class, a database an object, named by its id, and one with the times of their alarms. A move
 * that was interrupted goes on where it was: all that lies in the wrong place is moved, wherever it came from.
 */
import { mkdir, readdir, rename, rm, rmdir } from "node:fs/promises";
import { basename, join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { sharedName } from "../gateway/objects/shared-name.js";
import { ownerOfId, ownerOfShared } from "../gateway/processes/object-owner.js";
import { endMove, hasStrays, moveSessions } from "./move-sessions.js";
import { alarmsFile, moveAlarms } from "./object-alarms.js";
import { objectId } from "./object-id.js";
import {
  checkProcesses,
  sessionClassKey,
  storedSessionObjects,
  writeObjects,
} from "./session-objects.js";
import { holdStorage } from "./storage-hold.js";
import { storageOf, storageParts, type StoragePart } from "./storage-parts.js";

/** A file of an object. */
const objectFile = /^(?<id>[0-9a-f]{64})\.sqlite(?<kind>|-wal|-shm|-journal)$/;

/** Engines store nothing, and where one is follows from its name (object-owner.ts): one may be left where another number of processes had it. */
const engineClassKey = "leanedge-EngineObject";

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
 * @param asked how many objects are to hold the sessions, 0 (one a session) to 1024, also those of which a gateway of another number
 * stored some elsewhere; undefined: as many as processes where sessions share objects
 * @throws Error where there is none, a gateway or another move has it, its sessions cannot be kept so, or the file system or a database
 * refuses
 */
export async function spreadObjects(
  storage: string,
  processes: number,
  asked?: number,
): Promise<Moved> {
  await readdir(storage).catch((cause: unknown) => {
    throw new Error(`there is no storage in ${storage}`, { cause });
  });
  const hold = await holdStorage(storage, "spread");
  const locks = new Map<string, DatabaseSync>();
  try {
    await lockAlarms(storage, locks);
    return await spreadLocked(storage, processes, asked, locks);
  } finally {
    for (const database of locks.values()) database.close();
    await hold.release();
  }
}

async function spreadLocked(
  storage: string,
  processes: number,
  asked: number | undefined,
  locks: Map<string, DatabaseSync>,
): Promise<Moved> {
  await endMove(storage);
  await checkOnce(storage);
  const stored = await storedSessionObjects(storage);
  const objects = asked ?? (stored === 0 ? 0 : processes);
  checkProcesses(storage, objects, processes);
  if (stored === undefined && asked !== undefined) await writeObjects(storage, asked);
  const moves =
    stored !== undefined &&
    (stored !== objects || (asked !== undefined && (await hasStrays(storage, objects))));
  const sessions = moves ? await moveSessions(storage, objects, processes) : undefined;
  return {
    ...(sessions === undefined ? {} : { sessions }),
    objects: await moveObjects(storage, processes, objects, locks),
  };
}

/** Moves objects to the processes that will keep them, where so many hold the sessions. Returns how many were moved. */
async function moveObjects(
  storage: string,
  processes: number,
  objects: number,
  locks: Map<string, DatabaseSync>,
): Promise<number> {
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
      unlockAlarms(className, locks);
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

/**
 * Opens the alarms of all classes for itself alone: nobody may have them open. What has not asked for the storage (storage-hold.ts), a
 * plain workerd, does not start while they are: it opens those of all classes first. Those of the sessions are closed again, since
 * their folders go.
 */
async function lockAlarms(storage: string, locks: Map<string, DatabaseSync>): Promise<void> {
  for (const { className, path } of await classFolders(await storageParts(storage))) {
    if (!(await readdir(path)).includes(alarmsFile)) continue;
    const database = new DatabaseSync(join(path, alarmsFile));
    try {
      database.exec("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; COMMIT");
    } catch (cause) {
      database.close();
      throw new Error(`a gateway runs over ${join(path, alarmsFile)}: end it first`, { cause });
    }
    if (className === sessionClassKey) database.close();
    else locks.set(path, database);
  }
}

/** Closes the alarms of a class, wherever they are. */
function unlockAlarms(className: string, locks: Map<string, DatabaseSync>): void {
  for (const [path, database] of locks) {
    if (basename(path) !== className) continue;
    database.close();
    locks.delete(path);
  }
}

/**
 * Refuses an object that is there twice: a move, interrupted or not, leaves each once. A gateway of another number of processes than
 * the storage is for, which nothing started that looks, has made new ones of the same names.
 */
async function checkOnce(storage: string): Promise<void> {
  const seen = new Map<string, string>();
  for (const { className, path } of await classFolders(await storageParts(storage))) {
    if (className === engineClassKey) continue;
    for (const file of await readdir(path)) {
      if (objectFile.exec(file)?.groups?.["kind"] !== "") continue;
      const other = seen.get(`${className}/${file}`);
      if (other !== undefined) {
        throw new Error(
          `${join(other, file)} and ${join(path, file)} are the same object: gateways with different numbers of processes ran over ` +
            `${storage}; take the folders of the one whose objects are not to stay out of it`,
        );
      }
      seen.set(`${className}/${file}`, path);
    }
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
