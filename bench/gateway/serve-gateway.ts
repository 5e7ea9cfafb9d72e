/**
 * The gateway as it runs in production on a machine of one's own: workerd with what `leanedge bundle` writes. No development
 * server stands before it.
 */
import type { ChildProcess } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startGatewayProcesses } from "../../src/cli/gateway-processes.js";
import { onCores } from "../support/cores.js";

const startMsMax = 60_000;

/** Variables that its configuration knows; each must have a value. */
export const gatewayVariables = [
  "LEANEDGE_DEV_KEY",
  "LEANEDGE_MODELS",
  "LEANEDGE_WORKERS",
] as const;

/** Values of these. */
export type GatewayVariables = Readonly<Record<(typeof gatewayVariables)[number], string>>;

/** What serves. */
export type GatewayProgram = {
  /** Folder of the bundle, with a configuration (configOf) for one process and for `processes`. */
  folder: string;
  /** workerd itself. */
  workerd: string;
  /** How many there are where several serve together. */
  processes: number;
};

/** Name of the configuration for so many processes. */
export function configOf(processes: number): string {
  return processes === 1 ? "workerd.capnp" : `workerd-${processes}.capnp`;
}

/** A server in processes of its own. */
export type Server = {
  url: string;
  pids: readonly number[];
  /** Ends it and removes what it stored. */
  stop(): Promise<void>;
};

/**
 * Serves a bundle on a free port, with storage of its own on the disk.
 *
 * @param processes one, or as many as the program has a configuration for
 * @param cores cores that it keeps to, as taskset takes them; undefined: all
 */
export async function serveGateway(
  { folder, workerd }: GatewayProgram,
  vars: GatewayVariables,
  processes = 1,
  cores?: string,
): Promise<Server> {
  const storage = await mkdtemp(join(tmpdir(), "leanedge-objects-"));
  const { command, args } = onCores(cores, workerd, []);
  const gateway = await startGatewayProcesses({
    ...{ workerd: [command, ...args], config: join(folder, configOf(processes)), processes },
    ...{ host: "127.0.0.1", port: 0, storage, folders: { files: folder } },
    env: { ...process.env, ...vars },
    output: process.env["LEANEDGE_LOG"] === "debug" ? "inherit" : "ignore",
  });
  const url = `http://127.0.0.1:${gateway.port}`;
  const stop = async (): Promise<void> => {
    await gateway.stop();
    await rm(storage, { recursive: true, force: true });
  };
  try {
    await untilAnswers(`${url}/livez`, () => true);
  } catch (error) {
    await stop();
    throw error;
  }
  return { url, pids: gateway.pids, stop };
}

/** Waits until a server answers anything at all, or cannot any more. */
async function untilAnswers(url: string, mayAnswer: () => boolean): Promise<void> {
  const deadlineMs = performance.now() + startMsMax;
  while (performance.now() < deadlineMs && mayAnswer()) {
    try {
      await (await fetch(url, { signal: AbortSignal.timeout(1_000) })).text();
      return;
    } catch {
      await new Promise((done) => setTimeout(done, 20));
    }
  }
  throw new Error(`${url} did not answer within ${startMsMax} ms`);
}

/** Waits until a server that was started answers at a path. */
export async function untilReady(child: ChildProcess, url: string, path: string): Promise<Server> {
  const exited = new Promise((done) => child.once("exit", done));
  const stop = async (): Promise<void> => {
    child.kill("SIGKILL");
    await exited;
  };
  try {
    await untilAnswers(`${url}${path}`, () => child.exitCode === null);
  } catch (error) {
    await stop();
    throw error;
  }
  return { url, pids: [child.pid ?? 0], stop };
}
