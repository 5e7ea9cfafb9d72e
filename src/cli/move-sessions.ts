/**
 * Moves sessions to another number of objects that they share, or into one each. No gateway may run over their storage meanwhile.
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
import { sessionObjectsMax, sharedName, sharedOf } from "../gateway/objects/shared-name.js";
import { ownerOfId, ownerOfShared } from "../gateway/processes/object-owner.js";
import { alarmsFile, writeAlarms, type ObjectAlarm } from "./object-alarms.js";
import { objectId } from "./object-id.js";
import { movedFolder, sessionClassKey, sessionsFile, writeObjects } from "./session-objects.js";
import {
  SessionDatabase,
  sessionsIn,
  type RenumberedSession,
  type StoredSession,
} from "./session-rows.js";
import { storageOf, storageParts } from "./storage-parts.js";

/** What renames a file or a folder: all that counts of a move. */
export type Rename = (from: string, to: string) => Promise<void>;

/** An object that sessions go to. */
interface Target {
  readonly id: string;
  readonly name: string;
  /** The process that will keep it. */
  readonly owner: number;
}

/** Sessions of an object that there is, with the objects that they go to. */
interface Source {
  readonly id: string;
  readonly path: string;
  readonly sessions: readonly (RenumberedSession & { readonly target: Target })[];
}

/** What is read of it. */
interface StoredSource extends Omit<Source, "sessions"> {
  readonly sessions: readonly StoredSession[];
}

/**
 * Moves all of them.
 *
 * @param storage folder that keeps the objects
 * @param to how many are to, 0 to 1024
 * @param processes how many will serve them, 1 to 64
 * @returns how many sessions there are
 * @throws Error where two objects have a session of the same name, or the file system or a database refuses; the storage is as it was, then
 */
