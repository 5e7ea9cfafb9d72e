/**
 * What an isolate knows of keys: from the configuration, and for keyCacheTtlMs from the keyring. What it remembers is plain
 * data, which any request and any object of the isolate may read.
 */
import { toHex } from "../../engine/sha256.js";
import type { GatewayEnv } from "../bindings.js";
import { gatewayConfig } from "../config.js";
import { unauthenticated } from "../errors.js";
import { keyCacheEntriesMax, keyCacheTtlMs } from "../limits.js";
import { equalInConstantTime, hashApiKey } from "../objects/api-key.js";
import { isActive, keyringName } from "../objects/keyring-object.js";
import type { KeyRecord } from "../objects/keyring-object.js";
import { effectiveLimits } from "./key-limits.js";
import type { Caller } from "./caller.js";
import { objectNamed } from "../processes/objects.js";

/** Tenant of the development key. */
export const developmentTenant = "dev";

/** A key that the configuration brings. */
export interface ConfiguredKeyPlace {
  readonly keyId: string;
  readonly tenant: string;
  /** The variable that holds it. */
  readonly variable: string;
  readonly hash: Uint8Array;
}

interface Known {
  /** The key; undefined: there is none. */
  readonly record: KeyRecord | undefined;
  readonly expiresMs: number;
}

/** Keys that were looked up, by their hash in hexadecimal, oldest first. */
const byHash = new Map<string, Known>();
/** The same by id. */
const byId = new Map<string, Known>();
const configured = new WeakMap<object, readonly ConfiguredKeyPlace[]>();

/** Keys of the configuration. */
export function configuredKeys(env: GatewayEnv): readonly ConfiguredKeyPlace[] {
  const known = configured.get(env);
  if (known !== undefined) {
    return known;
  }
  const { devKey, keys } = gatewayConfig(env);
  const places = keys.map(({ tenant, hash }, index) =>
    configuredKey(tenant, `LEANEDGE_KEYS[${index}]`, hash),
  );
  if (devKey !== undefined) {
    places.push(configuredKey(developmentTenant, "LEANEDGE_DEV_KEY", hashApiKey(devKey)));
  }
  configured.set(env, places);
  return places;
}

/** Who shows a key with this hash. Throws UNAUTHENTICATED if it opens nothing. */
export async function callerOf(hash: Uint8Array, env: GatewayEnv): Promise<Caller> {
  const { keyLimits } = gatewayConfig(env);
  // All of them are compared, so that the time tells nothing of the place of a match.
  const [place] = configuredKeys(env).filter((key) => equalInConstantTime(key.hash, hash));
  if (place !== undefined) {
    const { keyId, tenant } = place;
    return { keyId, tenant, limits: effectiveLimits(keyLimits, {}) };
  }
  const name = toHex(hash);
  let known = fresh(byHash, name);
  if (known === undefined) {
    const askedMs = Date.now();
    known = remember(
      byHash,
      name,
      await objectNamed(env, "KEYRING", keyringName).find(hash),
      askedMs,
    );
    if (known.record !== undefined) {
      remember(byId, known.record.keyId, known.record, askedMs);
    }
  }
  const { record } = known;
  const ended = endOf(record);
  if (record === undefined || ended !== undefined) {
    throw unauthenticated(ended ?? "the API key is not valid");
  }
  const { keyId, tenant, limits } = record;
  return { keyId, tenant, limits: effectiveLimits(keyLimits, limits) };
}

/** Whether a key is the configuration's: it opens what it opens for as long as this isolate lives. */
export function isConfigured(keyId: string, env: GatewayEnv): boolean {
  return configuredKeys(env).some((key) => key.keyId === keyId);
}

/** Why a key opens nothing any more; undefined while it does. Rejects where the keyring cannot be reached. */
export async function keyEnd(keyId: string, env: GatewayEnv): Promise<string | undefined> {
  if (isConfigured(keyId, env)) {
    return undefined;
  }
  let known = fresh(byId, keyId);
  if (known === undefined) {
    const askedMs = Date.now();
    known = remember(
      byId,
      keyId,
      await objectNamed(env, "KEYRING", keyringName).get(keyId),
      askedMs,
    );
  }
  return endOf(known.record);
}

function endOf(record: KeyRecord | undefined): string | undefined {
  if (record === undefined) {
    return "the API key is not valid";
  }
  if (isActive(record, Date.now())) {
    return undefined;
  }
  return record.revokeMs > 0 ? "the API key was revoked" : "the API key has expired";
}

function fresh(cache: Map<string, Known>, name: string): Known | undefined {
  const known = cache.get(name);
  const leftMs = (known?.expiresMs ?? 0) - Date.now();
  // More is left than was given where the clock was set back: then it may be older than anybody trusts.
  return leftMs > 0 && leftMs <= keyCacheTtlMs ? known : undefined;
}

/** Remembers an answer from when it was asked for; a key that does not exist is not worth a place. */
function remember(
  cache: Map<string, Known>,
  name: string,
  record: KeyRecord | undefined,
  askedMs: number,
): Known {
  const known: Known = { record, expiresMs: askedMs + keyCacheTtlMs };
  cache.delete(name);
  if (record === undefined) {
    return known;
  }
  if (cache.size >= keyCacheEntriesMax) {
    const oldest = cache.keys().next();
    if (oldest.done !== true) {
      cache.delete(oldest.value);
    }
  }
  cache.set(name, known);
  return known;
}

function configuredKey(tenant: string, variable: string, hash: Uint8Array): ConfiguredKeyPlace {
  return { keyId: `config-${toHex(hash.subarray(0, 8))}`, tenant, variable, hash };
}
