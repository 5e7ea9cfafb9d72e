/** The one table from what an engine, a scheduler or a template refuses to RPC codes. */
import { Code, ConnectError } from "@connectrpc/connect";
import { SnapshotError, type SnapshotReason } from "../engine/page/snapshot.js";
import { EngineError, type EngineStatusName } from "../engine/status.js";
import { SnapshotFaultReason, SnapshotFaultSchema } from "../gen/leanedge/worker/v1/worker_pb.js";
import { SchedulerError } from "./scheduler.js";
import { TextCodecError } from "./text-codec.js";

/** Metadata of an error: which of the causes of its code it is, for programs. */
export const errorReasonHeader = "x-error-reason";
/** The prompt leaves no room for an answer in the model's window. */
export const contextLengthExceeded = "context_length_exceeded";

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

const faults: Record<SnapshotReason, SnapshotFaultReason> = {
  truncated: SnapshotFaultReason.TRUNCATED,
  magic: SnapshotFaultReason.CORRUPT,
  version: SnapshotFaultReason.FOREIGN,
  trailing: SnapshotFaultReason.CORRUPT,
  checksum: SnapshotFaultReason.CORRUPT,
  foreignModel: SnapshotFaultReason.FOREIGN,
  foreignTemplate: SnapshotFaultReason.FOREIGN,
  foreignPlan: SnapshotFaultReason.FOREIGN,
  foreignEngine: SnapshotFaultReason.FOREIGN,
  foreignLog: SnapshotFaultReason.FOREIGN,
  tooLong: SnapshotFaultReason.TOO_LARGE,
  corrupt: SnapshotFaultReason.CORRUPT,
};

/** What is wrong with a snapshot that could not be restored; undefined if it was not its fault. */
export function snapshotFault(error: unknown): SnapshotFaultReason | undefined {
  if (error instanceof SnapshotError) return faults[error.reason];
  if (error instanceof EngineError && error.status === "invalidSnapshot") {
    return SnapshotFaultReason.CORRUPT;
  }
  if (error instanceof SchedulerError && error.reason === "tooLarge") {
    return SnapshotFaultReason.TOO_LARGE;
  }
  return undefined;
}

/** The error that the caller of Restore sees: with the fault of its snapshot, if it has one. */
export function restoreError(error: unknown): ConnectError {
  const reason = snapshotFault(error);
  if (reason === undefined) return toConnectError(error);
  const message = error instanceof Error ? error.message : "the snapshot cannot be restored";
  return new ConnectError(
    message,
    reason === SnapshotFaultReason.TOO_LARGE ? Code.ResourceExhausted : Code.DataLoss,
    undefined,
    [{ desc: SnapshotFaultSchema, value: { reason } }],
    error,
  );
}
