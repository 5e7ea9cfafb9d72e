/**
 * Moves sessions to another number of objects that they share. No gateway may run over their storage meanwhile.
 *
 * It may be interrupted anywhere, and goes on when it is called again. In the storage's folder:
 *
 * 1. `moving/new/INDEX-of-PROCESSES` gets the new objects of each process, `moving/sessions.json` their number, all of it synced.
 *    What is there now stays as it is; where this is interrupted it begins anew.
 * 2. `moving` becomes `moved`. From here on the new objects hold the sessions (endMove), and no gateway starts.
 * 3. The folders of the old objects go to `moved/old`.
 * 4. `moved/sessions.json` becomes `sessions.json`: where that is done, no folder is an old one.
 * 5. Those in `moved/new` go to where their processes look for them.
 * 6. `moved` is deleted, the old objects with it.
 */
import { mkdir, open, readdir, rename, rm } from "node:fs/promises";
import { basename, join } from "node:path";
import { sharedName, sharedOf } from "../gateway/objects/shared-name.js";
import { ownerOfShared } from "../gateway/processes/object-owner.js";
import { alarmsFile, writeAlarms, type ObjectAlarm } from "./object-alarms.js";
import { objectId } from "./object-id.js";
import { movedFolder, sessionClassKey, sessionsFile, writeObjects } from "./session-objects.js";
import { SharedDatabase, sessionsIn, type RenumberedSession } from "./session-rows.js";
import { storageOf, storageParts } from "./storage-parts.js";

/** What renames a file or a folder: all that counts of a move. */
export type Rename = (from: string, to: string) => Promise<void>;

/** Sessions of an object that there is, with the indices of the objects that they go to. */
interface Source {
  readonly id: string;
  readonly path: string;
  readonly sessions: readonly (RenumberedSession & { readonly index: number })[];
}

/**
 * Moves all of them.
 *
 * @param storage folder that keeps the objects
 * @param from how many objects hold the sessions, 0: one each
 * @param to how many are to, 1 to 1024
 * @param processes how many will serve them, 1 to 64
 * @returns how many sessions there are
 * @throws Error where each is to get an object of its own, or one is in an object in which nobody would look for it
 */
export async function moveSessions(
  storage: string,
  from: number,
  to: number,
  processes: number,
  move: Rename = rename,
): Promise<number> {
  if (to === 0) {
    throw new Error(
      `the sessions in ${storage} share objects, and stay so: an object each is for a new storage only`,
    );
  }
  const moving = join(storage, "moving");
  await rm(moving, { recursive: true, force: true });
  const sources = numbered(await readSources(storage, from, move), to);
  await mkdir(join(moving, "old"), { recursive: true });
  await build(join(moving, "new"), sources, processes);
  await writeObjects(moving, to);
  await syncAll(moving);
  await move(moving, join(storage, movedFolder));
  await sync(storage);
  await endMove(storage, move);
  return sources.reduce((count, { sessions }) => count + sessions.length, 0);
}

/** Ends a move whose new objects are complete. Does nothing where there is none. */
export async function endMove(storage: string, move: Rename = rename): Promise<void> {
  if (!(await readdir(storage)).includes(movedFolder)) return;
  const moved = join(storage, movedFolder);
  if ((await readdir(moved)).includes(sessionsFile)) {
    for (const { path } of await storageParts(storage)) {
      if (!(await readdir(path)).includes(sessionClassKey)) continue;
      const name = path === storage ? "0-of-1" : basename(path);
      await move(join(path, sessionClassKey), join(moved, "old", name));
      await sync(path);
    }
    await sync(join(moved, "old"));
    await move(join(moved, sessionsFile), join(storage, sessionsFile));
    await sync(storage);
  }
  for (const name of await readdir(join(moved, "new")).catch(() => [])) {
    const [index = NaN, count = NaN] = name.split("-of-").map(Number);
    const part = storageOf(storage, index, count);
    await mkdir(part, { recursive: true });
    await move(join(moved, "new", name), join(part, sessionClassKey));
    await sync(part);
  }
  await sync(storage);
  await rm(moved, { recursive: true });
}

