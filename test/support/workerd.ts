/** The Workers runtime alone, without the proxy that `wrangler dev` puts in front of it. */
import { execFile, spawn } from "node:child_process";
import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { freePort } from "./wrangler-dev.js";
import type { WranglerDev } from "./wrangler-dev.js";

const root = resolve(import.meta.dirname, "../..");
const bin = join(root, "node_modules/.bin");

/** How long bundling and the start of the runtime may take each, in milliseconds, on a busy machine. */
const startMsMax = 60_000;

/** What a Worker needs of its `wrangler.toml`, which the runtime does not read. */
export interface BundleOptions {
  /** Its compatibility date. */
  compatibilityDate: string;
  /** Its compatibility flags. */
  compatibilityFlags: readonly string[];
  /** Its variables. */
  vars: Readonly<Record<string, string>>;
}

/** A Worker to bundle and serve. */
export interface WorkerdOptions extends BundleOptions {
  /** Path of the `wrangler.toml` from the repository's root, for the bundle. */
  config: string;
}

const env = { ...process.env, PATH: `${bin}:${process.env["PATH"] ?? ""}` };

/** Bundles the Worker (`worker.ts`) of a `wrangler.toml`, path from the repository's root, into a folder. */
export async function bundleWorker(config: string, folder: string): Promise<void> {
  await promisify(execFile)(
    join(bin, "wrangler"),
    ["deploy", "--dry-run", "--config", join(root, config), "--outdir", folder],
    { cwd: root, env: { ...env, CI: "1", WRANGLER_SEND_METRICS: "false" }, timeout: startMsMax },
  );
}

/** Serves a bundled Worker, and the WASM modules beside it, on a free port. */
export async function serveBundle(folder: string, options: BundleOptions): Promise<WranglerDev> {
  const files = await readdir(folder);
  const port = await freePort();
  // Beside the bundle, because it embeds relative paths only.
  const config = join(folder, `config-${port}.capnp`);
  await writeFile(config, configOf(options, port, files));
  const child = spawn(join(bin, "workerd"), ["serve", config], {
    env,
    stdio: ["ignore", "ignore", process.env["LEANEDGE_LOG"] === "debug" ? "inherit" : "ignore"],
  });
  const exited = new Promise((done) => child.once("exit", done));
  async function stop(): Promise<void> {
    child.kill("SIGKILL");
    await exited;
    await rm(config, { force: true });
  }
  const url = `http://127.0.0.1:${port}`;
  const deadline = Date.now() + startMsMax;
  while (Date.now() < deadline && child.exitCode === null) {
    try {
      await fetch(url, { signal: AbortSignal.timeout(1000) });
      return { port, url, stop };
    } catch {
      await new Promise((done) => setTimeout(done, 100));
    }
  }
  const status = child.exitCode;
  await stop();
  throw new Error(`workerd did not answer within ${startMsMax} ms (status ${status ?? "none"})`);
}

/** Bundles a Worker and serves it on a free port with the runtime that wrangler uses. */
export async function startWorkerd(options: WorkerdOptions): Promise<WranglerDev> {
  const folder = await mkdtemp(join(tmpdir(), "leanedge-bundle-"));
  const removeBundle = (): Promise<void> => rm(folder, { recursive: true, force: true });
  try {
    await bundleWorker(options.config, folder);
    const served = await serveBundle(folder, options);
    return { ...served, stop: () => served.stop().then(removeBundle) };
  } catch (error) {
    await removeBundle();
    throw error;
  }
}

function configOf(options: BundleOptions, port: number, files: readonly string[]): string {
  const flags = options.compatibilityFlags.map((flag) => JSON.stringify(flag)).join(", ");
  const bindings = Object.entries(options.vars)
    .map(([name, text]) => `(name = ${JSON.stringify(name)}, text = ${JSON.stringify(text)})`)
    .join(", ");
  const modules = [
    '(name = "worker.js", esModule = embed "worker.js")',
    ...files
      .filter((file) => file.endsWith(".wasm"))
      .map((file) => `(name = "./${file}", wasm = embed ${JSON.stringify(file)})`),
  ].join(", ");
  return `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "main", worker = .main)],
  sockets = [(name = "http", address = "127.0.0.1:${port}", http = (), service = "main")],
);
const main :Workerd.Worker = (
  modules = [${modules}],
  compatibilityDate = ${JSON.stringify(options.compatibilityDate)},
  compatibilityFlags = [${flags}],
  bindings = [${bindings}],
);
`;
}