export async function moveSessions(
  storage: string,
  to: number,
  processes: number,
  move: Rename = rename,
): Promise<number> {
  const moving = join(storage, "moving");
  await rm(moving, { recursive: true, force: true });
  const sources = numbered(await readSources(storage, move), targets(to, processes));
  try {
    await mkdir(join(moving, "old"), { recursive: true });
    await build(join(moving, "new"), sources, to, processes);
    await writeObjects(moving, to);
    await syncAll(moving);
  } catch (error) {
    // A full disk, above all, which the gateway needs again.
    await rm(moving, { recursive: true, force: true });
    throw error;
  }
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

/**
 * Whether a session is in an object where no gateway of so many objects looks for it: one of another number stored it there, which nothing
 * started that compares them (session-objects.ts).
 */
export async function hasStrays(storage: string, objects: number): Promise<boolean> {
  const shared = new Set(
    Array.from({ length: sessionObjectsMax }, (_, index) =>
      objectId(sessionClassKey, sharedName(index)),
    ),
  );
  for (const { id, path } of await objectFiles(storage, rename)) {
    // An object of its own holds its own session.
    if (objects === 0 && !shared.has(id)) continue;
    for (const { name } of sessionsIn(path)) {
      const place = objects === 0 ? name : sharedName(sharedOf(name, objects));
      if (objectId(sessionClassKey, place) !== id) return true;
    }
  }
  return false;
}

/** The objects that there are, and their sessions by number. */
async function readSources(storage: string, move: Rename): Promise<StoredSource[]> {
  const seen = new Map<string, string>();
  const sources: StoredSource[] = [];
  for (const { id, path } of await objectFiles(storage, move)) {
    const sessions = sessionsIn(path);
    for (const { name } of sessions) {
      const other = seen.get(name);
      if (other !== undefined) {
        throw new Error(
          `${other} and ${path} both have session ${name}: a gateway with another number of objects began it anew; ` +
            "delete the one that a gateway finds, and the other one takes its place",
        );
      }
      seen.set(name, path);
    }
    sources.push({ id, path, sessions });
  }
  return sources;
}

/** Databases of the objects that there are, each with its log beside it. */
async function objectFiles(
  storage: string,
  move: Rename,
): Promise<{ readonly id: string; readonly path: string }[]> {
  const paths = new Map<string, string>();
  for (const { path } of await storageParts(storage)) {
    const folder = join(path, sessionClassKey);
    for (const file of await readdir(folder).catch(() => [])) paths.set(file, join(folder, file));
  }
  const objects: { readonly id: string; readonly path: string }[] = [];
  for (const [file, path] of paths) {
    const [, id] = /^([0-9a-f]{64})\.sqlite$/.exec(file) ?? [];
    if (id === undefined) continue;
    // A move between processes that was interrupted may have left them apart.
    for (const kind of ["-wal", "-journal"]) {
      const log = paths.get(`${file}${kind}`);
      if (log !== undefined && log !== `${path}${kind}`) await move(log, `${path}${kind}`);
    }
    objects.push({ id, path });
  }
  return objects;
}

/** Which object a session goes to, by the name that an object of its own has. */
function targets(to: number, processes: number): (name: string) => Target {
  const shared = Array.from({ length: to }, (_, index): Target => {
    const name = sharedName(index);
    return { id: objectId(sessionClassKey, name), name, owner: ownerOfShared(index, processes) };
  });
  return (session) => {
    const target = to === 0 ? undefined : shared[sharedOf(session, to)];
    if (target !== undefined) return target;
    const id = objectId(sessionClassKey, session);
    return { id, name: session, owner: ownerOfId(id, processes) };
  };
}

/**
 * Gives each session its object and its number there. One that stays in an object keeps its number, by which workers know its
 * cache, and no other gets a number that one there had.
 */
function numbered(sources: readonly StoredSource[], targetOf: (name: string) => Target): Source[] {
  const last = new Map(
    sources.map(({ id, sessions }) => [
      id,
      sessions.reduce((most, { number }) => Math.max(most, number), 0),
    ]),
  );
  return sources.map((source) => ({
    ...source,
    sessions: source.sessions.map((session) => {
      const target = targetOf(session.name);
      if (target.id === source.id) return { ...session, target, to: session.number };
      const next = (last.get(target.id) ?? 0) + 1;
      last.set(target.id, next);
      return { ...session, target, to: next };
    }),
  }));
}

/** Writes the new objects, so many or one a session, those of each process into a folder. */
async function build(
  folder: string,
  sources: readonly Source[],
  to: number,
  processes: number,
): Promise<void> {
  const folders = Array.from({ length: processes }, (_, index) =>
    join(folder, `${index}-of-${processes}`),
  );
  for (const path of folders) await mkdir(path, { recursive: true });
  const alarms = folders.map((): ObjectAlarm[] => []);
  const made = new Map<Target, SessionDatabase>();
  const close = (target: Target, database: SessionDatabase): void => {
    const { id, name, owner } = target;
    const dueMs = database.close();
    made.delete(target);
    if (dueMs !== undefined) alarms[owner]?.push({ id, name, dueMs });
  };
  try {
    for (const { path, sessions } of sources) {
      for (const [target, taken] of byTarget(sessions)) {
        const file = join(folders[target.owner] ?? "", `${target.id}.sqlite`);
        const database = made.get(target) ?? new SessionDatabase(file, to > 0);
        made.set(target, database);
        database.take(path, taken);
        // One that nothing else comes into need not stay open.
        if (to === 0) close(target, database);
      }
    }
    for (const [target, database] of made) close(target, database);
  } finally {
    for (const database of made.values()) database.discard();
  }
  for (const [index, path] of folders.entries()) {
    writeAlarms(join(path, alarmsFile), alarms[index] ?? []);
  }
}

function byTarget(sessions: Source["sessions"]): Map<Target, RenumberedSession[]> {
  const groups = new Map<Target, RenumberedSession[]>();
  for (const { target, ...session } of sessions) {
    const group = groups.get(target) ?? [];
    group.push(session);
    groups.set(target, group);
  }
  return groups;
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
