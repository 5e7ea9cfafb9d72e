/**
 * The gateway on the bare Workers runtime, as one hosts it oneself: one process that a test can kill, a folder that holds
 * its objects, and any variables. Unlike running-gateway.ts it has no front for gRPC and no embedded model.
 */
import { execFile, spawn, type ChildProcess } from "node:child_process";
import { cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { bundleGateway } from "../../src/cli/bundle-gateway.js";
import type { WorkerdModule, WorkerdWorker } from "../../src/cli/workerd-capnp.js";
import { workerdCapnp } from "../../src/cli/workerd-capnp.js";
import { startGatewayProcesses, type GatewayProcesses } from "../../src/cli/gateway-processes.js";
import {
  gatewayModules,
  gatewaySettings,
  listenAddress,
  writeWorkerdConfig,
  type GatewaySettings,
} from "../../src/cli/workerd-config.js";
import { askedSessionObjects, settleSessionObjects } from "../../src/cli/session-objects.js";
import { sessionObjectsVariable } from "../../src/gateway/objects/shared-name.js";
import { freePort } from "./free-port.js";

const root = resolve(import.meta.dirname, "../..");
/** Longest start of the runtime on a busy machine. */
const startMsMax = 60_000;
/** Characters of the runtime's output that are kept: the last ones, to explain a failure. */
const outputCharsMax = 64 * 1024;

/** A pool that is out of order: none of its calls succeeds, or none ever ends. */
export type PoolFault = "throws" | "hangs";

/** How to start it. */
export interface WorkerdGatewayOptions {
  /** Variables of the Worker beside its key. */
  readonly vars: Readonly<Record<string, string>>;
  /** Further Workers of the same code over the same objects, each in an isolate and at an address of its own. */
  readonly others?: number;
  /** Processes that serve it together, as `leanedge bundle --processes` has them; 1 if unset. Neither with others nor with faults. */
  readonly processes?: number;
  /** Objects that hold the sessions (session-objects.ts); unset: what the environment of the tests says, or else the storage. */
  readonly sessionObjects?: number | undefined;
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
  /** What the runtime printed last; nothing of several processes. */
  output(): string;
  /** Ends it at once, as a crash would; storage stays. */
  kill(): Promise<void>;
  /** Starts it again at the same addresses over the same storage; with a pool that is out of order, where one is named. */
  start(fault?: PoolFault): Promise<void>;
  /** Replaces its storage by a copy of another one's. Only while neither runs. */
  copyFrom(other: WorkerdGateway): Promise<void>;
  /** Deletes what the objects of a class stored. Only while it does not run. */
  forget(className: string): Promise<void>;
  /**
   * Moves what it stored to so many processes and objects that hold the sessions, as `leanedge spread` does; it has as many from its
   * next start on. Only while it does not run.
   */
  spread(processes: number, sessionObjects: number): Promise<void>;
  /** Ends it and removes its storage. */
  close(): Promise<void>;
}

const key = "le-dev-workerd-gateway";

/** Starts one on free ports. */
export async function startWorkerdGateway(options: WorkerdGatewayOptions): Promise<WorkerdGateway> {
  const { vars, others = 0 } = options;
  let { processes = 1, sessionObjects = askedSessionObjects(process.env) } = options;
  const folder = await mkdtemp(join(tmpdir(), "leanedge-workerd-"));
  const storage = join(folder, "storage");
  await mkdir(storage);
  const bundle = join(folder, "bundle");
  await bundleGateway(bundle);
  const gateway = gatewaySettings(await readFile(join(root, "wrangler.toml"), "utf8"));
  const modules = gatewayModules((await readdir(bundle)).filter((file) => file.endsWith(".wasm")));
  const ports: number[] = [];
  for (let index = 0; index <= others; index++) ports.push(await freePort());
  const urls = ports.map((port) => `http://127.0.0.1:${port}`);
  let child: ChildProcess | undefined;
  let several: GatewayProcesses | undefined;
  let output = "";

  async function end(): Promise<void> {
    await several?.stop();
    several = undefined;
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
    const texts = { ...vars, LEANEDGE_DEV_KEY: key };
    if (processes > 1) {
      const listen = { host: "127.0.0.1", port: ports[0] ?? 0 };
      several = await startGatewayProcesses({
        ...{ ...listen, processes, sessionObjects, storage, env: { ...process.env, ...texts } },
        workerd: join(root, "node_modules/.bin/workerd"),
        config: await writeWorkerdConfig({
          ...{ bundle, assets: bundle, storage, processes, variables: Object.keys(texts) },
          listen: listenAddress(listen.host, listen.port),
        }),
        output: process.env["LEANEDGE_LOG"] === "debug" ? "inherit" : "ignore",
      });
      return;
    }
    const objects = await settleSessionObjects(storage, sessionObjects, processes);
    const all = { ...texts, [sessionObjectsVariable]: String(objects) };
    await writeFile(config, configOf({ gateway, modules, storage, ports, texts: all, fault }));
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
    async forget(className) {
      const found = gateway.objects.find((object) => object.className === className);
      if (found === undefined) throw new Error(`the gateway has no ${className}`);
      await rm(join(storage, found.uniqueKey), { recursive: true });
    },
    async spread(...counts) {
      [processes, sessionObjects] = counts;
      await promisify(execFile)(process.execPath, [
        ...["--import", "tsx", join(root, "src/cli/main.ts"), "spread", "--storage", storage],
        ...["--processes", String(processes), "--session-objects", String(sessionObjects)],
      ]);
    },
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

type Setup = {
  gateway: GatewaySettings;
  modules: readonly WorkerdModule[];
  storage: string;
  ports: readonly number[];
  /** Variables of all Workers. */
  texts: Readonly<Record<string, string>>;
  fault: PoolFault | undefined;
};

/** The runtime's configuration, which embeds the modules that lie beside it: Workers over the objects of the first. */
function configOf({ gateway, modules, storage, ports, texts, fault }: Setup): string {
  const { compatibilityDate, compatibilityFlags, objects } = gateway;
  const names = ports.map((_, index) => (index === 0 ? "main" : `other${index}`));
  const workers = names.map((name): WorkerdWorker => {
    const own = name === "main";
    return {
      ...{ name, compatibilityDate, compatibilityFlags, modules },
      bindings: [
        ...Object.entries(texts).map(([variable, text]) => ({ name: variable, text })),
        ...objects.map(({ name: binding, className }) => {
          const of = fault !== undefined && className === "PoolObject" ? "fault" : "main";
          return { name: binding, className, ...(own && of === "main" ? {} : { of }) };
        }),
      ],
      ...(own ? { objects, storage: "storage" } : {}),
    };
  });
  return workerdCapnp({
    workers: [...workers, ...(fault === undefined ? [] : [faultyPool(fault, compatibilityDate)])],
    disks: [{ name: "storage", path: storage, writable: true }],
    sockets: ports.map((port, index) => ({
      name: `http${index}`,
      address: `127.0.0.1:${port}`,
      worker: names[index] ?? "",
    })),
  });
}

/** A Worker with a PoolObject that is out of order. */
function faultyPool(fault: PoolFault, compatibilityDate: string): WorkerdWorker {
  const text = `
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
  return {
    ...{ name: "fault", compatibilityDate, compatibilityFlags: [], bindings: [] },
    modules: [{ name: "fault.js", kind: "esModule", content: { text } }],
    objects: [{ className: "PoolObject", uniqueKey: "fault" }],
    storage: "memory",
  };
}
