/**
 * The gateway on the bare Workers runtime, as one hosts it oneself: one process that a test can kill, a folder that holds
 * its objects, and any variables. Unlike running-gateway.ts it has no front for gRPC and no embedded model.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { bundleGateway } from "../../src/cli/bundle-gateway.js";
import { freePort } from "./free-port.js";

const root = resolve(import.meta.dirname, "../..");
/** Longest start of the runtime on a busy machine. */
const startMsMax = 60_000;
/** Characters of the runtime's output that are kept: the last ones, to explain a failure. */
const outputCharsMax = 64 * 1024;

/** Objects of the gateway; each class keeps its storage in a folder of its own name. */
const classes = {
  SESSION: "SessionObject",
  TENANT: "TenantObject",
  KEYRING: "KeyringObject",
  LIMIT: "LimitObject",
  METRICS: "MetricsObject",
  POOL: "PoolObject",
  ENGINE: "EngineObject",
} as const;

/** A pool that is out of order: none of its calls succeeds, or none ever ends. */
export type PoolFault = "throws" | "hangs";

/** How to start it. */
export interface WorkerdGatewayOptions {
  /** Variables of the Worker beside its key. */
  readonly vars: Readonly<Record<string, string>>;
  /** Further Workers of the same code over the same objects, each in an isolate and at an address of its own. */
  readonly others?: number;
}

/** A gateway that runs. */
export interface WorkerdGateway {
  /** Address of HTTP, Connect and gRPC-web. */
  readonly url: string;
  /** Addresses of all Workers, `url` first. */
  readonly urls: readonly string[];
  /** Key of tenant `dev`. */
  readonly key: string;
  /** Folder of its storage. */
  readonly storage: string;
  /** What the runtime printed last. */
  output(): string;
  /** Ends it at once, as a crash would; storage stays. */
  kill(): Promise<void>;
  /** Starts it again at the same addresses over the same storage; with a pool that is out of order, where one is named. */
  start(fault?: PoolFault): Promise<void>;
  /** Replaces its storage by a copy of another one's. Only while neither runs. */
  copyFrom(other: WorkerdGateway): Promise<void>;
  /** Deletes what the objects of a class stored. Only while it does not run. */
  forget(className: (typeof classes)[keyof typeof classes]): Promise<void>;
  /** Ends it and removes its storage. */
  close(): Promise<void>;
}

const key = "le-dev-workerd-gateway";

