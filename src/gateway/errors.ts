/**
 * The gateway's errors: one class (ConnectError), one constructor a cause, and one table to HTTP. A message names the
 * thing, the value and the bound. Whatever is not a ConnectError is our bug and leaves as "internal error".
 */
import { Code, ConnectError } from "@connectrpc/connect";
import { fullRetryAfterSeconds } from "./limits.js";

/** Metadata of an error: which of the causes of its code it is, for programs; as workers name it. */
export const errorReasonHeader = "x-error-reason";
/** The reason that OpenAI's clients know by the same name. */
const contextLengthExceeded = "context_length_exceeded";
/** Reasons that clients see, and the parameter of a request in OpenAI form that each is about. */
const clientReasons: ReadonlyMap<string, string | null> = new Map([
  [contextLengthExceeded, "messages"],
  ["output_tokens_exceeded", "max_tokens"],
  ["sessions_exceeded", null],
]);

/** Wrong in any state. */
export function invalidArgument(message: string): ConnectError {
  return new ConnectError(message, Code.InvalidArgument);
}

/** Wrong now. */
export function failedPrecondition(message: string): ConnectError {
  return new ConnectError(message, Code.FailedPrecondition);
}

/** There is no such thing, or not for this tenant. */
export function notFound(message: string): ConnectError {
  return new ConnectError(message, Code.NotFound);
}

/** The name is taken by something else. */
export function alreadyExists(message: string): ConnectError {
  return new ConnectError(message, Code.AlreadyExists);
}

/** A size or a quota. */
export function resourceExhausted(message: string): ConnectError {
  return new ConnectError(message, Code.ResourceExhausted);
}

/** Metadata of an error: seconds after which a retry may help; HTTP's own header. */
export const retryAfterHeader = "retry-after";

/** All workers of a model are full, or none was ready for as long as a request may wait. */
export function allFull(model: string): ConnectError {
  return new ConnectError(
    `all workers of model "${model}" are full; come again in ${fullRetryAfterSeconds} s`,
    Code.ResourceExhausted,
    { [retryAfterHeader]: String(fullRetryAfterSeconds) },
  );
}

/** A retry helps. */
export function unavailable(message: string): ConnectError {
  return new ConnectError(message, Code.Unavailable);
}

/** No valid key. */
export function unauthenticated(message: string): ConnectError {
  return new ConnectError(message, Code.Unauthenticated);
}

/** The time that the client gave ran out. */
export function deadlineExceeded(message: string): ConnectError {
  return new ConnectError(message, Code.DeadlineExceeded);
}

/** Our bug; the message says nothing of it. */
export function internalError(): ConnectError {
  return new ConnectError("internal error", Code.Internal);
}

/** The error that a caller may see: a ConnectError as it is, anything else as INTERNAL. */
export function publicError(error: unknown): ConnectError {
  return error instanceof ConnectError ? error : internalError();
}

/** An error without what only the gateway should know: of its metadata stay the reason and the time of a retry. */
export function clientError(error: ConnectError): ConnectError {
  const reason = errorReason(error);
  const after = error.metadata.get(retryAfterHeader);
  return new ConnectError(error.rawMessage, error.code, {
    ...(reason === "" ? {} : { [errorReasonHeader]: reason }),
    ...(after === null ? {} : { [retryAfterHeader]: after }),
  });
}

/** The reason that an error names, where it is one that clients know; empty otherwise. */
export function errorReason(error: ConnectError): string {
  const reason = error.metadata.get(errorReasonHeader) ?? "";
  return clientReasons.has(reason) ? reason : "";
}

/** The parameter of a request in OpenAI form that a reason is about; null for none. */
export function reasonParam(reason: string): string | null {
  return clientReasons.get(reason) ?? null;
}

/** A key's limit that time lifts. `retryAfterMs`: when a retry may help. */
export function rateExhausted(message: string, retryAfterMs: number): ConnectError {
  return new ConnectError(message, Code.ResourceExhausted, {
    [retryAfterHeader]: String(Math.max(1, Math.ceil(retryAfterMs / 1_000))),
  });
}

/** A key's limit that no waiting lifts. */
export function limitExceeded(
  reason: "context_length_exceeded" | "output_tokens_exceeded" | "sessions_exceeded",
  message: string,
): ConnectError {
  return new ConnectError(message, Code.ResourceExhausted, { [errorReasonHeader]: reason });
}

/** How an error looks over HTTP in OpenAI's form. */
export interface HttpErrorForm {
  /** HTTP status. */
  readonly status: 400 | 401 | 403 | 404 | 408 | 409 | 413 | 429 | 499 | 500 | 501 | 503 | 504;
  /** `error.type`. */
  readonly type: string;
  /** `error.code`; null where OpenAI has none. */
  readonly code: string | null;
}

const invalidRequest = "invalid_request_error";

const httpForms: Record<Code, HttpErrorForm> = {
  [Code.Canceled]: { status: 499, type: invalidRequest, code: "cancelled" },
  [Code.Unknown]: { status: 500, type: "server_error", code: null },
  [Code.InvalidArgument]: { status: 400, type: invalidRequest, code: null },
  [Code.DeadlineExceeded]: { status: 504, type: "timeout_error", code: "timeout" },
  [Code.NotFound]: { status: 404, type: invalidRequest, code: "not_found" },
  [Code.AlreadyExists]: { status: 409, type: invalidRequest, code: "conflict" },
  [Code.PermissionDenied]: { status: 403, type: "permission_error", code: null },
  [Code.ResourceExhausted]: { status: 429, type: "rate_limit_error", code: "rate_limit_exceeded" },
  [Code.FailedPrecondition]: { status: 409, type: invalidRequest, code: "conflict" },
  [Code.Aborted]: { status: 409, type: invalidRequest, code: "conflict" },
  [Code.OutOfRange]: { status: 400, type: invalidRequest, code: null },
  [Code.Unimplemented]: { status: 501, type: invalidRequest, code: "unimplemented" },
  [Code.Internal]: { status: 500, type: "server_error", code: null },
  [Code.Unavailable]: { status: 503, type: "server_error", code: "unavailable" },
  [Code.DataLoss]: { status: 500, type: "server_error", code: null },
  [Code.Unauthenticated]: { status: 401, type: invalidRequest, code: "invalid_api_key" },
};

/** The one table from codes to HTTP. */
export function httpErrorForm(code: Code): HttpErrorForm {
  return httpForms[code];
}

/** An error in the form that OpenAI's clients read: what `error` holds. */
export interface OpenAiError {
  /** For people. */
  readonly message: string;
  /** Kind of error. */
  readonly type: string;
  /** Parameter at fault, if one is. */
  readonly param: string | null;
  /** For programs; null where OpenAI has none. */
  readonly code: string | null;
}

/** An error in that form. */
export function openAiError(error: ConnectError): OpenAiError {
  const { type, code } = httpErrorForm(error.code);
  const reason = errorReason(error);
  return reason === ""
    ? { message: error.rawMessage, type, param: null, code }
    : { message: error.rawMessage, type, param: reasonParam(reason), code: reason };
}
