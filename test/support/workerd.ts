/** Workers that exist only for tests, on the Workers runtime alone. */
import { execFile, spawn } from "node:child_process";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { extname, join, resolve } from "node:path";
import { promisify } from "node:util";
import { workerdCapnp } from "../../src/cli/workerd-capnp.js";
import { compatibilitySettings, type CompatibilitySettings } from "../../src/cli/workerd-config.js";
import { freePort } from "./free-port.js";

const root = resolve(import.meta.dirname, "../..");
const bin = join(root, "node_modules/.bin");

/** How long bundling and the start of the runtime may take each, in milliseconds, on a busy machine. */
const startMsMax = 60_000;

/** A Worker that runs. */
export interface ServedWorker {
  /** TCP port of HTTP/1.1. */
  readonly port: number;
  /** Its address. */
  readonly url: string;
  /** Ends it. */
  stop(): Promise<void>;
}

/** Kinds of modules that are files beside the bundle. */
const moduleKinds: Readonly<Record<string, "wasm" | "data">> = {
  ".wasm": "wasm",
  ".binpb": "data",
};

/** What a Worker needs of its `wrangler.toml`, which the runtime does not read. */
export interface BundleOptions extends CompatibilitySettings {
  /** Its variables. */
  vars: Readonly<Record<string, string>>;
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

/** Serves a bundled Worker, and the modules of WASM and data beside it, on a free port. */
export async function serveBundle(folder: string, options: BundleOptions): Promise<ServedWorker> {
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

/** Bundles the Worker of a `wrangler.toml`, path from the repository's root, and serves it on a free port. */
export async function startWorkerd(config: string): Promise<ServedWorker> {
  const folder = await mkdtemp(join(tmpdir(), "leanedge-bundle-"));
  const removeBundle = (): Promise<void> => rm(folder, { recursive: true, force: true });
  try {
    await bundleWorker(config, folder);
    const served = await serveBundle(folder, optionsOf(await readFile(join(root, config), "utf8")));
    return { ...served, stop: () => served.stop().then(removeBundle) };
  } catch (error) {
    await removeBundle();
    throw error;
  }
}

/** What a `wrangler.toml` says on lines of their own. */
function optionsOf(toml: string): BundleOptions {
  const [head = "", texts = ""] = toml.split("[vars]\n");
  return {
    ...compatibilitySettings(head),
    vars: Object.fromEntries(
      [...texts.matchAll(/^(\w+) = "(.*)"$/gm)].map(([, name = "", text = ""]) => [name, text]),
    ),
  };
}

function configOf(options: BundleOptions, port: number, files: readonly string[]): string {
  const { vars, compatibilityDate, compatibilityFlags } = options;
  return workerdCapnp({
    workers: [
      {
        ...{ name: "main", compatibilityDate, compatibilityFlags },
        modules: [
          { name: "worker.js", kind: "esModule", content: { file: "worker.js" } },
          ...files.flatMap((file) => {
            const kind = moduleKinds[extname(file)];
            return kind === undefined ? [] : [{ name: `./${file}`, kind, content: { file } }];
          }),
        ],
        bindings: Object.entries(vars).map(([name, text]) => ({ name, text })),
      },
    ],
    disks: [],
    sockets: [{ name: "http", address: `127.0.0.1:${port}`, worker: "main" }],
  });
}
