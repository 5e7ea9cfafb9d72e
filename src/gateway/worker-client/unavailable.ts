/** What a worker says when it takes no call now. */
import { Code, ConnectError } from "@connectrpc/connect";
import {
  UnavailableReason,
  WorkerUnavailableSchema,
} from "../../gen/leanedge/worker/v1/worker_pb.js";

/** Why a worker takes no call; UNSPECIFIED if the error does not say so. */
export function unavailableReason(error: unknown): UnavailableReason {
  if (!(error instanceof ConnectError) || error.code !== Code.Unavailable) {
    return UnavailableReason.UNSPECIFIED;
  }
  return error.findDetails(WorkerUnavailableSchema)[0]?.reason ?? UnavailableReason.UNSPECIFIED;
}
