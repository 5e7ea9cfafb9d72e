/**
 * Who has a storage: one gateway, or one move of what it stored (`leanedge spread`), and nobody else meanwhile.
 *
 * Each has a socket in the storage's folder `holders`, by a name of its own, on which it listens; nobody says anything there.
 * Connecting tells whether any process has it open still, so a crash frees it, and workerd, which inherits it, keeps it where only
 * the process that started it is gone. A name stands there before its owner looks for others: of two that begin at the same time at least one
 * sees the other. A file system that has no sockets (some that a container shares with another system) is held by nobody: a line on
 * the log says so.
 *
 * Nothing but Node itself is needed: `leanedge bundle` puts it beside the gateway.
 */
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdir, open, readdir, rename, rm, rmdir } from "node:fs/promises";
import { connect, createServer, type Server } from "node:net";
import { join } from "node:path";
import { isSystemError } from "../system-error.js";
import { serverFd } from "./server-fd.js";

/** What one does with a storage. */
export type StorageUse = "gateway" | "spread";

/** A storage that is held. */
export interface StorageHold {
  /** Descriptor of the socket, for processes that are started to have it open as well; undefined where there can be none. */
  readonly fd: number | undefined;
  /** Lets it go, once however often it is called. Processes that have the socket as well must have ended. */
  release(): Promise<void>;
}

/** Name of the folder in the storage's. */
export const holdersFolder = "holders";
/** What refuses another one, said of the storage. */
const refusals: Readonly<Record<StorageUse, (storage: string) => string>> = {
  gateway: (storage) => `a gateway runs over ${storage}: end it first`,
  spread: (storage) =>
    `"leanedge spread" is moving the sessions in ${storage}: wait until it has ended`,
};
/** What a file system says that has no sockets. */
const socketless = ["ENOTSUP", "EOPNOTSUPP", "EPERM", "EINVAL"] as const;
/** How often the folder is made where others that let go remove it. */
const triesMax = 10;

/**
 * Holds a storage.
 *
 * @param storage its folder, which must be there
 * @throws Error where somebody has it
 */
export async function holdStorage(storage: string, use: StorageUse): Promise<StorageHold> {
  const folder = join(storage, holdersFolder);
  const own = `${use}-${randomBytes(6).toString("hex")}`;
  const server = await listenIn(folder, own).catch((error: unknown) => {
    if (!socketless.some((code) => isSystemError(error, code))) throw error;
    const why = error instanceof Error ? error.message : "";
    console.warn(`${storage} has no sockets (${why}): nothing tells whether another one uses it`);
    return undefined;
  });
  if (server === undefined) {
    await rmdir(folder).catch(() => undefined);
    return { fd: undefined, release: () => Promise.resolve() };
  }
  const letGo = async (): Promise<void> => {
    await rm(join(folder, own), { force: true });
    server.close();
    // Where another one's is in it, it stays.
    await rmdir(folder).catch(() => undefined);
  };
  let released: Promise<void> | undefined;
  const hold: StorageHold = {
    fd: serverFd(server),
    release: () => (released ??= letGo()),
  };
  try {
    await refuseOthers(storage, ["gateway", "spread"], own);
  } catch (error) {
    await hold.release();
    throw error;
  }
  return hold;
}

/**
 * Looks whether somebody has a storage, for one of these uses.
 * @throws Error where somebody has
 */
export async function refuseHeld(storage: string, ...refused: StorageUse[]): Promise<void> {
  await refuseOthers(storage, refused, "");
}

async function refuseOthers(
  storage: string,
  refused: readonly StorageUse[],
  own: string,
): Promise<void> {
  const folder = join(storage, holdersFolder);
  for (const name of await readdir(folder).catch(() => [])) {
    const [, use] = /^(gateway|spread)-[0-9a-f]+$/.exec(name) ?? [];
    if (use === undefined || name === own) continue;
    if (!(await isHeld(folder, name))) {
      // What a crash left. Nobody ever takes its name again.
      await rm(join(folder, name), { force: true });
    } else if (refused.includes(use as StorageUse)) {
      throw new Error(refusals[use as StorageUse](storage));
    }
  }
}

/** Listens on a socket of a name that appears when it listens. */
async function listenIn(folder: string, name: string): Promise<Server> {
  for (let tries = 1; ; tries++) {
    const server = createServer((socket) => socket.destroy());
    try {
      await mkdir(folder, { recursive: true });
      await inFolder(folder, async (near) => {
        server.listen(join(near, `${name}.new`));
        await once(server, "listening");
      });
      await rename(join(folder, `${name}.new`), join(folder, name));
      server.unref();
      return server;
    } catch (error) {
      server.close();
      if (!isSystemError(error, "ENOENT") || tries === triesMax) throw error;
    }
  }
}

/** Whether any process listens on a socket. One that has too many who wait, or is another user's, does. */
async function isHeld(folder: string, name: string): Promise<boolean> {
  return inFolder(folder, async (near) => {
    const socket = connect(join(near, name));
    try {
      await once(socket, "connect");
      return true;
    } catch (error) {
      return !isSystemError(error, "ECONNREFUSED") && !isSystemError(error, "ENOENT");
    } finally {
      socket.destroy();
    }
  }).catch((error: unknown) => {
    // The last one has let go, and removed the folder.
    if (isSystemError(error, "ENOENT")) return false;
    throw error;
  });
}

/** Names the folder in few characters, where the system can: the path of a socket has 107 at most. */
async function inFolder<T>(folder: string, work: (near: string) => Promise<T>): Promise<T> {
  if (process.platform !== "linux") return work(folder);
  const handle = await open(folder);
  try {
    return await work(`/proc/self/fd/${handle.fd}`);
  } finally {
    await handle.close();
  }
}
