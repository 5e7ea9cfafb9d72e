/** Ids of sessions that their clients did not name. */
import type { GatewayEnv } from "../bindings.js";
import type { GatewayVariables } from "../config.js";
import { isOwn } from "../processes/objects.js";
import { sessionPlace } from "./session-name.js";

/** Ids that are drawn for one that this process keeps; of 64 processes one in e^4 keeps none of them. */
const drawsMax = 256;

/** An id that nobody can guess or meet by chance, of a session that this process itself keeps: its client is here. */
export function newSessionId(
  env: Pick<GatewayEnv, "SESSION"> & GatewayVariables,
  tenant: string,
): string {
  for (let draws = 1; ; draws++) {
    const id = `session-${crypto.randomUUID()}`;
    if (draws === drawsMax || isOwn(env, "SESSION", sessionPlace(env, tenant, id))) {
      return id;
    }
  }
}