/** The objects that there are, and their sessions by number. */
async function readSources(storage: string, from: number, move: Rename): Promise<Source[]> {
  const files: { readonly file: string; readonly path: string }[] = [];
  for (const { path } of await storageParts(storage)) {
    const folder = join(path, sessionClassKey);
    for (const file of await readdir(folder).catch(() => [])) {
      files.push({ file, path: join(folder, file) });
    }
  }
  const paths = new Map(files.map(({ file, path }) => [file, path]));
  const sources: Source[] = [];
  for (const { file, path } of files) {
    const [, id] = /^([0-9a-f]{64})\.sqlite$/.exec(file) ?? [];
    if (id === undefined) continue;
    // A move between processes that was interrupted may have left them apart.
    for (const kind of ["-wal", "-journal"]) {
      const log = paths.get(`${file}${kind}`);
      if (log !== undefined && log !== `${path}${kind}`) await move(log, `${path}${kind}`);
    }
    const sessions = sessionsIn(path).map((session) => ({ ...session, to: NaN, index: NaN }));
    for (const { name } of sessions) {
      if (objectId(sessionClassKey, placeOf(name, from)) !== id) {
        throw new Error(
          `${path} has session ${name}, which a gateway with another number of objects stored there: no gateway finds it`,
        );
      }
    }
    sources.push({ id, path, sessions });
  }
  return sources;
}

function placeOf(name: string, objects: number): string {
  return objects === 0 ? name : sharedName(sharedOf(name, objects));
}

/**
 * Gives each session its object and its number there. One that stays in an object keeps its number, by which workers know its
 * cache, and no other gets a number that one there had.
 */
function numbered(sources: readonly Source[], to: number): Source[] {
  const ids = Array.from({ length: to }, (_, index) =>
    objectId(sessionClassKey, sharedName(index)),
  );
  const had = new Map(
    sources.map(({ id, sessions }) => [
      id,
      sessions.reduce((most, { number }) => Math.max(most, number), 0),
    ]),
  );
  const last = ids.map((id) => had.get(id) ?? 0);
  return sources.map((source) => ({
    ...source,
    sessions: source.sessions.map((session) => {
      const index = sharedOf(session.name, to);
      if (ids[index] === source.id) return { ...session, index, to: session.number };
      const next = (last[index] ?? 0) + 1;
      last[index] = next;
      return { ...session, index, to: next };
    }),
  }));
}

/** Writes the new objects, those of each process into a folder. */
async function build(folder: string, sources: readonly Source[], processes: number): Promise<void> {
  const folders = Array.from({ length: processes }, (_, index) =>
    join(folder, `${index}-of-${processes}`),
  );
  for (const path of folders) await mkdir(path, { recursive: true });
  const folderOf = (index: number): string => folders[ownerOfShared(index, processes)] ?? "";
  const idOf = (index: number): string => objectId(sessionClassKey, sharedName(index));
  const targets = new Map<number, SharedDatabase>();
  for (const { path, sessions } of sources) {
    for (const index of new Set(sessions.map((session) => session.index))) {
      const target =
        targets.get(index) ?? new SharedDatabase(join(folderOf(index), `${idOf(index)}.sqlite`));
      targets.set(index, target);
      target.take(
        path,
        sessions.filter((session) => session.index === index),
      );
    }
  }
  const alarms = new Map<string, ObjectAlarm[]>(folders.map((path) => [path, []]));
  for (const [index, target] of targets) {
    const dueMs = target.close();
    if (dueMs === undefined) continue;
    alarms.get(folderOf(index))?.push({ id: idOf(index), name: sharedName(index), dueMs });
  }
  for (const [path, rows] of alarms) writeAlarms(join(path, alarmsFile), rows);
}

/** Waits until a folder and all that is in it are on the disk. */
async function syncAll(folder: string): Promise<void> {
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    await (entry.isDirectory() ? syncAll(path) : sync(path));
  }
  await sync(folder);
}

/** Waits until a file, or which there are in a folder, is on the disk. */
async function sync(path: string): Promise<void> {
  const handle = await open(path);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
