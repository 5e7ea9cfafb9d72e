/** The Worker: its entry, the Durable Objects that wrangler.toml names, and the way to those of other processes. */
import { errorFields } from "../log/log-line.js";
import { log } from "./log.js";
import type { GatewayEnv } from "./bindings.js";
import { internalError, openAiError } from "./errors.js";
import { createGateway } from "./gateway.js";

export { EngineObject } from "./objects/engine-object.js";
export { KeyringObject } from "./objects/keyring-object.js";
export { LimitObject } from "./objects/limit-object.js";
export { MetricsObject } from "./objects/metrics-object.js";
export { PoolObject } from "./objects/pool-object.js";
export { SessionObject } from "./objects/session-object.js";
export { TenantObject } from "./objects/tenant-object.js";
export { ObjectServer } from "./processes/object-server.js";

const gateways = new WeakMap<GatewayEnv, ReturnType<typeof createGateway>>();

export default {
  async fetch(request, env, ctx) {
    let gateway = gateways.get(env);
    if (gateway === undefined) {
      try {
        gateway = createGateway(env);
      } catch (error) {
        // Only a wrong configuration stops a gateway from being made; its operator reads the log.
        log("error", "gateway.not_started", errorFields(error, "stack"));
        return Response.json({ error: openAiError(internalError()) }, { status: 500 });
      }
      gateways.set(env, gateway);
    }
    return gateway.fetch(request, env, ctx);
  },
} satisfies ExportedHandler<GatewayEnv>;
