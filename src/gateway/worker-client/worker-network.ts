/** The way to workers in processes of their own. */
import type { GatewayEnv } from "../bindings.js";
import type { Fetching } from "../connect/worker-transport.js";

/** Goes through the private network where one is bound, so that workers need no public address; otherwise as any request. */
export function workerNetwork({ WORKER_NETWORK }: Pick<GatewayEnv, "WORKER_NETWORK">): Fetching {
  return WORKER_NETWORK === undefined
    ? { fetch: (url, init) => fetch(url, init) }
    : { fetch: (url, init) => WORKER_NETWORK.fetch(url, init) };
}
