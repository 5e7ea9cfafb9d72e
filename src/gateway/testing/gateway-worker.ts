/** The gateway as tests inside workerd run it: the real thing, with a scripted worker in the place of its engine. */
import type { GatewayEnv } from "../bindings.js";
import { createGateway } from "../gateway.js";

export { KeyringObject } from "../objects/keyring-object.js";
export { LimitObject } from "../objects/limit-object.js";
export { MetricsObject } from "../objects/metrics-object.js";
export { PoolObject } from "../objects/pool-object.js";
export { SessionObject } from "../objects/session-object.js";
export { TenantObject } from "../objects/tenant-object.js";
export { TestEngine as EngineObject } from "./test-engine.js";

export default {
  fetch: (request, env, ctx) => createGateway(env).fetch(request, env, ctx),
} satisfies ExportedHandler<GatewayEnv>;
