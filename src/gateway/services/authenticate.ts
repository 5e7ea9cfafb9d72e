/** Who calls: from `authorization: Bearer KEY` to a tenant and the limits of the key. */
import type { GatewayEnv } from "../bindings.js";
import { unauthenticated } from "../errors.js";
import type { Caller } from "../keys/caller.js";
import { callerOf } from "../keys/key-standing.js";
import { apiKeyCharsMax } from "../limits.js";
import { hashApiKey } from "../objects/api-key.js";

/** Whoever sends a request. Throws UNAUTHENTICATED without a key and with one that opens nothing. */
export async function authenticate(headers: Headers, env: GatewayEnv): Promise<Caller> {
  return callerOf(hashApiKey(bearerKey(headers)), env);
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
