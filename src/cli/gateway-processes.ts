/**
 * Starts workerd, once or several times, to serve one bundled gateway (workerd-config.ts). Several processes share the
 * socket that clients come to, and each keeps its part of the Durable Objects, in a folder of its own; they reach each
 * other's over sockets in a folder that only this user may enter.
 *
 * Nothing here but Node itself is needed: `leanedge bundle` puts it beside the gateway.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";
import { sessionObjectsVariable } from "../gateway/objects/shared-name.js";
import { serverFd } from "./server-fd.js";
import { askedSessionObjects, settleSessionObjects } from "./session-objects.js";
import { holdStorage, type StorageHold } from "./storage-hold.js";
import { storageOf, storageParts } from "./storage-parts.js";

/** What to start. */
export interface GatewayProcessesOptions {
  /** workerd itself, or a command that becomes it, with arguments before its own. */
  readonly workerd: string | readonly [string, ...string[]];
  /** The configuration, written for as many processes. */
  readonly config: string;
  /** How many, 1 to 64. */
  readonly processes: number;
  /** Host to listen on, an IPv6 address without brackets. */
  readonly host: string;
  /** Port to listen on; 0: any that is free. */
  readonly port: number;
  /** Folder that keeps the Durable Objects. */
  readonly storage: string;
  /** How many objects hold its sessions, 0 to 1024; unset: what the environment says, or else the storage (session-objects.ts). */
  readonly sessionObjects?: number | undefined;
  /** Other folders of the configuration, by name, that are not where it says. */
  readonly folders?: Readonly<Record<string, string>>;
  /** Variables of the environment, of the gateway's too. */
  readonly env: NodeJS.ProcessEnv;
  /** Where workerd's output goes. */
  readonly output: "inherit" | "ignore";
}

/** Processes that run and listen. */
export interface GatewayProcesses {
  readonly port: number;
  /** Ids of the processes. */
  readonly pids: readonly number[];
  /** Resolves with the exit code of the first process that ends by itself; the others are ended then. */
  readonly exited: Promise<number | null>;
  /** Ends them at once; what is stored stays. */
  stop(): Promise<void>;
}

/** Variable that tells a process which of how many it is; the gateway reads it (src/gateway/config.ts). */
export const processVariable = "LEANEDGE_PROCESS";

/** Longest start, in milliseconds. */
const startMsMax = 60_000;
/** How the streams of a process are numbered: what it says of itself, the socket that clients come to, and behind it what holds the storage. */
const controlFd = 3;
const clientsFd = 4;

/**
 * Starts them and waits until all listen.
 * @throws Error where another gateway or a move has the storage, it is of another number of processes, or its sessions are in
 * another number of objects, the address is taken, or one ends before it listens
 */
export async function startGatewayProcesses(
  options: GatewayProcessesOptions,
): Promise<GatewayProcesses> {
  await mkdir(options.storage, { recursive: true });
  const hold = await holdStorage(options.storage, "gateway");
  try {
    return await startHeld(options, hold);
  } catch (error) {
    await hold.release();
    throw error;
  }
}

