/** What every HTTP request and answer gets: a request id, bounds on headers and body, CORS, and an error in our form. */
import type { Context, Hono, MiddlewareHandler } from "hono";
import { cors } from "hono/cors";
import { errorFields } from "../../log/log-line.js";
import { log } from "../log.js";
import { refused } from "../metrics/watch-answer.js";
import type { GatewayEnv } from "../bindings.js";
import type { RequestBody } from "../connect/request-body.js";
import { publicError } from "../errors.js";
import { bodyBytesMax, headerBytesMax, requestIdCharsMax } from "../limits.js";
import { errorResponse, httpError } from "./openai-error.js";

/** Hono's environment of the gateway. */
export interface GatewayHonoEnv {
  /** What the runtime passes to each request. */
  Bindings: GatewayEnv;
  /** What the frame notes. */
  Variables: {
    /** Names the request in logs and answers. */
    requestId: string;
  };
}

/** Context of a route. */
export type GatewayContext = Context<GatewayHonoEnv>;

const requestIdPattern = /^[\x21-\x7e]+$/;

/** Puts the frame around all routes of the app. */
export function frame(
  app: Hono<GatewayHonoEnv>,
  corsOrigins: readonly string[] | "*" | undefined,
  exposedHeaders: readonly string[],
): void {
  app.use(identify);
  if (corsOrigins !== undefined) {
    const origin = corsOrigins === "*" ? "*" : [...corsOrigins];
    app.use("/v1/*", cors({ origin, exposeHeaders: [...exposedHeaders], maxAge: 7200 }));
  }
  // Behind CORS, so that a page can read what is wrong.
  app.use(boundHeaders);
  app.onError((error, c) => {
    const shown = publicError(error);
    refused(error, { env: c.env, lifetime: c.executionCtx });
    if (shown !== error) {
      log("error", "request.failed", {
        request_id: c.get("requestId"),
        method: c.req.method,
        path: c.req.path,
        ...errorFields(error, "stack"),
      });
    }
    return errorResponse(c, shown);
  });
  app.notFound((c) =>
    httpError(c, 404, {
      message: `there is nothing at ${c.req.method} ${c.req.path}`,
      type: "invalid_request_error",
      param: null,
      code: "not_found",
    }),
  );
}

const identify: MiddlewareHandler<GatewayHonoEnv> = async (c, next) => {
  const { headers } = c.req.raw;
  const given = headers.get("x-request-id") ?? "";
  const usable = given.length <= requestIdCharsMax && requestIdPattern.test(given);
  const requestId = usable ? given : crypto.randomUUID();
  c.set("requestId", requestId);
  await next();
  // Answers of turns bring it along. A header that comes late makes the others anew, which are not in such a hurry.
  if (c.res.headers.get("x-request-id") !== requestId) {
    c.header("x-request-id", requestId);
  }
  return undefined;
};

const boundHeaders: MiddlewareHandler<GatewayHonoEnv> = async (c, next) => {
  let bytes = 0;
  c.req.raw.headers.forEach((value, name) => {
    bytes += name.length + value.length;
  });
  if (bytes > headerBytesMax) {
    return httpError(c, 431, {
      message: `the headers have ${bytes} bytes, at most ${headerBytesMax} are allowed`,
      type: "invalid_request_error",
      param: null,
      code: "headers_too_large",
    });
  }
  await next();
  return undefined;
};

/** A body that is larger than bodyBytesMax. */
export class BodyTooLargeError extends Error {
  override readonly name = "BodyTooLargeError";
}

/** Reads a body, and stops at the bound whatever its length claims to be. Throws BodyTooLargeError. */
export async function readBody(body: RequestBody): Promise<Uint8Array> {
  const whole = await body.whole(bodyBytesMax);
  if (whole !== undefined) {
    return whole;
  }
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of body.chunks()) {
    length += chunk.byteLength;
    if (length > bodyBytesMax) {
      throw new BodyTooLargeError(`the body has more than ${bodyBytesMax} bytes`);
    }
    chunks.push(chunk);
  }
  const all = new Uint8Array(length);
  let offset = 0;
  for (const chunk of chunks) {
    all.set(chunk, offset);
    offset += chunk.byteLength;
  }
  return all;
}
