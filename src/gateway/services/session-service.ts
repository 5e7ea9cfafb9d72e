/** leanedge.v1.SessionService: checks what does not depend on a session's state, then asks its object. */
import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect";
import {
  CreateSessionRequestSchema,
  ForkSessionRequestSchema,
  GenerateRequestSchema,
  ListSessionsResponseSchema,
  SessionSchema,
} from "../../gen/leanedge/v1/session_pb.js";
import type { Session, SessionService } from "../../gen/leanedge/v1/session_pb.js";
import type { GatewayEnv } from "../bindings.js";
import { getCall, getTenant } from "../connect/call.js";
import type { CallKey } from "../connect/call.js";
import { invalidArgument } from "../errors.js";
import { getCaller } from "../keys/caller.js";
import { sessionsPageSizeDefault } from "../limits.js";
import { readPageToken, writePageToken } from "../objects/page-token.js";
import { watchAnswer, watchHead } from "../metrics/watch-answer.js";
import { checkPageSize, checkSessionId } from "../objects/request-rules.js";
import { SessionClient } from "../objects/session-client.js";
import type { SessionCaller } from "../objects/session-client.js";
import type { IndexEntry } from "../objects/index-entry.js";
import type { IndexPosition } from "../objects/tenant-object.js";
import { copyRateHeaders } from "../rate/rate-headers.js";
import { withRetryInfo } from "../connect/retry-info.js";
import { newSessionId } from "../objects/new-session-id.js";
import { objectNamed } from "../processes/objects.js";

const sessionsList = "sessions";

/** The service; `key` finds the HTTP request that carries a call. */
export function createSessionService(key: CallKey<GatewayEnv>): ServiceImpl<typeof SessionService> {
  /** @param signal ends the call; that of the handler, unless its answer outlives it */
  function open(
    sessionId: string,
    context: HandlerContext,
    signal: AbortSignal = context.signal,
  ): SessionClient {
    checkSessionId(sessionId);
    const call = getCall(context, key);
    const caller: SessionCaller = {
      tenant: getTenant(context, key),
      requestId: call.requestId,
      signal,
      key: getCaller(context),
      onHead: (head) =>
        copyRateHeaders(head, (name, value) => context.responseHeader.set(name, value)),
    };
    return new SessionClient(call.env, caller, sessionId);
  }
  function newId(context: HandlerContext): string {
    return newSessionId(getCall(context, key).env, getTenant(context, key));
  }

  return {
    createSession(request, context) {
      const sessionId = request.sessionId === "" ? newId(context) : request.sessionId;
      return open(sessionId, context).createSession(
        create(CreateSessionRequestSchema, { ...request, sessionId }),
      );
    },
    getSession(request, context) {
      return open(request.sessionId, context).getSession();
    },
    async listSessions(request, context) {
      const limit = checkPageSize(request.pageSize, sessionsPageSizeDefault);
      const after = request.pageToken === "" ? undefined : readPosition(request.pageToken);
      const { env } = getCall(context, key);
      const index = objectNamed(env, "TENANT", getTenant(context, key));
      // One more than asked for tells whether there is another page.
      const entries = await index.list(limit + 1, after);
      const page = entries.slice(0, limit);
      const last = page.at(-1);
      return create(ListSessionsResponseSchema, {
        sessions: page.map(sessionOf),
        nextPageToken:
          entries.length > limit && last !== undefined
            ? writePageToken(sessionsList, [last.updateMs, last.sessionId])
            : "",
      });
    },
    listMessages(request, context) {
      return open(request.sessionId, context).listMessages(request);
    },
    async *generate(request, context) {
      const call = getCall(context, key);
      const watched = { env: call.env, lifetime: call.lifetime, protocol: context.protocolName };
      try {
        const asked = create(GenerateRequestSchema, request);
        const { streamForm } = call;
        if (streamForm === undefined) {
          const answer = open(request.sessionId, context).generate(asked);
          yield* watchAnswer(answer, watched);
          return;
        }
        call.passed = await watchHead(watched, () =>
          open(request.sessionId, context, call.left).pass(asked, streamForm, context.timeoutMs()),
        );
      } catch (error) {
        throw withRetryInfo(error);
      }
    },
    cancelTurn(request, context) {
      return open(request.sessionId, context).cancelTurn(request);
    },
    forkSession(request, context) {
      const forkId = request.newSessionId === "" ? newId(context) : request.newSessionId;
      checkSessionId(forkId, "new_session_id");
      return open(request.sessionId, context).forkSession(
        create(ForkSessionRequestSchema, { ...request, newSessionId: forkId }),
      );
    },
    deleteSession(request, context) {
      return open(request.sessionId, context).deleteSession();
    },
  };
}

function readPosition(token: string): IndexPosition {
  const [updateMs, sessionId] = readPageToken(sessionsList, token);
  if (typeof updateMs !== "number" || typeof sessionId !== "string") {
    throw invalidArgument("page_token was not given out by this list");
  }
  return { updateMs, sessionId };
}

function sessionOf(entry: IndexEntry): Session {
  return create(SessionSchema, {
    sessionId: entry.sessionId,
    model: entry.model,
    title: entry.title,
    createTime: timestampFromMs(entry.createMs),
    updateTime: timestampFromMs(entry.updateMs),
    lastTurn: entry.lastTurn,
    runningTurn: entry.runningTurn,
    messageCount: entry.messageCount,
    forkedFrom: entry.forkedFrom,
  });
}
