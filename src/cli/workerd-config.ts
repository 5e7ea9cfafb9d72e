/**
 * What the open Workers runtime needs to serve a bundled gateway (`leanedge bundle`, `leanedge dev`): a configuration in
 * workerd's language that says what `wrangler.toml` says, and a small Worker that gives files out as Cloudflare's static
 * assets do.
 */
import { readFile, readdir, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { sessionObjectsVariable } from "../gateway/objects/shared-name.js";
import { processVariable } from "./gateway-processes.js";
import { packagePath } from "./repository.js";
import { workerdCapnp, type WorkerdModule } from "./workerd-capnp.js";

/** What to serve, and where. */
export interface WorkerdOptions {
  /** Folder of the bundle: `index.js` and its WASM modules. The configuration is written into it. */
  readonly bundle: string;
  /** Folder that `leanedge build` wrote. */
  readonly assets: string;
  /** Folder that keeps the Durable Objects; it must be there. */
  readonly storage: string;
  /** Host and port to listen on; an IPv6 address in brackets. */
  readonly listen: string;
  /** Name of the configuration in it; `workerd.capnp` if unset. */
  readonly file?: string;
  /** How many processes are to serve it together (gateway-processes.ts starts them), 1 to 64; 1 if unset. */
  readonly processes?: number;
  /** How many objects hold the sessions, 0 to 1024; unset: what starts workerd says it in its environment. */
  readonly sessionObjects?: number | undefined;
  /** Names of environment variables that become the Worker's, read when workerd starts: no secret is in the file. */
  readonly variables: readonly string[];
}

/**
 * A collection of all of V8's heap stops workerd, and with it every answer, for 70 to 100 ms where 10 MB are alive: more than the
 * gateway adds to a token otherwise. Left to itself V8 collects whenever some 40 MB have gathered, every few seconds under load. From
 * here on it waits for 256 MiB.
 */
const v8Flags = ["--initial-old-space-size=256"];

/** The page by its own name and with types, as Cloudflare's static assets give them. */
const assetsWorker = `const types = { html: "text/html; charset=utf-8", js: "text/javascript", css: "text/css", json: "application/json" };
export default {
  async fetch(request, env) {
    const { pathname } = new URL(request.url);
    const path = pathname === "/" ? "/index.html" : pathname;
    if (path.endsWith("/")) return new Response(null, { status: 404 });
    const file = await env.FILES.fetch("http://files" + path, { method: request.method });
    if (file.headers.get("content-type") === "application/json" && !path.endsWith(".json")) {
      await file.body?.cancel();
      return new Response(null, { status: 404 });
    }
    const answer = new Response(file.body, file);
    answer.headers.set("content-type", types[path.split(".").at(-1)] ?? "application/octet-stream");
    return answer;
  },
};
`;

/** Host and port as workerd takes them; an IPv6 address has no brackets yet. */
export function listenAddress(host: string, port: number): string {
  return `${host.includes(":") ? `[${host}]` : host}:${port}`;
}

/** The host, without brackets, and the port of an address as listenAddress writes it. Throws for anything else. */
export function listenedAddress(address: string): { host: string; port: number } {
  const { host = "", ip6 = host, port } = addressPattern.exec(address)?.groups ?? {};
  if (port === undefined || Number(port) > 65_535) {
    throw new Error(`"${address}" is not HOST:PORT with a port of at most 65535`);
  }
  return { host: ip6, port: Number(port) };
}
const addressPattern = /^(?:\[(?<ip6>[0-9A-Fa-f:.]+)\]|(?<host>[^:]+)):(?<port>\d{1,5})$/;

/**
 * Writes the configuration and `assets.js` beside the bundle.
 * @returns the path of the configuration
 * @throws Error where `wrangler.toml` lacks something
 */
export async function writeWorkerdConfig(options: WorkerdOptions): Promise<string> {
  const toml = await readFile(packagePath("wrangler.toml"), "utf8");
  const wasm = (await readdir(options.bundle)).filter((file) => file.endsWith(".wasm")).sort();
  await writeFile(join(options.bundle, "assets.js"), assetsWorker);
  const path = join(options.bundle, options.file ?? "workerd.capnp");
  await writeFile(path, workerdConfig(toml, wasm, options));
  return path;
}

/** The configuration; `wasm` are files beside the bundle. Throws where `wrangler.toml` lacks something. */
export function workerdConfig(
  toml: string,
  wasm: readonly string[],
  options: Omit<WorkerdOptions, "bundle" | "file">,
): string {
  const { assets, storage, listen, processes = 1, sessionObjects, variables } = options;
  const { compatibilityDate, compatibilityFlags, objects } = gatewaySettings(toml);
  const peers = processes === 1 ? [] : Array.from({ length: processes }, (_, index) => index);
  return workerdCapnp({
    workers: [
      {
        ...{ name: "gateway", compatibilityDate, compatibilityFlags },
        modules: gatewayModules(wasm),
        bindings: [
          { name: "ASSETS", service: "assets" },
          ...objects.map(({ name, className }) => ({ name, className })),
          ...peers.map((index) => ({ name: `PEER_${index}`, service: `peer-${index}` })),
          ...[...variables, ...(peers.length === 0 ? [] : [processVariable])].map((name) => ({
            name,
            fromEnvironment: name,
          })),
          {
            name: sessionObjectsVariable,
            ...(sessionObjects === undefined
              ? { fromEnvironment: sessionObjectsVariable }
              : { text: String(sessionObjects) }),
          },
        ],
        ...{ objects, storage: "storage" },
      },
      {
        ...{ name: "assets", compatibilityDate, compatibilityFlags: [] },
        modules: [{ name: "assets.js", kind: "esModule", content: { file: "assets.js" } }],
        bindings: [{ name: "FILES", service: "files" }],
      },
    ],
    disks: [
      { name: "files", path: resolve(assets), writable: false },
      { name: "storage", path: resolve(storage), writable: true },
    ],
    sockets: [
      { name: "http", address: listen, worker: "gateway" },
      // What starts the processes says where.
      ...(peers.length === 0
        ? []
        : [
            {
              ...{ name: "objects", address: "unix:objects", worker: "gateway" },
              ...{ entrypoint: "ObjectServer", calls: true },
            },
          ]),
    ],
    processes: peers.map((index) => ({ name: `peer-${index}`, address: "unix:objects" })),
    v8Flags,
  });
}

/** Modules of a bundled gateway: its own, and the WASM modules beside it. */
export function gatewayModules(wasm: readonly string[]): WorkerdModule[] {
  return [
    { name: "index.js", kind: "esModule", content: { file: "index.js" } },
    ...wasm.map((file) => ({ name: `./${file}`, kind: "wasm" as const, content: { file } })),
  ];
}

/** What `wrangler.toml` says that workerd has to know, too. */
export interface GatewaySettings extends CompatibilitySettings {
  /** Durable Objects: name of the binding, class, and key of what they store. */
  readonly objects: readonly {
    readonly name: string;
    readonly className: string;
    readonly uniqueKey: string;
  }[];
}

/** Reads the gateway's `wrangler.toml`. Throws where it lacks something. */
export function gatewaySettings(toml: string): GatewaySettings {
  const objects = [
    ...toml.matchAll(/\{ name = "(?<name>\w+)", class_name = "(?<type>\w+)" \}/g),
  ].map(({ groups }) => {
    const className = groups?.["type"] ?? "";
    return { name: groups?.["name"] ?? "", className, uniqueKey: `leanedge-${className}` };
  });
  const settings = compatibilitySettings(toml);
  if (objects.length === 0) throw new Error("wrangler.toml names no Durable Objects");
  return { ...settings, objects };
}

/** Which behaviour of the runtime a Worker wants. */
export interface CompatibilitySettings {
  readonly compatibilityDate: string;
  readonly compatibilityFlags: readonly string[];
}

/** Reads these of a `wrangler.toml`, where each stands on a line of its own. Throws where one is not there. */
export function compatibilitySettings(toml: string): CompatibilitySettings {
  const date = /^compatibility_date = "(?<date>[^"]+)"/m.exec(toml)?.groups?.["date"];
  const flags = /^compatibility_flags = (?<flags>\[[^\]]*\])/m.exec(toml)?.groups?.["flags"];
  if (date === undefined || flags === undefined) {
    throw new Error("wrangler.toml names no compatibility date or no flags");
  }
  return { compatibilityDate: date, compatibilityFlags: JSON.parse(flags) as string[] };
}
