/**
 * The gateway as it runs in production on a machine of one's own: workerd with what `leanedge bundle` writes. No development
 * server stands before it.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { bundleGateway as writeBundle } from "../../src/cli/bundle-gateway.js";
import { writeWorkerdConfig } from "../../src/cli/workerd-config.js";
import { freePort } from "../../test/support/free-port.js";

const root = resolve(import.meta.dirname, "../..");
const startMsMax = 60_000;

/** A gateway's bundle. */
export type GatewayBundle = {
  folder: string;
  /** Removes it. */
  remove(): Promise<void>;
};

/** A server in a process of its own. */
export type Server = {
  url: string;
  pid: number;
  /** Ends it and removes what it stored. */
  stop(): Promise<void>;
};

/** Bundles the gateway. */
export async function bundleGateway(): Promise<GatewayBundle> {
  const folder = await mkdtemp(join(tmpdir(), "leanedge-gateway-"));
  const remove = (): Promise<void> => rm(folder, { recursive: true, force: true });
  try {
    await writeBundle(folder);
  } catch (error) {
    await remove();
    throw error;
  }
  return { folder, remove };
}

/** Serves a bundle on a free port, with storage of its own on the disk. */
export async function serveGateway(
  { folder }: GatewayBundle,
  vars: Readonly<Record<string, string>>,
): Promise<Server> {
  const port = await freePort();
  const storage = await mkdtemp(join(tmpdir(), "leanedge-objects-"));
  const config = await writeWorkerdConfig({
    ...{ bundle: folder, storage, listen: `127.0.0.1:${port}` },
    // Nobody asks for the page.
    assets: folder,
    variables: Object.keys(vars),
  });
  const child = spawn(join(root, "node_modules/.bin/workerd"), ["serve", config], {
    stdio: ["ignore", "ignore", process.env["LEANEDGE_LOG"] === "debug" ? "inherit" : "ignore"],
    env: { ...process.env, ...vars },
  });
  return untilReady(child, `http://127.0.0.1:${port}`, "/livez", () =>
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
