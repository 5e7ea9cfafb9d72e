/**
 * The gateway as it runs in production on a machine of one's own: workerd with what `leanedge bundle` writes. No development
 * server stands before it.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { freePort } from "../../test/support/free-port.js";
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
  /** Folder of the bundle, with its `workerd.capnp`. */
  folder: string;
  /** workerd itself. */
  workerd: string;
};

/** A server in a process of its own. */
export type Server = {
  url: string;
  pid: number;
  /** Ends it and removes what it stored. */
  stop(): Promise<void>;
};

/**
 * Serves a bundle on a free port, with storage of its own on the disk.
 *
 * @param cores cores that it keeps to, as taskset takes them; undefined: all
 */
export async function serveGateway(
  { folder, workerd }: GatewayProgram,
  vars: GatewayVariables,
  cores?: string,
): Promise<Server> {
  const address = `127.0.0.1:${await freePort()}`;
  const storage = await mkdtemp(join(tmpdir(), "leanedge-objects-"));
  const places = [`--directory-path=storage=${storage}`, `--directory-path=files=${folder}`];
  const { command, args } = onCores(cores, workerd, [
    ...["serve", join(folder, "workerd.capnp"), `--socket-addr=http=${address}`, ...places],
  ]);
  const child = spawn(command, args, {
    stdio: ["ignore", "ignore", process.env["LEANEDGE_LOG"] === "debug" ? "inherit" : "ignore"],
    env: { ...process.env, ...vars },
  });
  return untilReady(child, `http://${address}`, "/livez", () =>
    rm(storage, { recursive: true, force: true }),
  );
}

/** Waits until a server answers anything at all at a path. */
export async function untilReady(
  child: ChildProcess,
  url: string,
  path: string,
  remove: () => Promise<unknown>,
): Promise<Server> {
  const exited = new Promise((done) => child.once("exit", done));
  const stop = async (): Promise<void> => {
    child.kill("SIGKILL");
    await exited;
    await remove();
  };
  const deadlineMs = performance.now() + startMsMax;
  while (performance.now() < deadlineMs && child.exitCode === null) {
    try {
      await (await fetch(`${url}${path}`, { signal: AbortSignal.timeout(1_000) })).text();
      return { url, pid: child.pid ?? 0, stop };
    } catch {
      await new Promise((done) => setTimeout(done, 20));
    }
  }
  const status = child.exitCode;
  await stop();
  throw new Error(`${url} did not answer within ${startMsMax} ms (status ${status ?? "none"})`);
}
