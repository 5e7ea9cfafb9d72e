/** Errors over HTTP, in the form that OpenAI's clients read: `{"error": {message, type, param, code}}`. */
import { Code } from "@connectrpc/connect";
import type { ConnectError } from "@connectrpc/connect";
import type { Context } from "hono";
import type { ContentfulStatusCode } from "hono/utils/http-status";
import { errorReason, httpErrorForm, openAiError, retryAfterHeader } from "../errors.js";
import type { OpenAiError } from "../errors.js";

/** A parameter that is wrong, by its name in the request. */
export class ParamError extends Error {
  override readonly name = "ParamError";

  /**
   * @param param where in the request: `temperature`, `messages[2].content`
   * @param message thing, value and bound
   * @param code for programs, if OpenAI has one
   */
  constructor(
    readonly param: string | null,
    message: string,
    readonly code: string | null = null,
  ) {
    super(message);
  }
}

/** The answer to a request that failed. */
export function errorResponse(c: Context, error: ConnectError): Response {
  const inner = openAiError(error);
  if (error.code === Code.ResourceExhausted && errorReason(error) !== "") {
    // OpenAI's clients repeat every 429 unless this tells them that it is of no use.
    c.header("x-should-retry", "false");
    return c.json({ error: inner }, 429);
  }
  // 499 is for logs only: its client is gone.
  return httpError(
    c,
    httpErrorForm(error.code).status as ContentfulStatusCode,
    inner,
    error.metadata.get(retryAfterHeader) ?? undefined,
  );
}

/** An answer with a status and an error. `retryAfter`: seconds after which a retry may help, 1 if unset. */
export function httpError(
  c: Context,
  status: ContentfulStatusCode,
  error: OpenAiError,
  retryAfter = "1",
): Response {
  if (status === 429 || status === 503) {
    c.header("retry-after", retryAfter);
  }
  return c.json({ error }, status);
}
