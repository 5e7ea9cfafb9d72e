/** Workers that register themselves with a gateway's pool: processes of their own, as an operator runs them. */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createClient, type Client } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { bearerToken } from "../../src/client/bearer-token.js";
import {
  PoolAdminService,
  WorkerOrigin,
  WorkerState,
  type PoolWorker,
} from "../../src/gen/leanedge/pool/v1/pool_pb.js";
import {
  openWorkerClient,
  startWorkerProcess,
  type RunningWorkerProcess,
  type WorkerClient,
} from "./worker-process.js";

const workerToken = "a-token-that-workers-ask-for";
const poolToken = "a-token-to-register-with";
const adminToken = "a-token-for-the-operator";
/** Longest that a worker may take from its start, or its wake, to Ready: a heartbeat and a question, on a busy machine. */
const readyMsMax = 120_000;

/** Files with the tokens of a pool. */
export interface PoolTokenFiles {
  readonly worker: string;
  readonly pool: string;
  readonly admin: string;
  /** Folder that they lie in. */
  readonly folder: string;
}

/** The gateway's variables with the same tokens. */
export const poolTokenVars = {
  LEANEDGE_WORKER_TOKEN: workerToken,
  LEANEDGE_POOL_TOKEN: poolToken,
  LEANEDGE_ADMIN_TOKEN: adminToken,
} as const;

/** The workers of a pool. */
export interface PoolWorkers {
  readonly admin: Client<typeof PoolAdminService>;
  /** Workers by name. */
  readonly workers: ReadonlyMap<string, RunningWorkerProcess>;
  /** Client of a worker, past the gateway. */
  client(name: string): WorkerClient;
  /** Starts one more, or one of the same name again; resolves when it is Ready. */
  start(name: string, ...options: readonly string[]): Promise<void>;
  /** Kills one, as a crash would. */
  kill(name: string): Promise<void>;
  /** What the pool says of a worker. */
  state(name: string): Promise<PoolWorker>;
  /** Resolves when the pool says that a worker is Ready. */
  ready(name: string): Promise<void>;
  /** Ends all of them. */
  close(): Promise<void>;
}

/** Writes the tokens into files of a folder of their own. */
export async function writePoolTokens(): Promise<PoolTokenFiles> {
  const folder = await mkdtemp(join(tmpdir(), "leanedge-pool-"));
  const file = async (name: string, token: string): Promise<string> => {
    const path = join(folder, name);
    await writeFile(path, token);
    return path;
  };
  return {
    folder,
    worker: await file("worker-token", workerToken),
    pool: await file("pool-token", poolToken),
    admin: await file("admin-token", adminToken),
  };
}

/**
 * The workers of the pool at a gateway; none yet.
 * @param pool name of the pool; the gateway's first one if unset
 * @param workerOptions further options of each worker
 */
export function poolWorkers(
  gatewayUrl: string,
  tokens: PoolTokenFiles,
  workerOptions: readonly string[] = [],
  pool?: string,
): PoolWorkers {
  const admin = createClient(
    PoolAdminService,
    createConnectTransport({
      baseUrl: gatewayUrl,
      httpVersion: "1.1",
      interceptors: bearerToken(adminToken),
    }),
  );
  const workers = new Map<string, RunningWorkerProcess>();
  const processOf = (name: string): RunningWorkerProcess => {
    const worker = workers.get(name);
    if (worker === undefined) throw new Error(`there is no worker ${name}`);
    return worker;
  };
  const find = async (name: string): Promise<PoolWorker | undefined> => {
    const { workers: listed } = await admin.listWorkers(pool === undefined ? {} : { pool });
    return listed.find(
      (worker) => worker.name === name && worker.origin === WorkerOrigin.REGISTERED,
    );
  };
  const ready = async (name: string): Promise<void> => {
    const giveUpMs = Date.now() + readyMsMax;
    for (;;) {
      const state = (await find(name))?.state;
      if (state === WorkerState.READY) return;
      if (Date.now() > giveUpMs) {
        const is = state === undefined ? "not there" : WorkerState[state];
        throw new Error(`worker ${name} is ${is}, not ready:\n${processOf(name).output()}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  };
  return {
    admin,
    workers,
    client: (name) => openWorkerClient(processOf(name).url, "1.1", workerToken),
    async start(name, ...options) {
      workers.set(
        name,
        await startWorkerProcess(
          ...["--name", name, "--token-file", tokens.worker],
          ...["--pool", pool === undefined ? gatewayUrl : `${gatewayUrl}#${pool}`],
          ...["--pool-token-file", tokens.pool],
          ...workerOptions,
          ...options,
        ),
      );
      await ready(name);
    },
    async kill(name) {
      await processOf(name).kill();
      workers.delete(name);
    },
    async state(name) {
      const worker = await find(name);
      if (worker === undefined) throw new Error(`the pool has no worker ${name}`);
      return worker;
    },
    ready,
    async close() {
      await Promise.all([...workers.values()].map((worker) => worker.kill()));
      await rm(tokens.folder, { recursive: true, force: true });
    },
  };
}
