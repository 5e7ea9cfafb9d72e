/**
 * The gateway as it runs in production on a machine of one's own: the bundle that `wrangler deploy` makes, in workerd,
 * under a configuration that says what `wrangler.toml` says. No development server stands before it.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { readFileSync } from "node:fs";
import { mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { bundleWorker } from "../../test/support/workerd.js";
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

/** Bundles the gateway; some seconds. */
export async function bundleGateway(): Promise<GatewayBundle> {
  // The bundle names the folder of assets, which is not there before the first `leanedge build`.
  await mkdir(join(root, "dist/public"), { recursive: true });
  const folder = await mkdtemp(join(tmpdir(), "leanedge-gateway-"));
  const remove = (): Promise<void> => rm(folder, { recursive: true, force: true });
  try {
    await bundleWorker("wrangler.toml", folder);
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
  const config = join(folder, `config-${port}.capnp`);
  const wasm = (await readdir(folder)).filter((file) => file.endsWith(".wasm"));
  const toml = readFileSync(join(root, "wrangler.toml"), "utf8");
  await writeFile(config, workerdConfig({ toml, wasm, vars, port, storage }));
  const child = spawn(join(root, "node_modules/.bin/workerd"), ["serve", config], {
    stdio: ["ignore", "ignore", process.env["LEANEDGE_LOG"] === "debug" ? "inherit" : "ignore"],
  });
  return untilReady(child, `http://127.0.0.1:${port}`, "/livez", () =>
    Promise.all([rm(storage, { recursive: true, force: true }), rm(config, { force: true })]),
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

/** What workerd is told. */
export type WorkerdConfig = {
  /** Text of `wrangler.toml`. */
  toml: string;
  /** Files of WASM modules beside the bundle. */
  wasm: readonly string[];
  vars: Readonly<Record<string, string>>;
  port: number;
  /** Folder of the Durable Objects' storage. */
  storage: string;
};

/** The configuration in workerd's language. Throws where `wrangler.toml` lacks something. */
export function workerdConfig({ toml, wasm, vars, port, storage }: WorkerdConfig): string {
  const date = /^compatibility_date = (?<date>"[^"]+")/m.exec(toml)?.groups?.["date"];
  const flags = /^compatibility_flags = (?<flags>\[[^\]]*\])/m.exec(toml)?.groups?.["flags"];
  const objects = [...toml.matchAll(/\{ name = (?<name>"\w+"), class_name = (?<type>"\w+") \}/g)];
  if (date === undefined || flags === undefined || objects.length === 0) {
    throw new Error("wrangler.toml names no compatibility date, no flags or no objects");
  }
  const quoted = (text: string): string => JSON.stringify(text);
  const modules = [
    '(name = "worker.js", esModule = embed "index.js")',
    ...wasm.map((file) => `(name = ${quoted(`./${file}`)}, wasm = embed ${quoted(file)})`),
  ];
  const bindings = [
    ...objects.map(
      ({ groups }) =>
        `(name = ${groups?.["name"] ?? ""}, durableObjectNamespace = ${groups?.["type"] ?? ""})`,
    ),
    ...Object.entries(vars).map(
      ([name, text]) => `(name = ${quoted(name)}, text = ${quoted(text)})`,
    ),
  ];
  const namespaces = objects.map(({ groups }) => {
    const type = groups?.["type"] ?? "";
    return `(className = ${type}, uniqueKey = ${type}, enableSql = true)`;
  });
  return `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    (name = "main", worker = .main),
    (name = "objects", disk = (path = ${quoted(storage)}, writable = true)),
    (name = "workers", network = (allow = ["public", "private", "local"])),
  ],
  sockets = [(name = "http", address = "127.0.0.1:${port}", http = (), service = "main")],
);
const main :Workerd.Worker = (
  modules = [${modules.join(", ")}],
  compatibilityDate = ${date},
  compatibilityFlags = ${flags},
  bindings = [${bindings.join(", ")}],
  durableObjectNamespaces = [${namespaces.join(", ")}],
  durableObjectStorage = (localDisk = "objects"),
  globalOutbound = "workers",
);
`;
}
