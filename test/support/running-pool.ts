/** A gateway with workers that registered themselves: processes of their own, as an operator runs them. */
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
import { startGateway, type RunningGateway } from "./running-gateway.js";
import {
  openWorkerClient,
  startWorkerProcess,
  type RunningWorkerProcess,
  type WorkerClient,
} from "./worker-process.js";

const workerToken = "a-token-that-workers-ask-for";
const poolToken = "a-token-to-register-with";
const adminToken = "a-token-for-the-operator";
/** Longest that a worker may take from its start to Ready: a heartbeat and a question, on a busy machine. */
const readyMsMax = 30_000;

/** A gateway and its workers. */
export interface RunningPool {
  readonly gateway: RunningGateway;
  readonly admin: Client<typeof PoolAdminService>;
  /** File with the token of `leanedge pool`. */
  readonly adminTokenFile: string;
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
  /** Ends everything. */
  close(): Promise<void>;
}

/**
 * Starts a gateway, and workers that register with it.
 * @param names of the workers
 * @param gatewayOptions further options of `leanedge dev`
 * @param workerOptions further options of each worker
 */
export async function startPool(
  names: readonly string[],
  gatewayOptions: readonly string[] = [],
  workerOptions: readonly string[] = [],
): Promise<RunningPool> {
  const folder = await mkdtemp(join(tmpdir(), "leanedge-pool-"));
  const file = async (name: string, token: string): Promise<string> => {
    const path = join(folder, name);
    await writeFile(path, token);
    return path;
  };
  const workerTokenFile = await file("worker-token", workerToken);
  const poolTokenFile = await file("pool-token", poolToken);
  const adminTokenFile = await file("admin-token", adminToken);
  const gateway = await startGateway(
    ...["--worker-token-file", workerTokenFile, "--pool-token-file", poolTokenFile],
    ...["--admin-token-file", adminTokenFile],
    ...gatewayOptions,
  );
  const admin = createClient(
    PoolAdminService,
    createConnectTransport({
      baseUrl: gateway.url,
      httpVersion: "1.1",
      interceptors: bearerToken(adminToken),
    }),
  );
  const workers = new Map<string, RunningWorkerProcess>();
  const pool: RunningPool = {
    gateway,
    admin,
    adminTokenFile,
    workers,
    client: (name) => openWorkerClient(processOf(workers, name).url, "1.1", workerToken),
    async start(name, ...options) {
      workers.set(
        name,
        await startWorkerProcess(
          ...["--name", name, "--token-file", workerTokenFile],
          ...["--pool", gateway.url, "--pool-token-file", poolTokenFile],
          ...workerOptions,
          ...options,
        ),
      );
      const giveUpMs = Date.now() + readyMsMax;
      while ((await findWorker(admin, name))?.state !== WorkerState.READY) {
        if (Date.now() > giveUpMs) {
          throw new Error(`worker ${name} is not ready:\n${processOf(workers, name).output()}`);
        }
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
    },
    async kill(name) {
      await processOf(workers, name).kill();
      workers.delete(name);
    },
    async state(name) {
      const worker = await findWorker(admin, name);
      if (worker === undefined) throw new Error(`the pool has no worker ${name}`);
      return worker;
    },
    async close() {
      await Promise.all([...workers.values()].map((worker) => worker.kill()));
      await gateway.close();
      await rm(folder, { recursive: true });
    },
  };
  try {
    for (const name of names) await pool.start(name);
  } catch (error) {
    await pool.close();
    throw error;
  }
  return pool;
}

function processOf(
  workers: ReadonlyMap<string, RunningWorkerProcess>,
  name: string,
): RunningWorkerProcess {
  const worker = workers.get(name);
  if (worker === undefined) throw new Error(`there is no worker ${name}`);
  return worker;
}

async function findWorker(
  admin: Client<typeof PoolAdminService>,
  name: string,
): Promise<PoolWorker | undefined> {
  const { workers } = await admin.listWorkers({});
  return workers.find(
    (worker) => worker.name === name && worker.origin === WorkerOrigin.REGISTERED,
  );
}
