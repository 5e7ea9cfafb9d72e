/**
 * One pull of a file at a time, among all processes that share the folder. The lock is a file that
 * names its holder; the holder touches it now and then, so that a lock whose holder was killed, or
 * whose machine went down, is known as such even if the process id lives on in another process.
 */
import { randomUUID } from "node:crypto";
import { readFile, rename, rm, stat, utimes, writeFile } from "node:fs/promises";
import { hostname } from "node:os";
import { PullError, isSystemError, reason } from "./errors.js";
import type { PullLimits } from "./limits.js";

interface Holder {
  readonly id: string;
  readonly pid: number;
  readonly host: string;
}

/** Takes of an abandoned lock that may fail in a row, because others want it too. */
const takesMax = 8;

/**
 * Runs `work` while holding the lock at `path`.
 *
 * @throws PullError `locked` if another process holds it; it is not waited for
 */
export async function withLock<T>(
  path: string,
  limits: Pick<PullLimits, "lockStaleMs">,
  work: () => Promise<T>,
): Promise<T> {
  const holder: Holder = { id: randomUUID(), pid: process.pid, host: hostname() };
  await take(path, holder, limits);
  const heartbeat = setInterval(() => {
    const now = new Date();
    // A lock that cannot be touched will look abandoned, which the checksum survives.
    utimes(path, now, now).catch(() => undefined);
  }, limits.lockStaleMs / 4);
  heartbeat.unref();
  try {
    return await work();
  } finally {
    clearInterval(heartbeat);
    if ((await readHolder(path))?.id === holder.id) await rm(path, { force: true });
  }
}

async function take(
  path: string,
  holder: Holder,
  limits: Pick<PullLimits, "lockStaleMs">,
): Promise<void> {
  for (let takes = 0; takes < takesMax; takes += 1) {
    try {
      await writeFile(path, JSON.stringify(holder), { flag: "wx" });
      return;
    } catch (cause) {
      if (!isSystemError(cause, "EEXIST")) {
        throw new PullError("disk", `cannot write ${path}: ${reason(cause)}`, { cause });
      }
    }
    const other = await readHolder(path);
    if (!(await isAbandoned(path, other, limits))) {
      throw new PullError(
        "locked",
        `another pull of this file is running${other === undefined ? "" : ` (process ${other.pid} on ${other.host})`}; its lock is ${path}`,
      );
    }
    await breakLock(path, other, holder);
  }
  throw new PullError("locked", `others took the abandoned lock ${path} ${takesMax} times`);
}

/** Moves an abandoned lock away, and puts it back if another process was quicker to replace it. */
async function breakLock(path: string, seen: Holder | undefined, by: Holder): Promise<void> {
  const aside = `${path}.${by.id}`;
  try {
    await rename(path, aside);
  } catch (error) {
    if (isSystemError(error, "ENOENT")) return;
    throw error;
  }
  const moved = await readHolder(aside);
  if (moved?.id !== seen?.id) await rename(aside, path);
  else await rm(aside, { force: true });
}

async function isAbandoned(
  path: string,
  holder: Holder | undefined,
  { lockStaleMs }: Pick<PullLimits, "lockStaleMs">,
): Promise<boolean> {
  if (holder?.host === hostname() && !isAlive(holder.pid)) return true;
  try {
    const { mtimeMs } = await stat(path);
    return Date.now() - mtimeMs > lockStaleMs;
  } catch (error) {
    if (isSystemError(error, "ENOENT")) return true;
    throw error;
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    // EPERM: it is there, and somebody else's.
    return !isSystemError(error, "ESRCH");
  }
}

/** Undefined for a lock that is gone, or whose holder has not yet written its name. */
async function readHolder(path: string): Promise<Holder | undefined> {
  try {
    const value: unknown = JSON.parse(await readFile(path, "utf8"));
    if (typeof value !== "object" || value === null) return undefined;
    const { id, pid, host } = value as Record<string, unknown>;
    if (typeof id !== "string" || typeof pid !== "number" || typeof host !== "string") {
      return undefined;
    }
    return { id, pid, host };
  } catch (error) {
    if (isSystemError(error, "ENOENT") || error instanceof SyntaxError) return undefined;
    throw error;
  }
}
