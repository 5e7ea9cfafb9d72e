/** Which session a request in OpenAI form belongs to, and the way to it. */
import { toHex } from "../../engine/sha256.js";
import { create } from "@bufbuild/protobuf";
import {
  ForkSessionRequestSchema,
  GenerateRequestSchema,
  Role,
} from "../../gen/leanedge/v1/session_pb.js";
import type { Message } from "../../gen/leanedge/v1/session_pb.js";
import type { GatewayEnv } from "../bindings.js";
import { forkDepthMax } from "../limits.js";
import { newSessionId } from "../objects/new-session-id.js";
import { checkSessionId, hashMessages } from "../objects/request-rules.js";
import { SessionClient } from "../objects/session-client.js";
import type { SessionCaller } from "../objects/session-client.js";
import { sha256 } from "../sha256.js";
import type { ChatRequest } from "./chat-request.js";

/** Headers that name a session, ours first, then those that clients send already. The first one counts. */
const sessionHeaders = [
  "x-session-id",
  "x-session-affinity",
  "session-id",
  "session_id",
  "x-claude-code-session-id",
  "x-dynamo-session-id",
  "x-litellm-session-id",
] as const;

/**
 * The session that a request names, or else a hint made from how its conversation begins. Throws INVALID_ARGUMENT for an
 * id that cannot be one.
 */
export function chatSessionId(request: ChatRequest, headers: Headers): string {
  const named = namedSession(request, headers);
  if (named !== "") {
    checkSessionId(named, "session id");
    return named;
  }
  const keyed = [request.promptCacheKey, request.user].find((id) => id !== undefined && id !== "");
  // These were not meant as our ids: they may have any length.
  return keyed === undefined
    ? `hint-${digest(hashMessages(opener(request.messages)))}`
    : `key-${digest(keyed)}`;
}

/**
 * Starts, joins or replays the turn that a history stands for, in the session or in the fork that it belongs to. Gives the
 * response for the client, which the session's object wrote.
 */
export async function runChat(
  env: GatewayEnv,
  caller: SessionCaller,
  request: ChatRequest,
  rootId: string,
  idempotencyKey: string,
): Promise<Response> {
  const generate = create(GenerateRequestSchema, {
    messages: request.messages,
    sampling: request.sampling,
    model: request.model,
    ...(request.allowFallback === undefined ? {} : { allowFallback: request.allowFallback }),
  });
  const form = request.stream ? (request.includeUsage ? "usage" : "events") : "whole";
  let sessionId = rootId;
  for (let depth = 0; ; depth++) {
    const client = new SessionClient(env, caller, sessionId);
    const answer = await client.chat(generate, form, idempotencyKey);
    if (answer.kind === "answer") {
      return answer.response;
    }
    const { redirect } = answer;
    if (depth === forkDepthMax) {
      sessionId = newSessionId(env, caller.tenant);
      continue;
    }
    if (redirect.turn > 0) {
      await client.forkSession(
        create(ForkSessionRequestSchema, {
          sessionId,
          turn: redirect.turn,
          newSessionId: redirect.sessionId,
        }),
      );
    }
    sessionId = redirect.sessionId;
  }
}

/** The session id that a request brings; empty if it brings none. A header is read only where those before it say nothing. */
function namedSession({ sessionId = "" }: ChatRequest, headers: Headers): string {
  let id = sessionId;
  for (let at = 0; id === "" && at < sessionHeaders.length; at++) {
    id = headers.get(sessionHeaders[at] ?? "") ?? "";
  }
  return id;
}

/** How a conversation begins: its instructions and the first thing that was said. */
function opener(messages: readonly Message[]): readonly Message[] {
  const first = messages.findIndex((message) => message.role === Role.USER);
  return messages.slice(0, first + 1);
}

function digest(bytes: string | Uint8Array): string {
  return toHex(sha256(bytes).subarray(0, 16));
}
