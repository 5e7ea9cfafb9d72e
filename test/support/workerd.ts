/** The Workers runtime alone, without the proxy that `wrangler dev` puts in front of it. */
import { execFile, spawn } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
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
export interface WorkerdOptions {
  /** Path of the `wrangler.toml` from the repository's root, for the bundle. */
  config: string;
  /** Its compatibility date. */
  compatibilityDate: string;
  /** Its compatibility flags. */
  compatibilityFlags: readonly string[];
  /** Its variables. */
  vars: Readonly<Record<string, string>>;
}

/** Bundles a Worker (`worker.ts`) and serves it on a free port with the runtime that wrangler uses. */
export async function startWorkerd(options: WorkerdOptions): Promise<WranglerDev> {
  const folder = await mkdtemp(join(tmpdir(), "leanedge-workerd-"));
  const env = { ...process.env, PATH: `${bin}:${process.env["PATH"] ?? ""}` };
  await promisify(execFile)(
    join(bin, "wrangler"),
    ["deploy", "--dry-run", "--config", join(root, options.config), "--outdir", folder],
    { cwd: root, env: { ...env, CI: "1", WRANGLER_SEND_METRICS: "false" }, timeout: startMsMax },
  );
  const port = await freePort();
  await writeFile(join(folder, "config.capnp"), configOf(options, port));
  const child = spawn(join(bin, "workerd"), ["serve", join(folder, "config.capnp")], {
    env,
    stdio: ["ignore", "ignore", process.env["LEANEDGE_LOG"] === "debug" ? "inherit" : "ignore"],
  });
  const exited = new Promise((done) => child.once("exit", done));
  async function stop(): Promise<void> {
    child.kill("SIGKILL");
    await exited;
    await rm(folder, { recursive: true, force: true });
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

function configOf(options: WorkerdOptions, port: number): string {
  const flags = options.compatibilityFlags.map((flag) => JSON.stringify(flag)).join(", ");
  const bindings = Object.entries(options.vars)
    .map(([name, text]) => `(name = ${JSON.stringify(name)}, text = ${JSON.stringify(text)})`)
    .join(", ");
  return `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "main", worker = .main)],
  sockets = [(name = "http", address = "127.0.0.1:${port}", http = (), service = "main")],
);
const main :Workerd.Worker = (
  modules = [(name = "worker.js", esModule = embed "worker.js")],
  compatibilityDate = ${JSON.stringify(options.compatibilityDate)},
  compatibilityFlags = [${flags}],
  bindings = [${bindings}],
);
`;
}
