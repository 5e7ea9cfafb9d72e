/**
 * The Durable Object of sessions: of one, or of many that share it (shared-sessions.ts), as the configuration says
 * (LEANEDGE_SESSION_OBJECTS). What a session does is session.ts's.
 */
import { DurableObject } from "cloudflare:workers";
import type { GatewayEnv } from "../bindings.js";
import { handedHeader, notHandedHeader, takeHanded } from "./hand-over.js";
import { ObjectClock } from "./object-clock.js";
import { Session } from "./session.js";
import type { SessionCopy } from "./session-copy.js";
import type { ForkTarget } from "./session-forks.js";
import { onlySession } from "./session-key.js";
import { callHeader, readSessionCall, sharesObjects } from "./session-name.js";
import { SessionTables } from "./session-tables.js";
import { SharedSessions } from "./shared-sessions.js";

/** The sessions of an object. */
export interface KeptSessions {
  /** Works with a tenant's session, which need not exist yet. */
  of<T>(tenant: string, sessionId: string, work: (session: Session) => Promise<T>): Promise<T>;
  /** Works with the session of a sequence on workers, if it is still here. */
  ofSequence(sequenceId: string, work: (session: Session) => Promise<void>): Promise<void>;
  /** The object's alarm came. */
  alarm(): Promise<void>;
}

/** See the head of this file. */
export class SessionObject extends DurableObject<GatewayEnv> {
  readonly #sessions: KeptSessions;

  constructor(ctx: DurableObjectState, env: GatewayEnv) {
    super(ctx, env);
    this.#sessions = sharesObjects(env) ? new SharedSessions(ctx, env) : onlySessionOf(ctx, env);
  }

  /** One call, as session-wire.ts describes, or hand-over.ts; the client is session-client.ts. */
  override fetch(request: Request): Promise<Response> {
    const number = request.headers.get(handedHeader);
    if (number !== null) {
      const handed = takeHanded(number);
      if (handed === undefined) {
        return Promise.resolve(new Response(null, { headers: { [notHandedHeader]: "1" } }));
      }
      const { tenant, sessionId } = handed.call;
      return this.#sessions.of(tenant, sessionId, (session) =>
        session.turn(handed.call, handed.request, request.signal),
      );
    }
    const call = readSessionCall(request.headers.get(callHeader) ?? "");
    return this.#sessions.of(call.tenant, call.sessionId, (session) => session.call(call, request));
  }

  /** What a session is to a fork of another one of its tenant; undefined if it does not exist yet. */
  forkedFrom(
    tenant: string,
    sessionId: string,
    from: { readonly sessionId: string; readonly turn: number },
  ): Promise<ForkTarget | undefined> {
    return this.#sessions.of(tenant, sessionId, (session) =>
      Promise.resolve(session.forkedFrom(from.sessionId, from.turn)),
    );
  }

  /** Takes a copy of another session of the same tenant, as the target of a fork. */
  importCopy(copy: SessionCopy): Promise<ForkTarget> {
    return this.#sessions.of(copy.tenant, copy.sessionId, (session) => session.importCopy(copy));
  }

  /** Name of a session's sequence on workers. */
  sequenceId(tenant: string, sessionId: string): Promise<string> {
    return this.#sessions.of(tenant, sessionId, (session) => Promise.resolve(session.sequenceId()));
  }

  /** Saves the cache of a sequence, which a worker must drop for others. */
  saveCache(sequenceId: string): Promise<void> {
    return this.#sessions.ofSequence(sequenceId, (session) => session.saveCache(sequenceId));
  }

  override alarm(): Promise<void> {
    return this.#sessions.alarm();
  }
}

/** The session of an object that has one. */
function onlySessionOf(ctx: DurableObjectState, env: GatewayEnv): KeptSessions {
  const { storage } = ctx;
  const session = new Session(env, {
    ...{ storage, key: onlySession, tables: new SessionTables(storage) },
    clock: new ObjectClock(),
    sequencePrefix: ctx.id.toString(),
    // Where it is not stored the object itself is lost.
    setAlarm: (dueMs) => ctx.waitUntil(storage.setAlarm(dueMs)),
    waitUntil: (work) => ctx.waitUntil(work),
  });
  return {
    of: (_tenant, _sessionId, work) => work(session),
    ofSequence: (_sequenceId, work) => work(session),
    alarm: () => session.alarm(),
  };
}
