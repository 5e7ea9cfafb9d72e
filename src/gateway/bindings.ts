/** What the runtime hands to the gateway. wrangler.toml declares the same names. */
import type { KeyringObject } from "./objects/keyring-object.js";
import type { SessionObject } from "./objects/session-object.js";
import type { TenantObject } from "./objects/tenant-object.js";

/** Bindings, variables and secrets of the Worker. Parsed once, by config.ts. */
export interface GatewayEnv {
  /** One object a session. */
  readonly SESSION: DurableObjectNamespace<SessionObject>;
  /** One object a tenant: the index of its sessions. */
  readonly TENANT: DurableObjectNamespace<TenantObject>;
  /** One object in all: API keys. */
  readonly KEYRING: DurableObjectNamespace<KeyringObject>;
  /** WASM engines; `MODEL/INDEX` names one. It speaks leanedge.worker.v1 over Connect. */
  readonly ENGINE: DurableObjectNamespace;
  /** The page and the shards of embedded models. */
  readonly ASSETS?: Fetcher;
  /** Models that are served, as config.ts describes: JSON text, or the array itself. */
  readonly LEANEDGE_MODELS?: unknown;
  /** Key that is accepted for tenant `dev`; unset in production. */
  readonly LEANEDGE_DEV_KEY?: string;
  /** Keys and their tenants, `TENANT:SHA256` (of the key, in hexadecimal), separated by commas. */
  readonly LEANEDGE_KEYS?: string;
  /** Origins whose pages may call from a browser, separated by commas; `*` for all, unset for none. */
  readonly LEANEDGE_CORS_ORIGINS?: string;
  /** TCP port of the gRPC front, for the hint that native gRPC gets. */
  readonly LEANEDGE_FRONT_PORT?: string;
}
