/** The one table from what an engine, a scheduler or a template refuses to RPC codes. */
import { Code, ConnectError } from "@connectrpc/connect";
import { EngineError, type EngineStatusName } from "../engine/status.js";
import { SchedulerError } from "./scheduler.js";
import { TextCodecError } from "./text-codec.js";

const codes: Record<EngineStatusName, Code> = {
  ok: Code.Internal,
  invalidArgument: Code.InvalidArgument,
  invalidModel: Code.FailedPrecondition,
  invalidPlan: Code.FailedPrecondition,
  outOfMemory: Code.ResourceExhausted,
  outOfPages: Code.ResourceExhausted,
  contextFull: Code.InvalidArgument,
  tooManySequences: Code.ResourceExhausted,
  wrongState: Code.Internal,
  invalidSnapshot: Code.DataLoss,
  notFinite: Code.Internal,
  deviceLost: Code.Unavailable,
  unimplemented: Code.Unimplemented,
};

/**
 * The error that a caller sees. Known refusals keep their message; anything else is our bug and
 * says nothing of itself on the wire (the cause stays for the log).
 */
export function toConnectError(error: unknown): ConnectError {
  if (error instanceof ConnectError) return error;
  if (error instanceof EngineError) {
    return new ConnectError(error.message, codes[error.status], undefined, undefined, error);
  }
  if (error instanceof SchedulerError) {
    return new ConnectError(error.message, Code.ResourceExhausted, undefined, undefined, error);
  }
  if (error instanceof TextCodecError) {
    return new ConnectError(error.message, Code.InvalidArgument, undefined, undefined, error);
  }
  return new ConnectError("internal error", Code.Internal, undefined, undefined, error);
}
