/**
 * How a storage keeps its sessions: in how many objects that they share, or each in one of its own. The file says it, and
 * stays: in which object a session is follows from their number. Storage that was written before there was the file has an
 * object a session.
 *
 * Nothing here but Node itself is needed: `leanedge bundle` puts it beside the gateway.
 */
import { mkdir, readdir, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { parseSessionObjects, sessionObjectsVariable } from "../gateway/objects/shared-name.js";
import { isSystemError } from "../system-error.js";
import { storageParts } from "./storage-parts.js";

/** Name of the file in the storage's folder; it is JSON. */
export const sessionsFile = "sessions.json";
/** Name of the folder in it of a move of sessions that is to be ended (move-sessions.ts). */
export const movedFolder = "moved";
/** Unique key of the sessions' class: the name of the folder of their databases in each part of a storage. */
export const sessionClassKey = "leanedge-SessionObject";

/**
 * Settles how many objects hold the sessions of a storage, and writes it there.
 *
 * @param storage folder that keeps the objects; it is made if need be
 * @param asked how many are asked for, 0 (one a session) to 1024; undefined: what the storage says, or else as many as processes
 * @param processes how many will serve it, 1 to 64
 * @throws Error where the storage has sessions and they are in another number of objects, there are fewer than processes, or a move was interrupted
 */
export async function settleSessionObjects(
  storage: string,
  asked: number | undefined,
  processes: number,
): Promise<number> {
  await mkdir(storage, { recursive: true });
  if ((await readdir(storage)).includes(movedFolder)) {
    throw new Error(
      `a move of the sessions in ${storage} was interrupted; ${spreadHint(storage, processes)}`,
    );
  }
  const stored = await storedSessionObjects(storage);
  if (stored !== undefined && asked !== undefined && stored !== asked) {
    throw new Error(
      `the sessions in ${storage} are kept in ${objectsInWords(stored)}, not in ${objectsInWords(asked)}: ` +
        spreadHint(storage, processes, asked),
    );
  }
  const said = await readObjects(storage);
  // One object's commits are one sync for all of its sessions: more than one a process only costs.
  const objects = stored ?? asked ?? (said === 0 ? 0 : Math.max(said ?? 1, processes));
  checkProcesses(storage, objects, processes);
  if (said !== objects) await writeObjects(storage, objects);
  return objects;
}

/** What the variable asks for; undefined where it is unset or empty. Throws where it is no number from 0 to 1024. */
export function askedSessionObjects(env: NodeJS.ProcessEnv): number | undefined {
  const text = env[sessionObjectsVariable];
  return text === undefined || text === "" ? undefined : parseSessionObjects(text);
}

/** How many objects hold the sessions of a storage; undefined where it has none yet. */
export async function storedSessionObjects(storage: string): Promise<number | undefined> {
  return (await hasSessions(storage)) ? ((await readObjects(storage)) ?? 0) : undefined;
}

/** Refuses more processes than there are objects: those without any would keep no session. */
export function checkProcesses(storage: string, objects: number, processes: number): void {
  if (objects > 0 && processes > objects) {
    throw new Error(
      `${processes} gateway processes cannot serve ${storage}: its sessions are kept in ${objectsInWords(objects)}, ` +
        `each by one process; ${spreadHint(storage, processes)}`,
    );
  }
}

/** What moves the sessions of a storage. */
function spreadHint(storage: string, processes: number, objects?: number): string {
  const more = objects === undefined ? "" : ` --session-objects ${objects}`;
  return `"leanedge spread --storage ${storage} --processes ${processes}${more}" moves them`;
}

/** Says in how many objects sessions are kept. */
export function objectsInWords(objects: number): string {
  if (objects === 0) return "an object each";
  return objects === 1 ? "1 object that they share" : `${objects} objects that they share`;
}

async function hasSessions(storage: string): Promise<boolean> {
  for (const { path } of await storageParts(storage)) {
    const files = await readdir(join(path, sessionClassKey)).catch(orNone);
    if (files?.some((file) => /^[0-9a-f]{64}\.sqlite$/.test(file)) === true) return true;
  }
  return false;
}

/** What the file says; undefined where there is none. */
async function readObjects(storage: string): Promise<number | undefined> {
  const path = join(storage, sessionsFile);
  const text = await readFile(path, "utf8").catch(orNone);
  if (text === undefined) return undefined;
  try {
    const { objects } = JSON.parse(text) as { readonly objects?: unknown };
    if (typeof objects !== "number") throw new Error('it has no number "objects"');
    return parseSessionObjects(String(objects));
  } catch (cause) {
    throw new Error(`${path} does not say how many objects hold the sessions`, { cause });
  }
}

/** Writes the file into a folder, or leaves what was there. */
export async function writeObjects(storage: string, objects: number): Promise<void> {
  const path = join(storage, sessionsFile);
  await writeFile(`${path}.new`, `${JSON.stringify({ objects })}\n`);
  await rename(`${path}.new`, path);
}

function orNone(error: unknown): undefined {
  if (!isSystemError(error, "ENOENT")) throw error;
}
