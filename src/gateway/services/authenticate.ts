/** Who calls: from `authorization: Bearer KEY` to a tenant. */
import type { GatewayEnv } from "../bindings.js";
import { gatewayConfig } from "../config.js";
import { unauthenticated } from "../errors.js";
import { apiKeyCharsMax, keyCacheEntriesMax, keyCacheTtlMs } from "../limits.js";
import { equalInConstantTime, hashApiKey } from "../objects/api-key.js";
import { keyringName } from "../objects/keyring-object.js";

/** Tenant of the development key. */
export const developmentTenant = "dev";
const developmentKeyName = "development";

interface CachedKey {
  readonly tenant: string;
  readonly expiresMs: number;
}

/** Keys that were found, by their hash in hexadecimal, oldest first. Plain data: any request may read it. */
const cache = new Map<string, CachedKey>();

/**
 * The tenant of a request. Throws UNAUTHENTICATED without a key and with a wrong one.
 *
 * The configuration and the keyring have the keys; an isolate trusts what it looked up for keyCacheTtlMs. The
 * development key of the configuration enters the keyring when it is first used.
 */
export async function authenticate(headers: Headers, env: GatewayEnv): Promise<string> {
  const hash = hashApiKey(bearerKey(headers));
  const name = hex(hash);
  const cached = cache.get(name);
  if (cached !== undefined && cached.expiresMs > Date.now()) {
    return cached.tenant;
  }
  const tenant = await lookUp(hash, env);
  cache.delete(name);
  if (tenant === undefined) {
    throw unauthenticated("the API key is not valid");
  }
  if (cache.size >= keyCacheEntriesMax) {
    const oldest = cache.keys().next();
    if (oldest.done !== true) {
      cache.delete(oldest.value);
    }
  }
  cache.set(name, { tenant, expiresMs: Date.now() + keyCacheTtlMs });
  return tenant;
}

function bearerKey(headers: Headers): string {
  const header = headers.get("authorization");
  if (header === null || header === "") {
    throw unauthenticated("the call carries no API key; send `authorization: Bearer KEY`");
  }
  const key = /^Bearer +(?<key>\S+) *$/i.exec(header)?.groups?.["key"];
  if (key === undefined) {
    throw unauthenticated("the authorization header must read `Bearer KEY`");
  }
  if (key.length > apiKeyCharsMax) {
    throw unauthenticated("the API key is not valid");
  }
  return key;
}

async function lookUp(hash: Uint8Array, env: GatewayEnv): Promise<string | undefined> {
  const { devKey, keys } = gatewayConfig(env);
  // All of them are compared, so that the time tells nothing of the place of a match.
  const [configured] = keys.filter((key) => equalInConstantTime(key.hash, hash));
  if (configured !== undefined) {
    return configured.tenant;
  }
  const keyring = env.KEYRING.getByName(keyringName);
  const found = await keyring.tenantOf(hash);
  if (found !== undefined) {
    return found;
  }
  if (devKey === undefined || !equalInConstantTime(hashApiKey(devKey), hash)) {
    return undefined;
  }
  await keyring.importKey(hash, developmentTenant, developmentKeyName);
  return developmentTenant;
}

function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
