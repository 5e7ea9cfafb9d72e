/**
 * `leanedge dev`: the gateway in the real Workers runtime, the gRPC front before it, the embedded
 * model in it. Needs no account and no network.
 */
import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { startGrpcFront } from "../front/index.js";
import { build } from "./build.js";
import { servedModels } from "./plan-files.js";
import { developmentKey } from "./dev-key.js";
import { packagePath } from "./repository.js";
import { startWorkers } from "./workers-process.js";

/** Options of the command. */
export interface DevOptions {
  readonly port: number;
  readonly grpcPort: number;
  readonly host: string;
  /** Folder for sessions and the key. */
  readonly state: string;
  /** Further keys, `TENANT:SHA256` (of the key, in hexadecimal). */
  readonly key: readonly string[];
  /** Memory of the engine in MiB: weights, cache and scratch together; the gateway's default if unset. */
  readonly engineMemory: number | undefined;
  /** Files of cache plans for the model, in order of preference; `none` alone: keep everything in f16. Empty: the model's own. */
  readonly plan: readonly string[];
  /** Seconds after its last turn at which a session's cache is saved; the gateway's default if unset. */
  readonly snapshotIdle: number | undefined;
  /** Workers in processes of their own, `MODEL=URL`, in the place of embedded engines. */
  readonly worker: readonly string[];
  /** File with the token that all workers ask for. */
  readonly workerTokenFile: string | undefined;
  /** File with the token with which workers register; none can if unset. */
  readonly poolTokenFile: string | undefined;
  /** File with the token of `leanedge pool` and `leanedge keys`; nobody may if unset. */
  readonly adminTokenFile: string | undefined;
  /** Limits of keys that have none of their own, `NAME=NUMBER` separated by commas; empty: none. */
  readonly limits: string;
  /** Processes that serve together, each with an engine of its own and a part of the sessions, 1 to 64. */
  readonly processes: number;
  /** How many objects hold the sessions, 0 (one a session) to 1024; unset: what the environment says, or else the storage (session-objects.ts). */
  readonly sessionObjects: number | undefined;
  /** Reload when a source of the gateway changes. */
  readonly watch: boolean;
}

/** Runs until SIGINT or SIGTERM, or until the runtime ends. */
export async function dev(options: DevOptions): Promise<void> {
  if (options.watch && options.processes > 1) {
    throw new Error(`--watch goes with one process, not ${options.processes}`);
  }
  if (options.watch && (options.sessionObjects ?? 0) > 0) {
    throw new Error("--watch goes with an object a session: its storage is another one");
  }
  const state = resolve(options.state);
  const assets = packagePath("dist/public");
  const key = await developmentKey(state);
  for (const line of await build(assets)) console.log(line);
  const models = await servedModels(options.plan, assets, options.processes);

  const workers = await startWorkers({
    host: options.host,
    port: options.port,
    processes: options.processes,
    sessionObjects: options.sessionObjects,
    state,
    assets,
    watch: options.watch,
    vars: {
      LEANEDGE_DEV_KEY: key,
      LEANEDGE_KEYS: options.key.join(","),
      LEANEDGE_FRONT_PORT: String(options.grpcPort),
      LEANEDGE_WORKERS: options.worker.join(","),
      LEANEDGE_WORKER_TOKEN: await tokenOf(options.workerTokenFile),
      LEANEDGE_POOL_TOKEN: await tokenOf(options.poolTokenFile),
      LEANEDGE_ADMIN_TOKEN: await tokenOf(options.adminTokenFile),
      LEANEDGE_LIMITS: options.limits,
      ...(models === undefined ? {} : { LEANEDGE_MODELS: models }),
      ...(options.engineMemory === undefined
        ? {}
        : { LEANEDGE_ENGINE_MEMORY_MIB: String(options.engineMemory) }),
      ...(options.snapshotIdle === undefined
        ? {}
        : { LEANEDGE_SNAPSHOT_IDLE_SECONDS: String(options.snapshotIdle) }),
    },
  });
  const url = `http://${options.host}:${options.port}`;
  let front;
  try {
    front = await startGrpcFront({ host: options.host, port: options.grpcPort, targetUrl: url });
  } catch (error) {
    await workers.stop();
    throw error;
  }

  console.log(`
leanedge is running.

  page     ${url}/#key=${key}
  OpenAI   ${url}/v1        (also Connect and gRPC-web, at ${url})
  gRPC     ${options.host}:${options.grpcPort}   (HTTP/2 without TLS)
  key      ${key}           (tenant dev; kept in ${options.state}/dev-key)

Stop with Ctrl+C. Sessions stay in ${options.state}.`);

  const signal = new Promise<"signal">((stop) => {
    for (const name of ["SIGINT", "SIGTERM"] as const) {
      process.once(name, () => {
        stop("signal");
      });
    }
  });
  const why = await Promise.race([signal, workers.exited]);
  await front.close();
  await workers.stop();
  if (why !== "signal") throw new Error(`the Workers runtime ended with code ${why ?? "none"}`);
}

/** The token in a file; empty where none is named. */
async function tokenOf(file: string | undefined): Promise<string> {
  return file === undefined ? "" : (await readFile(file, "utf8")).trim();
}