/** Starts one on free ports. */
export async function startWorkerdGateway({
  vars,
  others = 0,
}: WorkerdGatewayOptions): Promise<WorkerdGateway> {
  const folder = await mkdtemp(join(tmpdir(), "leanedge-workerd-"));
  const storage = join(folder, "storage");
  await mkdir(storage);
  const bundle = join(folder, "bundle");
  await bundleGateway(bundle);
  const ports: number[] = [];
  for (let index = 0; index <= others; index++) ports.push(await freePort());
  const urls = ports.map((port) => `http://127.0.0.1:${port}`);
  let child: ChildProcess | undefined;
  let output = "";

  async function end(): Promise<void> {
    const ended = child;
    child = undefined;
    if (ended === undefined || ended.exitCode !== null || ended.signalCode !== null) return;
    const exited = new Promise((done) => ended.once("exit", done));
    ended.kill("SIGKILL");
    await exited;
  }

  async function start(fault?: PoolFault): Promise<void> {
    // Beside the bundle, because it embeds relative paths only.
    const config = join(bundle, "config.capnp");
    await writeFile(config, await configOf(bundle, storage, ports, vars, fault));
    const started = spawn(
      join(root, "node_modules/.bin/workerd"),
      ["serve", "--experimental", config],
      { stdio: ["ignore", "pipe", "pipe"] },
    );
    child = started;
    const keep = (chunk: Buffer): void => {
      output = (output + chunk.toString("utf8")).slice(-outputCharsMax);
      if (process.env["LEANEDGE_LOG"] === "debug") process.stderr.write(chunk);
    };
    started.stdout.on("data", keep);
    started.stderr.on("data", keep);
    const giveUpMs = Date.now() + startMsMax;
    for (const url of urls) {
      while (!(await answers(url))) {
        if (Date.now() > giveUpMs || started.exitCode !== null) {
          await end();
          throw new Error(`the gateway did not start:\n${output}`);
        }
        await new Promise((done) => setTimeout(done, 50));
      }
    }
  }

  const [url = ""] = urls;
  await start();
  return {
    url,
    urls,
    key,
    storage,
    output: () => output,
    kill: end,
    start,
    async copyFrom(other) {
      await rm(storage, { recursive: true });
      await cp(other.storage, storage, { recursive: true });
    },
    forget: (className) => rm(join(storage, className), { recursive: true }),
    async close() {
      await end();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

async function answers(url: string): Promise<boolean> {
  try {
    return (await fetch(`${url}/healthz`, { signal: AbortSignal.timeout(5_000) })).status < 500;
  } catch {
    return false;
  }
}

/** The runtime's configuration, which embeds the modules that lie beside it. */
async function configOf(
  bundle: string,
  storage: string,
  ports: readonly number[],
  vars: Readonly<Record<string, string>>,
  fault: PoolFault | undefined,
): Promise<string> {
  const toml = await readFile(join(root, "wrangler.toml"), "utf8");
  const date = /^compatibility_date = "(.*)"/m.exec(toml)?.[1] ?? "";
  const flags = /^compatibility_flags = (\[.*\])/m.exec(toml)?.[1] ?? "[]";
  const wasm = (await readdir(bundle)).filter((file) => file.endsWith(".wasm"));
  const modules = [
    '(name = "index.js", esModule = embed "index.js")',
    ...wasm.map((file) => `(name = "./${file}", wasm = embed ${JSON.stringify(file)})`),
  ].join(",\n    ");
  const texts = Object.entries({ ...vars, LEANEDGE_DEV_KEY: key }).map(
    ([name, text]) => `(name = ${JSON.stringify(name)}, text = ${JSON.stringify(text)})`,
  );
  const worker = (own: boolean): string => {
    const objects = Object.entries(classes).map(([name, className]) => {
      const service = name === "POOL" && fault !== undefined ? "fault" : own ? undefined : "main";
      const designator =
        service === undefined
          ? `"${className}"`
          : `(className = "${className}", serviceName = "${service}")`;
      return `(name = "${name}", durableObjectNamespace = ${designator})`;
    });
    const namespaces = Object.values(classes).map(
      (name) => `(className = "${name}", uniqueKey = "${name}", enableSql = true)`,
    );
    return `(
  modules = [
    ${modules}
  ],
  compatibilityDate = ${JSON.stringify(date)},
  compatibilityFlags = ${flags},
  bindings = [
    ${[...texts, ...objects].join(",\n    ")}
  ],
  durableObjectNamespaces = [${own ? namespaces.join(", ") : ""}],
  ${own ? 'durableObjectStorage = (localDisk = "storage"),' : ""}
)`;
  };
  const names = ports.map((_, index) => (index === 0 ? "main" : `other${index}`));
  const sockets = ports.map(
    (port, index) =>
      `(name = "http${index}", address = "127.0.0.1:${port}", http = (), service = "${names[index] ?? ""}")`,
  );
  return `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    ${names.map((name) => `(name = "${name}", worker = .${name})`).join(",\n    ")},
    ${fault === undefined ? "" : '(name = "fault", worker = .fault),'}
    (name = "storage", disk = (path = ${JSON.stringify(storage)}, writable = true)),
    (name = "internet", network = (allow = ["public", "private", "local"])),
  ],
  sockets = [${sockets.join(", ")}],
);
${names.map((name, index) => `const ${name} :Workerd.Worker = ${worker(index === 0)};`).join("\n")}
${fault === undefined ? "" : faultyPool(fault, date)}
`;
}

/** A Worker with a PoolObject that is out of order. */
function faultyPool(fault: PoolFault, date: string): string {
  const source = `
import { DurableObject } from "cloudflare:workers";
export default { fetch: () => new Response("") };
const fail = ${
    fault === "throws"
      ? '() => Promise.reject(new Error("the pool is out of order"))'
      : "() => new Promise((resolve) => setTimeout(resolve, 3600000))"
  };
export class PoolObject extends DurableObject {}
for (const call of ["register", "heartbeat", "deregister", "list", "operate", "place", "report", "view", "counts"]) {
  PoolObject.prototype[call] = fail;
}
`;
  return `const fault :Workerd.Worker = (
  modules = [(name = "fault.js", esModule = ${JSON.stringify(source)})],
  compatibilityDate = ${JSON.stringify(date)},
  durableObjectNamespaces = [(className = "PoolObject", uniqueKey = "fault", enableSql = true)],
  durableObjectStorage = (inMemory = void),
);`;
}
