/** A whole gateway as `npm start` runs it, with workers that registered themselves. */
import { poolWorkers, writePoolTokens, type PoolWorkers } from "./pool-workers.js";
import { startGateway, type RunningGateway } from "./running-gateway.js";

/** A gateway and its workers. */
export interface RunningPool extends PoolWorkers {
  readonly gateway: RunningGateway;
  /** File with the token of `leanedge pool`. */
  readonly adminTokenFile: string;
}

/**
 * Starts a gateway, and workers that register with it. Closing it ends everything.
 * @param names of the workers
 * @param gatewayOptions further options of `leanedge dev`
 * @param workerOptions further options of each worker
 */
export async function startPool(
  names: readonly string[],
  gatewayOptions: readonly string[] = [],
  workerOptions: readonly string[] = [],
): Promise<RunningPool> {
  const tokens = await writePoolTokens();
  const gateway = await startGateway(
    ...["--worker-token-file", tokens.worker, "--pool-token-file", tokens.pool],
    ...["--admin-token-file", tokens.admin],
    ...gatewayOptions,
  );
  const workers = poolWorkers(gateway.url, tokens, workerOptions);
  const pool: RunningPool = {
    ...workers,
    gateway,
    adminTokenFile: tokens.admin,
    async close() {
      await workers.close();
      await gateway.close();
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
