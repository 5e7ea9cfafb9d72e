/**
 * What the open Workers runtime needs to serve a bundled gateway (`leanedge bundle`, `leanedge dev`): a configuration in
 * workerd's language that says what `wrangler.toml` says, and a small Worker that gives files out as Cloudflare's static
 * assets do.
 */
import { readFile, readdir, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { packagePath } from "./repository.js";

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
  /** Names of environment variables that become the Worker's, read when workerd starts: no secret is in the file. */
  readonly variables: readonly string[];
}

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

/**
 * Writes `workerd.capnp` and `assets.js` beside the bundle.
 * @returns the path of the configuration
 * @throws Error where `wrangler.toml` lacks something
 */
export async function writeWorkerdConfig(options: WorkerdOptions): Promise<string> {
  const toml = await readFile(packagePath("wrangler.toml"), "utf8");
  const wasm = (await readdir(options.bundle)).filter((file) => file.endsWith(".wasm")).sort();
  await writeFile(join(options.bundle, "assets.js"), assetsWorker);
  const path = join(options.bundle, "workerd.capnp");
  await writeFile(path, workerdConfig(toml, wasm, options));
  return path;
}

/** The configuration; `wasm` are files beside the bundle. Throws where `wrangler.toml` lacks something. */
export function workerdConfig(
  toml: string,
  wasm: readonly string[],
  { assets, storage, listen, variables }: Omit<WorkerdOptions, "bundle">,
): string {
  const date = /^compatibility_date = "(?<date>[^"]+)"/m.exec(toml)?.groups?.["date"];
  const flags = /^compatibility_flags = (?<flags>\[[^\]]*\])/m.exec(toml)?.groups?.["flags"];
  const objects = [
    ...toml.matchAll(/\{ name = "(?<name>\w+)", class_name = "(?<type>\w+)" \}/g),
  ].map(({ groups }) => ({ name: groups?.["name"] ?? "", type: groups?.["type"] ?? "" }));
  if (date === undefined || flags === undefined || objects.length === 0) {
    throw new Error("wrangler.toml names no compatibility date, no flags or no Durable Objects");
  }
  const modules = [
    '(name = "index.js", esModule = embed "index.js")',
    ...wasm.map((file) => `(name = ${quoted(`./${file}`)}, wasm = embed ${quoted(file)})`),
  ];
  const bindings = [
    '(name = "ASSETS", service = "assets")',
    ...objects.map(
      ({ name, type }) => `(name = ${quoted(name)}, durableObjectNamespace = ${quoted(type)})`,
    ),
    ...variables.map((name) => `(name = ${quoted(name)}, fromEnvironment = ${quoted(name)})`),
  ];
  // The key goes into the names of stored objects: it must stay as it is.
  const namespaces = objects.map(
    ({ type }) =>
      `(className = ${quoted(type)}, uniqueKey = ${quoted(`leanedge-${type}`)}, enableSql = true)`,
  );
  return `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    (name = "gateway", worker = .gateway),
    (name = "files", disk = (path = ${quoted(resolve(assets))})),
    (name = "assets", worker = .assets),
    (name = "storage", disk = (path = ${quoted(resolve(storage))}, writable = true)),
    # Workers in processes of their own are reached at private addresses, too.
    (name = "internet", network = (allow = ["public", "private", "local"], tlsOptions = (trustBrowserCas = true))),
  ],
  sockets = [(name = "http", address = ${quoted(listen)}, http = (), service = "gateway")],
);
const assets :Workerd.Worker = (
  compatibilityDate = ${quoted(date)},
  bindings = [(name = "FILES", service = "files")],
  modules = [(name = "assets.js", esModule = embed "assets.js")],
);
const gateway :Workerd.Worker = (
  compatibilityDate = ${quoted(date)},
  compatibilityFlags = ${flags},
  modules = [
${listed(modules)}
  ],
  bindings = [
${listed(bindings)}
  ],
  durableObjectNamespaces = [
${listed(namespaces)}
  ],
  durableObjectStorage = (localDisk = "storage"),
);
`;
}

function quoted(text: string): string {
  return JSON.stringify(text);
}

function listed(entries: readonly string[]): string {
  return entries.map((entry) => `    ${entry},`).join("\n");
}
