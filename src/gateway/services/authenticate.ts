/** Who calls: from `authorization: Bearer KEY` to a tenant and the limits of the key. */
import type { GatewayEnv } from "../bindings.js";
import { unauthenticated } from "../errors.js";
import type { Caller } from "../keys/caller.js";
import { callerOf } from "../keys/key-standing.js";
import { apiKeyCharsMax, keyHashesMax } from "../limits.js";
import { hashApiKey } from "../objects/api-key.js";

/**
 * Hashes of the keys in headers that opened something, the oldest first: a hash is a call of the runtime, and the same few keys come
 * again and again. Whether a key still opens something is asked each time.
 */
const hashes = new Map<string, Uint8Array>();

/** Whoever sends a request. Throws UNAUTHENTICATED without a key and with one that opens nothing. */
export async function authenticate(headers: Headers, env: GatewayEnv): Promise<Caller> {
  const header = headers.get("authorization") ?? "";
  const known = hashes.get(header);
  if (known !== undefined) {
    return callerOf(known, env);
  }
  const hash = hashApiKey(bearerKey(header));
  const caller = await callerOf(hash, env);
  if (hashes.size >= keyHashesMax) {
    const [oldest = ""] = hashes.keys();
    hashes.delete(oldest);
  }
  hashes.set(header, hash);
  return caller;
}

function bearerKey(header: string): string {
  if (header === "") {
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
