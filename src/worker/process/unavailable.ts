/** Refusals of a worker that takes no call now. */
import { Code, ConnectError } from "@connectrpc/connect";
import {
  UnavailableReason,
  WorkerUnavailableSchema,
} from "../../gen/leanedge/worker/v1/worker_pb.js";

function unavailable(message: string, reason: UnavailableReason, cause?: unknown): ConnectError {
  const detail = { desc: WorkerUnavailableSchema, value: { reason } };
  return new ConnectError(message, Code.Unavailable, undefined, [detail], cause);
}

/** It shuts down. */
export function drainingError(cause?: unknown): ConnectError {
  return unavailable("the worker shuts down", UnavailableReason.DRAINING, cause);
}

/** Its engine was lost and starts again. */
export function restartingError(cause?: unknown): ConnectError {
  return unavailable(
    "the worker's engine was lost and starts again",
    UnavailableReason.ENGINE_RESTARTING,
    cause,
  );
}
