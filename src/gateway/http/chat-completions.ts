/** POST /v1/chat/completions, as server-sent events or as one answer. */
import type { Hono } from "hono";
import { findModel, gatewayConfig } from "../config.js";
import { RequestBody } from "../connect/request-body.js";
import { defaultRpcLimits } from "../connect/rpc-limits.js";
import { requestIdCharsMax } from "../limits.js";
import { watchHead } from "../metrics/watch-answer.js";
import type { SessionCaller } from "../objects/session-client.js";
import { passHeader } from "../objects/session-name.js";
import { copyRateHeaders } from "../rate/rate-headers.js";
import { authenticate } from "../services/authenticate.js";
import { parseChatRequest } from "./chat-request.js";
import { chatSessionId, runChat } from "./chat-session.js";
import { BodyTooLargeError, readBody } from "./frame.js";
import type { GatewayContext, GatewayHonoEnv } from "./frame.js";
import { ParamError, httpError } from "./openai-error.js";

/** Mounts the route. */
export function mountChat(app: Hono<GatewayHonoEnv>): void {
  app.post("/v1/chat/completions", async (c) => {
    const body = new RequestBody(c.req.raw, defaultRpcLimits);
    try {
      return await complete(c, body);
    } catch (error) {
      if (error instanceof ParamError) {
        const { message, param, code } = error;
        return httpError(c, 400, { message, type: "invalid_request_error", param, code });
      }
      if (error instanceof BodyTooLargeError) {
        return httpError(c, 413, {
          message: error.message,
          type: "invalid_request_error",
          param: null,
          code: "request_too_large",
        });
      }
      throw error;
    } finally {
      // A client that still sends would lose the answer with the connection.
      await body.discardRest();
    }
  });
}

async function complete(c: GatewayContext, body: RequestBody): Promise<Response> {
  const headers = c.req.raw.headers;
  const key = await authenticate(headers, c.env);
  const request = parseChatRequest(await readBody(body));
  const model = findModel(gatewayConfig(c.env), request.model);
  if (model === undefined) {
    return httpError(c, 404, {
      message: `there is no model "${request.model}"`,
      type: "invalid_request_error",
      param: "model",
      code: "model_not_found",
    });
  }
  const idempotencyKey = headers.get("idempotency-key") ?? "";
  if (idempotencyKey.length > requestIdCharsMax) {
    throw new ParamError(
      null,
      `the Idempotency-Key has ${idempotencyKey.length} characters, at most ${requestIdCharsMax} are allowed`,
    );
  }
  const caller: SessionCaller = {
    tenant: key.tenant,
    requestId: c.get("requestId"),
    signal: c.req.raw.signal,
    key,
    onHead: (head) => copyRateHeaders(head, (name, value) => c.header(name, value)),
  };
  const root = chatSessionId(request, headers);
  const answer = await watchHead({ env: c.env, lifetime: c.executionCtx, protocol: "openai" }, () =>
    runChat(c.env, caller, request, root, idempotencyKey),
  );
  // The object wrote it for the client, and counts it: its body goes on as it comes.
  const head = new Headers(answer.headers);
  head.delete(passHeader);
  head.set("x-request-id", c.get("requestId"));
  return new Response(answer.body, { headers: head });
}
