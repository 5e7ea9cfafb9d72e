/** A configuration in workerd's language, written from what it says. */

/** A module of a Worker, by the name that it is imported by. */
export interface WorkerdModule {
  readonly name: string;
  readonly kind: "esModule" | "wasm" | "data";
  /** Its file, relative to the configuration, or its text. */
  readonly content: { readonly file: string } | { readonly text: string };
}

/** What a Worker finds in its environment. */
export type WorkerdBinding = { readonly name: string } & (
  | { readonly service: string }
  | { readonly text: string }
  /** A variable of workerd's own environment, read when it starts. */
  | { readonly fromEnvironment: string }
  /** Durable Objects of a class, of this Worker or another. */
  | { readonly className: string; readonly of?: string }
);

/** A Worker: a service of its name. */
export interface WorkerdWorker {
  readonly name: string;
  readonly compatibilityDate: string;
  readonly compatibilityFlags: readonly string[];
  readonly modules: readonly WorkerdModule[];
  readonly bindings: readonly WorkerdBinding[];
  /** Classes of its Durable Objects. The key goes into the names of what they store: it must stay as it is. */
  readonly objects?: readonly { readonly className: string; readonly uniqueKey: string }[];
  /** Disk that keeps them; `memory`: they live as long as the process. */
  readonly storage?: string;
}

/** All that one process serves. */
export interface WorkerdServices {
  readonly workers: readonly WorkerdWorker[];
  /** Folders, by absolute paths. */
  readonly disks: readonly {
    readonly name: string;
    readonly path: string;
    readonly writable: boolean;
  }[];
  /** Addresses that it listens on, and the Worker that answers there. */
  readonly sockets: readonly {
    readonly name: string;
    readonly address: string;
    readonly worker: string;
    /** What of the Worker answers; its default entry if unset. */
    readonly entrypoint?: string;
    /** Whether calls of its methods are taken, too, from `processes`. */
    readonly calls?: boolean;
  }[];
  /** Workers of other processes, by the addresses that they listen on with `calls`. */
  readonly processes?: readonly { readonly name: string; readonly address: string }[];
  /** Flags of V8, for all isolates of the process; none by default. */
  readonly v8Flags?: readonly string[];
}

/** Name of the host that a connection for calls is opened to; it is none of the network. */
const callsHost = "calls.invalid";

/** Writes the configuration. Workers reach all of the network, private addresses too: other workers are there. */
export function workerdCapnp(services: WorkerdServices): string {
  const { workers, disks, sockets, processes = [], v8Flags = [] } = services;
  const named = [
    ...workers.map(({ name }) => `(name = ${quoted(name)}, worker = .${name})`),
    ...disks.map(
      ({ name, path, writable }) =>
        `(name = ${quoted(name)}, disk = (path = ${quoted(path)}${writable ? ", writable = true" : ""}))`,
    ),
    ...processes.map(
      ({ name, address }) =>
        `(name = ${quoted(name)}, external = (address = ${quoted(address)}, http = (capnpConnectHost = ${quoted(callsHost)})))`,
    ),
    '(name = "internet", network = (allow = ["public", "private", "local"], tlsOptions = (trustBrowserCas = true)))',
  ];
  const listening = sockets.map(({ name, address, worker, entrypoint, calls = false }) => {
    const http = calls ? `capnpConnectHost = ${quoted(callsHost)}` : "";
    const service =
      entrypoint === undefined
        ? quoted(worker)
        : `(name = ${quoted(worker)}, entrypoint = ${quoted(entrypoint)})`;
    return `(name = ${quoted(name)}, address = ${quoted(address)}, http = (${http}), service = ${service})`;
  });
  return `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = ${listed(named)},
  sockets = ${listed(listening)},
${v8Flags.length === 0 ? "" : `  v8Flags = [${v8Flags.map(quoted).join(", ")}],\n`});
${workers.map(workerOf).join("")}`;
}

function workerOf(worker: WorkerdWorker): string {
  const { name, compatibilityDate, compatibilityFlags, modules, bindings, objects = [] } = worker;
  const namespaces = objects.map(
    ({ className, uniqueKey }) =>
      `(className = ${quoted(className)}, uniqueKey = ${quoted(uniqueKey)}, enableSql = true)`,
  );
  const storage =
    worker.storage === "memory" ? "inMemory = void" : `localDisk = ${quoted(worker.storage ?? "")}`;
  return `const ${name} :Workerd.Worker = (
  compatibilityDate = ${quoted(compatibilityDate)},
  compatibilityFlags = [${compatibilityFlags.map(quoted).join(", ")}],
  modules = ${listed(modules.map(moduleOf))},
  bindings = ${listed(bindings.map(bindingOf))},
  durableObjectNamespaces = ${listed(namespaces)},
${worker.storage === undefined ? "" : `  durableObjectStorage = (${storage}),\n`});
`;
}

function moduleOf({ name, kind, content }: WorkerdModule): string {
  const source = "file" in content ? `embed ${quoted(content.file)}` : quoted(content.text);
  return `(name = ${quoted(name)}, ${kind} = ${source})`;
}

function bindingOf(binding: WorkerdBinding): string {
  return `(name = ${quoted(binding.name)}, ${boundTo(binding)})`;
}

function boundTo(binding: WorkerdBinding): string {
  if ("service" in binding) return `service = ${quoted(binding.service)}`;
  if ("text" in binding) return `text = ${quoted(binding.text)}`;
  if ("fromEnvironment" in binding) return `fromEnvironment = ${quoted(binding.fromEnvironment)}`;
  const { className, of } = binding;
  const other = of === undefined ? "" : `, serviceName = ${quoted(of)}`;
  return `durableObjectNamespace = (className = ${quoted(className)}${other})`;
}

function quoted(text: string): string {
  return JSON.stringify(text);
}

function listed(entries: readonly string[]): string {
  return entries.length === 0
    ? "[]"
    : `[\n${entries.map((entry) => `    ${entry},\n`).join("")}  ]`;
}
