/** The Worker: its entry, and the Durable Objects that wrangler.toml names. */
import type { GatewayEnv } from "./bindings.js";
import { createGateway } from "./gateway.js";

export { EngineObject } from "./objects/engine-object.js";
export { KeyringObject } from "./objects/keyring-object.js";
export { SessionObject } from "./objects/session-object.js";
export { TenantObject } from "./objects/tenant-object.js";

const gateways = new WeakMap<GatewayEnv, ReturnType<typeof createGateway>>();

export default {
  fetch(request, env, ctx) {
    let gateway = gateways.get(env);
    if (gateway === undefined) {
      gateway = createGateway(env);
      gateways.set(env, gateway);
    }
    return gateway.fetch(request, env, ctx);
  },
} satisfies ExportedHandler<GatewayEnv>;
