/** Forks: a session up to a turn as another session, and its cache with it. */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { ForkSessionResponseSchema } from "../../gen/leanedge/v1/session_pb.js";
import type { ForkSessionRequest, ForkSessionResponse } from "../../gen/leanedge/v1/session_pb.js";
import { errorFields } from "../../log/log-line.js";
import { alreadyExists, failedPrecondition, unavailable } from "../errors.js";
import { workerUnaryTimeoutMs } from "../limits.js";
import { log } from "../log.js";
import { engineDirectory } from "../worker-client/directory.js";
import type { WorkerPlace } from "../worker-client/directory.js";
import { namePrefix } from "../worker-client/segments.js";
import { copySession, storeCopy } from "./session-copy.js";
import type { SessionCopy } from "./session-copy.js";
import { sessionPlace } from "./session-name.js";
import type { SessionCall } from "./session-name.js";
import { existingSession } from "./session-parts.js";
import type { SessionParts } from "./session-parts.js";
import type { SessionRecord } from "./session-records.js";
import { sessionView } from "./session-views.js";
import { Stop } from "./stop.js";
import { objectNamed } from "../processes/objects.js";
/** The target of a fork. */
export interface ForkTarget {
  /** It is the fork that was asked for. */
  readonly taken: boolean;
  /** leanedge.v1.ForkSessionResponse, as bytes. */
  readonly view: Uint8Array;
  /** Name of its sequence on workers. */
  readonly sequenceId: string;
}

/** See the head of this file. */
export class SessionForks {
  readonly #parts: SessionParts;

  /** Does nothing yet. */
  constructor(parts: SessionParts) {
    this.#parts = parts;
  }

  /** What this session is to a fork of another one; undefined if it does not exist yet. */
  forkedFrom(sessionId: string, turn: number): ForkTarget | undefined {
    this.#parts.store.commit();
    const existing = this.#parts.store.session();
    return existing === undefined
      ? undefined
      : {
          taken: existing.forkedFrom === sessionId && existing.forkedTurn === turn,
          view: toBinary(ForkSessionResponseSchema, this.#view(existing)),
          sequenceId: this.#parts.sequenceId(),
        };
  }

  /** Takes a copy of another session of the same tenant, as the target of a fork. */
  async importCopy(copy: SessionCopy): Promise<ForkTarget> {
    const existing = this.forkedFrom(copy.forkedFrom, copy.forkedTurn);
    if (existing !== undefined) {
      return existing;
    }
    storeCopy(this.#parts.store, copy, this.#parts.clock.nowMs());
    await this.#parts.store.sync();
    this.#parts.changed();
    return {
      taken: true,
      view: toBinary(
        ForkSessionResponseSchema,
        this.#view(existingSession(this.#parts.store, copy.sessionId)),
      ),
      sequenceId: this.#parts.sequenceId(),
    };
  }

  /** ForkSession. */
  async fork(call: SessionCall, request: ForkSessionRequest): Promise<ForkSessionResponse> {
    if (request.newSessionId === call.sessionId) {
      existingSession(this.#parts.store, call.sessionId);
      throw alreadyExists(`session "${call.sessionId}" cannot be forked into itself`);
    }
    this.#source(call, request);
    const { env } = this.#parts;
    const { sessionId, tenant } = call;
    const place = sessionPlace(env, tenant, request.newSessionId);
    const stub = objectNamed(env, "SESSION", place);
    const from = { sessionId, turn: request.turn };
    let result = await ofTarget(stub.forkedFrom(tenant, request.newSessionId, from));
    if (result === undefined) {
      await this.#parts.limits.reserveSession(call.key, call.tenant, request.newSessionId);
      // It may have been deleted meanwhile.
      const session = this.#source(call, request);
      const copy = copySession(
        this.#parts.store,
        session,
        request.turn,
        request.newSessionId,
        call.key?.keyId ?? "",
      );
      result = await ofTarget(stub.importCopy(copy));
      if (result.taken) {
        await this.#shareCache(session, request.turn, copy, result.sequenceId);
      }
    }
    if (!result.taken) {
      throw alreadyExists(
        `session "${request.newSessionId}" exists and is no fork of turn ${request.turn}`,
      );
    }
    return fromBinary(ForkSessionResponseSchema, result.view);
  }

  /** The session, whose turn can be forked. Throws where it cannot. */
  #source(call: SessionCall, request: ForkSessionRequest): SessionRecord {
    const session = existingSession(this.#parts.store, call.sessionId);
    const running = this.#parts.store.runningTurn();
    const last = this.#parts.store.lastTurn();
    if (request.turn > last) {
      throw failedPrecondition(`turn ${request.turn} does not exist, the last turn is ${last}`);
    }
    if (running !== undefined && running.number === request.turn) {
      throw failedPrecondition(`turn ${request.turn} has not ended`);
    }
    return session;
  }

  /**
   * Lets the worker share the cache with the fork. Where it has lost it, the fork begins with the saved one; otherwise the
   * fork's first turn replays the log.
   */
  async #shareCache(
    session: SessionRecord,
    turn: number,
    { worker, address }: WorkerPlace,
    newSequenceId: string,
  ): Promise<void> {
    const segments = this.#parts.store.segmentsUpTo(turn);
    const client =
      worker === "" ? undefined : engineDirectory(this.#parts.env).open(worker, address);
    if (client === undefined || segments.length === 0) {
      return;
    }
    const prefix = namePrefix(segments, session.fingerprints);
    let shared = 0;
    try {
      const { cachedTokens } = await client.fork(
        { sequenceId: this.#parts.sequenceId(), prefix, newSequenceId },
        { timeoutMs: workerUnaryTimeoutMs },
      );
      shared = cachedTokens;
    } catch (error) {
      log("info", "fork.not_shared", { turn, ...errorFields(error) });
      if (!(error instanceof ConnectError) || error.code !== Code.NotFound) {
        return;
      }
    }
    const saved = this.#parts.snapshots.usableTokens();
    if (saved > shared && saved <= prefix.tokens) {
      // Under the fork's own name, and older than its first turn, which may come meanwhile.
      await this.#parts.snapshots.restore(client, 0, new Stop(), newSequenceId);
    }
  }

  #view(session: SessionRecord): ForkSessionResponse {
    return create(ForkSessionResponseSchema, { session: sessionView(this.#parts.store, session) });
  }
}

/** What the target's object says. One that was lost is UNAVAILABLE to the caller: who forks again finds the fork, or makes it. */
async function ofTarget<T>(said: Promise<T>): Promise<T> {
  try {
    return await said;
  } catch (error) {
    log("warn", "fork.target_lost", errorFields(error));
    throw unavailable("the object of the new session restarted; the call may be retried");
  }
}
