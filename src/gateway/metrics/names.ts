/** Names of outcomes in metrics and logs. */
import type { ConnectError } from "@connectrpc/connect";
import { codeToString } from "@connectrpc/connect/protocol-connect";
import { errorReason } from "../errors.js";

/** What became of a call that failed: the reason that its error names, or its code, `resource_exhausted` and the like. */
export function outcomeName(error: ConnectError): string {
  const reason = errorReason(error);
  return reason === "" ? codeToString(error.code) : reason;
}