async function startHeld(
  options: GatewayProcessesOptions,
  hold: StorageHold,
): Promise<GatewayProcesses> {
  const { processes, storage, folders = {}, env, output } = options;
  await checkStorage(storage, processes);
  const asked = options.sessionObjects ?? askedSessionObjects(env);
  const sessionObjects = await settleSessionObjects(storage, asked, processes);
  const [command, ...before] =
    typeof options.workerd === "string" ? [options.workerd] : options.workerd;
  const parts = Array.from({ length: processes }, (_, index) =>
    storageOf(storage, index, processes),
  );
  await Promise.all(parts.map((folder) => mkdir(folder, { recursive: true })));
  const sockets = processes === 1 ? undefined : await mkdtemp(join(tmpdir(), "leanedge-"));
  const removeSockets = async (): Promise<void> => {
    if (sockets !== undefined) await rm(sockets, { recursive: true, force: true });
  };
  const clients = await listen(options.host, options.port).catch(async (error: unknown) => {
    await removeSockets();
    throw error;
  });
  const children = parts.map((folder, index) => {
    const places = Object.entries({ ...folders, storage: folder });
    return spawn(
      command,
      [
        ...[...before, "serve", `--control-fd=${controlFd}`, `--socket-fd=http=${clientsFd}`],
        ...places.map(([name, path]) => `--directory-path=${name}=${path}`),
        ...(sockets === undefined ? [] : objectPlaces(sockets, index, processes)),
        options.config,
      ],
      {
        stdio: ["ignore", output, output, "pipe", clients.fd, hold.fd ?? "ignore"],
        env: {
          ...env,
          [processVariable]: `${index}/${processes}`,
          [sessionObjectsVariable]: String(sessionObjects),
        },
      },
    );
  });
  // They have it now. Nothing may come to it here.
  clients.close();
  const ends = children.map(
    (child) =>
      new Promise<number | null>((resolve) => {
        child.once("exit", resolve);
        child.once("error", () => {
          resolve(null);
        });
      }),
  );
  let stopping = false;
  async function stop(): Promise<void> {
    stopping = true;
    for (const child of children) child.kill("SIGKILL");
    await Promise.all(ends);
    await removeSockets();
    await hold.release();
  }
  const exited = new Promise<number | null>((resolve) => {
    for (const end of ends) {
      void end.then(async (code) => {
        if (stopping) return;
        await stop();
        resolve(code);
      });
    }
  });
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<string>((resolve) => {
    timer = setTimeout(resolve, startMsMax, `does not listen after ${startMsMax} ms`);
  });
  const ended = exited.then((code) => `ended with code ${code ?? "none"}`);
  const ready = Promise.all(children.map(listens)).then(() => undefined);
  const failure = await Promise.race([ready, late, ended]);
  clearTimeout(timer);
  if (failure !== undefined) {
    await stop();
    throw new Error(`workerd ${failure}`);
  }
  const pids = children.map(({ pid }) => pid ?? 0);
  return { port: clients.port, pids, exited, stop };
}

/** Where process `index` of `count` serves its objects, and where it finds those of all. */
function objectPlaces(sockets: string, index: number, count: number): string[] {
  const addresses = Array.from(
    { length: count },
    (_, peer) => `unix:${join(sockets, String(peer))}`,
  );
  return [
    `--socket-addr=objects=${addresses[index]}`,
    ...addresses.map((address, peer) => `--external-addr=peer-${peer}=${address}`),
  ];
}

/**
 * Refuses storage that another number of processes wrote: which process keeps an object follows from their number, and each
 * would begin anew what another one has.
 */
async function checkStorage(storage: string, processes: number): Promise<void> {
  const other = (await storageParts(storage)).find(({ count }) => count !== processes);
  if (other !== undefined) {
    throw new Error(
      `the sessions in ${storage} are those of ${other.count} gateway process${other.count === 1 ? "" : "es"}, not ${processes}; ` +
        `"leanedge spread --storage ${storage} --processes ${processes}" moves them`,
    );
  }
}

/** A socket that listens, for others to accept from. */
interface Listening {
  readonly fd: number;
  readonly port: number;
  close(): void;
}

/** Listens. It must be closed before the event loop turns again, or connections that came meanwhile are lost. */
async function listen(host: string, port: number): Promise<Listening> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen({ host, port, backlog: backlogMax }, resolve);
  });
  const address = server.address();
  return {
    fd: serverFd(server),
    port: address !== null && typeof address === "object" ? address.port : port,
    close: () => {
      server.close();
    },
  };
}
/** Connections that wait to be accepted. */
const backlogMax = 511;

/** Resolves when a process says that it listens for clients. */
async function listens(child: ChildProcess): Promise<void> {
  for await (const line of createInterface({ input: child.stdio[controlFd] as Readable })) {
    const said = JSON.parse(line) as { readonly event: string; readonly socket: string };
    if (said.event === "listen" && said.socket === "http") return;
  }
  await new Promise(() => undefined);
}
