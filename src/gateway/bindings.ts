/** What the runtime hands to the gateway. wrangler.toml declares the same names. */
import type { GatewayVariables } from "./config.js";
import type { KeyringObject } from "./objects/keyring-object.js";
import type { LimitObject } from "./objects/limit-object.js";
import type { MetricsObject } from "./objects/metrics-object.js";
import type { PoolObject } from "./objects/pool-object.js";
import type { SessionObject } from "./objects/session-object.js";
import type { TenantObject } from "./objects/tenant-object.js";

/** Bindings of the Worker; config.ts has its variables and secrets. */
export interface GatewayEnv extends GatewayVariables {
  /** One object a session. */
  readonly SESSION: DurableObjectNamespace<SessionObject>;
  /** One object a tenant: the index of its sessions. */
  readonly TENANT: DurableObjectNamespace<TenantObject>;
  /** One object in all: API keys. */
  readonly KEYRING: DurableObjectNamespace<KeyringObject>;
  /** One object an API key with limits: what it has used of them. */
  readonly LIMIT: DurableObjectNamespace<LimitObject>;
  /** One object a pool: its workers, their state and load. */
  readonly POOL: DurableObjectNamespace<PoolObject>;
  /** One object in all: sums of what isolates count. Unset: nothing is counted. */
  readonly METRICS?: DurableObjectNamespace<MetricsObject>;
  /** WASM engines; `MODEL/INDEX` names one. It speaks leanedge.worker.v1 over Connect. */
  readonly ENGINE: DurableObjectNamespace;
  /** The private network that workers are in (Workers VPC); unset: they are reached as any other address. */
  readonly WORKER_NETWORK?: Fetcher;
  /** The page and the shards of embedded models. */
  readonly ASSETS?: Fetcher;
}
