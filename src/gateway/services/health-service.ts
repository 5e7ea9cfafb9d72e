/** grpc.health.v1.Health. A gateway that answers can take calls: its own state is the same for all of its services. */
import { create } from "@bufbuild/protobuf";
import type { ServiceImpl } from "@connectrpc/connect";
import {
  Health,
  HealthCheckResponseSchema,
  HealthCheckResponse_ServingStatus as ServingStatus,
} from "../../gen/grpc/health/v1/health_pb.js";
import { ModelService } from "../../gen/leanedge/v1/model_pb.js";
import { SessionService } from "../../gen/leanedge/v1/session_pb.js";
import { notFound } from "../errors.js";
import { healthWatchMs } from "../limits.js";
import { systemClock } from "../objects/clock.js";
import type { Clock } from "../objects/clock.js";

const services = new Set(["", Health.typeName, ModelService.typeName, SessionService.typeName]);

/** State of a service; undefined for one that this gateway does not have. */
export function servingStatus(service: string): ServingStatus | undefined {
  return services.has(service) ? ServingStatus.SERVING : undefined;
}

/** The service. `clock` paces Watch. */
export function createHealthService(clock: Clock = systemClock): ServiceImpl<typeof Health> {
  return {
    check(request) {
      const status = servingStatus(request.service);
      if (status === undefined) {
        throw notFound(`there is no service "${request.service}"`);
      }
      return create(HealthCheckResponseSchema, { status });
    },
    async *watch(request, context) {
      let sent: ServingStatus | undefined;
      while (!context.signal.aborted) {
        const status = servingStatus(request.service) ?? ServingStatus.SERVICE_UNKNOWN;
        if (status !== sent) {
          sent = status;
          yield create(HealthCheckResponseSchema, { status });
        }
        await clock.sleep(healthWatchMs, context.signal);
      }
    },
  };
}
