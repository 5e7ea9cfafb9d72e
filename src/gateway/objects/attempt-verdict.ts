/** What the error of an attempt means for its turn. */
import { Code, ConnectError } from "@connectrpc/connect";
import { errorReason } from "../errors.js";
import { SpoiledAnswer, WorkerFault } from "./worker-fault.js";

/** What a failed attempt means. */
export type Verdict = "retry" | "rebuild" | "refuse";

/** Where a turn stood when its attempt failed. */
export interface Stand {
  /** A worker has accepted it, now or before. */
  readonly accepted: boolean;
  /** Its text is rendered anew already. */
  readonly rebuilt: boolean;
  /** A worker was asked; otherwise none could be found. */
  readonly asked: boolean;
  /** The session has a log of ids. */
  readonly hasLog: boolean;
}

/** Judges an attempt by its error: whether another one is worth it, and whether the text must be rendered anew for it. */
export function judge(error: unknown, { accepted, rebuilt, asked, hasLog }: Stand): Verdict {
  if (error instanceof SpoiledAnswer) {
    // Whoever spoilt it has been told of; this worker only brought it to light.
    return "refuse";
  }
  if (error instanceof WorkerFault) {
    return "retry";
  }
  if (!(error instanceof ConnectError)) {
    return "refuse";
  }
  switch (error.code) {
    case Code.ResourceExhausted:
      // Another worker may have room, unless a key's limit is the reason; the chooser gives up where there is none.
      return accepted || (asked && errorReason(error) === "") ? "retry" : "refuse";
    case Code.InvalidArgument:
      if (!accepted && !rebuilt && hasLog && errorReason(error) === "") {
        // It may be the log that is refused, with ids that an earlier worker made up: the text is what counts.
        return "rebuild";
      }
      return accepted ? "retry" : "refuse";
    case Code.NotFound:
      return accepted ? "retry" : "refuse";
    case Code.FailedPrecondition:
      // The model, template or plan changed under the session: its text is rendered anew. An answer that was begun
      // under the old one cannot go on.
      return accepted || rebuilt ? "refuse" : "rebuild";
    default:
      return "retry";
  }
}

/** Whether an error says that no worker could be found. */
export function noWorker(error: unknown): boolean {
  return (
    error instanceof ConnectError &&
    (error.code === Code.ResourceExhausted || error.code === Code.Unavailable)
  );
}

/** What a client is told of the error that ended its turn. */
export function endMessage(error: unknown): string {
  return error instanceof ConnectError && error.code !== Code.Internal
    ? error.rawMessage
    : "the answer could not be completed";
}
