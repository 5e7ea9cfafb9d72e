/** Wires the gateway together: Hono owns HTTP, Connect owns RPC, objects own state. */
import type { HandlerContext } from "@connectrpc/connect";
import { Hono } from "hono";
import { Health } from "../gen/grpc/health/v1/health_pb.js";
import { KeyService } from "../gen/leanedge/admin/v1/key_pb.js";
import { PoolAdminService, PoolService } from "../gen/leanedge/pool/v1/pool_pb.js";
import { ModelService } from "../gen/leanedge/v1/model_pb.js";
import { SessionService } from "../gen/leanedge/v1/session_pb.js";
import type { GatewayEnv } from "./bindings.js";
import { gatewayConfig } from "./config.js";
import { createCallKey } from "./connect/call.js";
import { mountConnect } from "./connect/mount-connect.js";
import { setCaller } from "./keys/caller.js";
import { deadlineMsMax, bodyBytesMax } from "./limits.js";
import { rateHeaderNames } from "./rate/rate-headers.js";
import { mountChat } from "./http/chat-completions.js";
import { frame } from "./http/frame.js";
import type { GatewayHonoEnv } from "./http/frame.js";
import { mountMetrics } from "./http/metrics.js";
import { mountModels } from "./http/models.js";
import { mountPage } from "./http/page.js";
import { mountStatus } from "./http/status.js";
import { refused } from "./metrics/watch-answer.js";
import { authenticate } from "./services/authenticate.js";
import { createHealthService } from "./services/health-service.js";
import { createKeyService } from "./services/key-service.js";
import { createModelService } from "./services/model-service.js";
import { requireToken } from "./services/bearer-token.js";
import { createPoolAdminService } from "./services/pool-admin-service.js";
import { createPoolService } from "./services/pool-service.js";
import { createSessionService } from "./services/session-service.js";

const callKey = createCallKey<GatewayEnv>();

/** Response headers of ours that scripts in browsers may read. */
const exposedHeaders = [
  "x-request-id",
  "x-session-id",
  "x-served-by",
  "x-affinity",
  "x-placement",
  "retry-after",
  "x-should-retry",
  ...rateHeaderNames,
];

/** The gateway for one set of bindings. */
export function createGateway(env: GatewayEnv): Hono<GatewayHonoEnv> {
  const config = gatewayConfig(env);
  const app = new Hono<GatewayHonoEnv>();
  frame(app, config.corsOrigins, exposedHeaders);
  mountConnect(
    app,
    (router) => {
      router.service(SessionService, createSessionService(callKey));
      router.service(ModelService, createModelService(callKey));
      router.service(PoolService, createPoolService(callKey));
      router.service(PoolAdminService, createPoolAdminService(callKey));
      router.service(KeyService, createKeyService(callKey));
      router.service(Health, createHealthService());
    },
    {
      call: callKey,
      gate: async (context, call) => {
        try {
          return await gate(context, call.env);
        } catch (error) {
          refused(error, call);
          throw error;
        }
      },
      limits: { messageReadBytesMax: bodyBytesMax, deadlineMsMax },
      requestId: (c) => c.get("requestId"),
      ...(config.corsOrigins === undefined
        ? {}
        : {
            cors: {
              origins: config.corsOrigins,
              allowedHeaders: ["authorization"],
              exposedHeaders,
            },
          }),
      ...(config.frontPort === undefined ? {} : { frontPort: config.frontPort }),
    },
  );
  mountChat(app);
  mountModels(app);
  mountStatus(app);
  mountMetrics(app);
  mountPage(app);
  return app;
}

/** Who may call a service: tenants with their keys, workers and operators with their tokens, and probes with nothing. */
async function gate(context: HandlerContext, env: GatewayEnv): Promise<string | undefined> {
  const { requestHeader, service } = context;
  const { adminToken, poolToken } = gatewayConfig(env);
  switch (service.typeName) {
    case Health.typeName:
      return undefined;
    case PoolService.typeName:
      requireToken(requestHeader, poolToken, "LEANEDGE_POOL_TOKEN");
      return undefined;
    case PoolAdminService.typeName:
    case KeyService.typeName:
      requireToken(requestHeader, adminToken, "LEANEDGE_ADMIN_TOKEN");
      return undefined;
    default: {
      const caller = await authenticate(requestHeader, env);
      setCaller(context, caller);
      return caller.tenant;
    }
  }
}
