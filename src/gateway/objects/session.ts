/**
 * One session. Owns its transcript, turns, log of token ids and binding (session-schema.ts), in the object that keeps it
 * (session-object.ts). Its turns are session-turns.ts's, its forks session-forks.ts's; here are its calls, its alarm and its life.
 *
 * Survives eviction: everything but the streams that are open, the attempt that is under way, and what a running turn came to in its
 * last storeBehindMs, which is computed again. A turn that was running is taken up by the next Generate that names it, or by the
 * alarm if it is detached.
 *
 * The alarm runs while a turn does (turnWatchMs), to take up or end a turn that lost its object, where the tenant's index could not
 * be told (indexRetryMs) or this object was lost before it did (indexLostMs), and once a session was idle for a while, to save its
 * cache.
 */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type { DescMessage, MessageShape } from "@bufbuild/protobuf";
import { ConnectError } from "@connectrpc/connect";
import {
  CancelTurnRequestSchema,
  CancelTurnResponseSchema,
  CreateSessionRequestSchema,
  CreateSessionResponseSchema,
  DeleteSessionRequestSchema,
  DeleteSessionResponseSchema,
  ForkSessionRequestSchema,
  ForkSessionResponseSchema,
  GenerateRequestSchema,
  GetSessionRequestSchema,
  GetSessionResponseSchema,
  ListMessagesRequestSchema,
  ListMessagesResponseSchema,
} from "../../gen/leanedge/v1/session_pb.js";
import type {
  CancelTurnRequest,
  CancelTurnResponse,
  CreateSessionRequest,
  CreateSessionResponse,
  GenerateRequest,
  GetSessionResponse,
  ListMessagesRequest,
  ListMessagesResponse,
} from "../../gen/leanedge/v1/session_pb.js";
import { errorFields } from "../../log/log-line.js";
import { log } from "../log.js";
import type { GatewayEnv } from "../bindings.js";
import { findModel, gatewayConfig } from "../config.js";
import { alreadyExists, invalidArgument, notFound, publicError } from "../errors.js";
import { isConfigured, keyEnd } from "../keys/key-standing.js";
import { messagesPageSizeDefault, turnWatchMs } from "../limits.js";
import { flushSoon } from "../metrics/isolate-meter.js";
import { engineDirectory } from "../worker-client/directory.js";
import type { Clock } from "./clock.js";
import { KeyGuard } from "./key-guard.js";
import { releaseSequence } from "./left-workers.js";
import { readPageToken, writePageToken } from "./page-token.js";
import { checkPageSize, checkTitle } from "./request-rules.js";
import type { SessionCopy } from "./session-copy.js";
import { SessionForks } from "./session-forks.js";
import type { ForkTarget } from "./session-forks.js";
import type { SessionHome } from "./session-home.js";
import { SessionIndexer } from "./session-indexer.js";
import { SessionLimits } from "./session-limits.js";
import { sequenceName } from "./session-name.js";
import type { SessionCall } from "./session-name.js";
import { existingSession, releaseOptions } from "./session-parts.js";
import type { SessionParts } from "./session-parts.js";
import { SessionSnapshots } from "./session-snapshots.js";
import { SessionStore } from "./session-store.js";
import { SessionTurns } from "./session-turns.js";
import { StoreBehind } from "./store-behind.js";
import { messagesPage, sessionView } from "./session-views.js";
import { encodeErrorFrame, encodeFrame, frameKind } from "./session-wire.js";
import { objectNamed } from "../processes/objects.js";

const messagesList = "messages";

/** See the head of this file. */
export class Session {
  readonly #env: GatewayEnv;
  readonly #home: SessionHome;
  readonly #store: SessionStore;
  readonly #clock: Clock;
  readonly #indexer: SessionIndexer;
  readonly #snapshots: SessionSnapshots;
  readonly #limits: SessionLimits;
  readonly #behind: StoreBehind;
  readonly #parts: SessionParts;
  readonly #turns: SessionTurns;
  readonly #forks: SessionForks;
  /** When the alarm comes; Infinity: it is not known to come. It may come earlier than something is due, and never later. */
  #alarmMs = Infinity;

  /** Reads and stores nothing yet. */
  constructor(env: GatewayEnv, home: SessionHome) {
    this.#env = env;
    this.#home = home;
    this.#clock = home.clock;
    this.#store = new SessionStore(home.storage, home.key, home.tables, home.commits);
    const tenants = (tenant: string) => objectNamed(env, "TENANT", tenant);
    this.#indexer = new SessionIndexer(this.#store, tenants, this.#clock);
    this.#snapshots = new SessionSnapshots({
      store: this.#store,
      directory: () => engineDirectory(env),
      sequenceId: () => this.sequenceId(),
    });
    this.#limits = new SessionLimits(env, this.#clock);
    this.#behind = new StoreBehind({
      store: this.#store,
      clock: this.#clock,
      before: () => this.#watch(),
      after: () => this.#changed(),
    });
    this.#parts = {
      ...{ env, ctx: home, store: this.#store, clock: this.#clock },
      ...{ snapshots: this.#snapshots, limits: this.#limits },
      keys: new KeyGuard({
        keyEnd: (keyId) => keyEnd(keyId, env),
        lasts: (keyId) => isConfigured(keyId, env),
        clock: this.#clock,
        background: (work) => home.waitUntil(work),
      }),
      sequenceId: () => this.sequenceId(),
      changed: () => this.#changed(),
      storeNow: () => this.#behind.now(),
    };
    this.#turns = new SessionTurns(this.#parts);
    this.#forks = new SessionForks(this.#parts);
  }

  /** One call, as session-wire.ts describes; the client is session-client.ts. */
  call(call: SessionCall, request: Request): Promise<Response> {
    return this.#answered(call, async (head) => {
      const body = new Uint8Array(await request.arrayBuffer());
      return this.#dispatch(call, body, request.signal, head);
    });
  }

  /** A Generate or Chat whose request is here already. */
  turn(call: SessionCall, request: GenerateRequest, signal: AbortSignal): Promise<Response> {
    return this.#answered(call, (head) => this.#turn(call, request, signal, head));
  }

  #turn(
    call: SessionCall,
    request: GenerateRequest,
    signal: AbortSignal,
    head: Map<string, string>,
  ): Promise<Response> {
    return call.method === "Chat"
      ? this.#turns.chat(call, request, signal, head)
      : this.#turns.generate(call, request, signal, head);
  }

  /** @param work gets headers of the answer, also of one that is an error */
  async #answered(
    call: SessionCall,
    work: (head: Map<string, string>) => Promise<Response>,
  ): Promise<Response> {
    const head = new Map<string, string>();
    try {
      return await work(head);
    } catch (error) {
      if (!(error instanceof ConnectError)) {
        log("error", "call.failed", {
          request_id: call.requestId,
          method: call.method,
          ...errorFields(error, "stack"),
        });
      }
      flushSoon(this.#env, this.#home);
      return new Response(encodeErrorFrame(publicError(error)), {
        headers: Object.fromEntries(head),
      });
    }
  }

  /** Nothing of it is under way: memory may forget it. */
  get idle(): boolean {
    return this.#turns.idle && !this.#store.waiting;
  }

  /** Deletes what may be left of it once it is gone. */
  erase(): void {
    this.#store.erase();
  }

  /** There is none, and nobody is to be told that it is gone. */
  get gone(): boolean {
    return this.#store.session() === undefined && this.#store.deletion() === undefined;
  }

  /** What this session is to a fork of another one; undefined if it does not exist yet. */
  forkedFrom(sessionId: string, turn: number): ForkTarget | undefined {
    return this.#forks.forkedFrom(sessionId, turn);
  }

  /** Takes a copy of another session of the same tenant, as the target of a fork. */
  importCopy(copy: SessionCopy): Promise<ForkTarget> {
    return this.#forks.importCopy(copy);
  }

  /** Name of this session's sequence on workers; another one for each life of a session id. */
  sequenceId(): string {
    return sequenceName(this.#home.sequencePrefix, this.#store.session()?.createMs ?? 0);
  }

  /** Saves the cache, which a worker must drop for others. */
  async saveCache(sequenceId: string): Promise<void> {
    if (sequenceId === this.sequenceId()) {
      await this.#snapshots.save();
    }
  }

  /** The alarm came. */
  async alarm(): Promise<void> {
    this.#alarmMs = Infinity;
    await this.#turns.takeUp();
    const saveDueMs = this.#store.cache.saveDueMs();
    if (saveDueMs !== undefined && saveDueMs <= this.#clock.nowMs()) {
      await this.#snapshots.save();
    }
    await this.#indexer.push();
    this.#watch();
  }

  /** @param head headers of the answer, also of one that is an error */
  async #dispatch(
    call: SessionCall,
    body: Uint8Array,
    signal: AbortSignal,
    head: Map<string, string>,
  ): Promise<Response> {
    switch (call.method) {
      case "CreateSession":
        return this.#unary(CreateSessionResponseSchema, () =>
          this.#createSession(call, fromBinary(CreateSessionRequestSchema, body)),
        );
      case "GetSession":
        fromBinary(GetSessionRequestSchema, body);
        return this.#unary(GetSessionResponseSchema, () => this.#getSession(call));
      case "ListMessages":
        return this.#unary(ListMessagesResponseSchema, () =>
          this.#listMessages(call, fromBinary(ListMessagesRequestSchema, body)),
        );
      case "CancelTurn":
        return this.#unary(CancelTurnResponseSchema, () =>
          this.#cancelTurn(call, fromBinary(CancelTurnRequestSchema, body)),
        );
      case "ForkSession":
        return this.#unary(ForkSessionResponseSchema, () =>
          this.#forks.fork(call, fromBinary(ForkSessionRequestSchema, body)),
        );
      case "DeleteSession":
        fromBinary(DeleteSessionRequestSchema, body);
        return this.#unary(DeleteSessionResponseSchema, async () => {
          await this.#deleteSession();
          return create(DeleteSessionResponseSchema);
        });
      case "Generate":
      case "Chat":
        return this.#turn(call, fromBinary(GenerateRequestSchema, body), signal, head);
      default:
        throw new Error(`there is no call ${call.method}`);
    }
  }

  async #unary<Desc extends DescMessage>(
    schema: Desc,
    handler: () => MessageShape<Desc> | Promise<MessageShape<Desc>>,
  ): Promise<Response> {
    const message = encodeFrame(frameKind.message, toBinary(schema, await handler()));
    if (this.#store.waiting) {
      // What a caller is told must be stored. Turns see to it themselves.
      await this.#behind.now();
    }
    const end = encodeFrame(frameKind.end, new Uint8Array(0));
    return new Response(new Blob([message, end]));
  }

  async #createSession(
    call: SessionCall,
    request: CreateSessionRequest,
  ): Promise<CreateSessionResponse> {
    checkTitle(request.title);
    const model = findModel(gatewayConfig(this.#env), request.model)?.model;
    if (model === undefined) {
      throw notFound(`there is no model "${request.model}"`);
    }
    if (this.#store.session() === undefined) {
      await this.#limits.reserveSession(call.key, call.tenant, call.sessionId);
    }
    const existing = this.#store.session();
    if (existing === undefined) {
      const nowMs = this.#clock.nowMs();
      this.#store.atomically(() => {
        this.#store.insertSession({
          tenant: call.tenant,
          sessionId: call.sessionId,
          model,
          title: request.title,
          titleGiven: request.title !== "",
          implicit: false,
          nowMs,
          keyId: call.key?.keyId ?? "",
        });
        this.#store.touch(nowMs);
      });
      this.#changed();
    } else {
      const title = existing.titleGiven ? existing.title : "";
      if (existing.model !== model || title !== request.title || existing.forkedFrom !== "") {
        throw alreadyExists(`session "${call.sessionId}" exists with other fields`);
      }
    }
    return create(CreateSessionResponseSchema, {
      session: sessionView(this.#store, existingSession(this.#store, call.sessionId)),
    });
  }

  #getSession(call: SessionCall): GetSessionResponse {
    return create(GetSessionResponseSchema, {
      session: sessionView(this.#store, existingSession(this.#store, call.sessionId)),
    });
  }

  #listMessages(call: SessionCall, request: ListMessagesRequest): ListMessagesResponse {
    existingSession(this.#store, call.sessionId);
    const limit = checkPageSize(request.pageSize, messagesPageSizeDefault);
    let from = 0;
    if (request.pageToken !== "") {
      const [position] = readPageToken(messagesList, request.pageToken);
      if (typeof position !== "number") {
        throw invalidArgument("page_token was not given out by this list");
      }
      from = position;
    }
    const page = messagesPage(this.#store, from, limit);
    return create(ListMessagesResponseSchema, {
      messages: page.messages,
      nextPageToken: page.next === undefined ? "" : writePageToken(messagesList, [page.next]),
    });
  }

  async #cancelTurn(call: SessionCall, request: CancelTurnRequest): Promise<CancelTurnResponse> {
    existingSession(this.#store, call.sessionId);
    const running = this.#store.runningTurn();
    if (request.turn === 0 ? running === undefined : running?.number !== request.turn) {
      if (request.turn !== 0 && this.#store.turn(request.turn) === undefined) {
        throw notFound(`session "${call.sessionId}" has no turn ${request.turn}`);
      }
      return create(CancelTurnResponseSchema, { cancelled: false });
    }
    return create(CancelTurnResponseSchema, { cancelled: await this.#turns.stop() });
  }

  async #deleteSession(): Promise<void> {
    const session = this.#store.session();
    if (session === undefined) {
      return;
    }
    await this.#turns.stop();
    this.#home.waitUntil(releaseSequence(releaseOptions(this.#parts)));
    const nowMs = this.#clock.nowMs();
    this.#store.atomically(() => this.#store.deleteSession(nowMs));
    await this.#store.sync();
    this.#turns.wake();
    this.#watch();
    if (!(await this.#indexer.push())) {
      this.#watch();
    }
  }

  /** Something changed that the index should know; it follows in its own time. */
  #changed(): void {
    this.#watch();
    const told = this.#indexer.pushSoon()?.then((pushed) => {
      if (!pushed) {
        this.#watch();
      }
    });
    if (told !== undefined) {
      this.#home.waitUntil(told);
    }
  }

  /** Sets the one alarm where the next thing is due before it comes. */
  #watch(): void {
    const nowMs = this.#clock.nowMs();
    const watchMs = this.#store.runningTurn() === undefined ? undefined : turnWatchMs;
    const saveDueMs = this.#store.cache.saveDueMs();
    const saveMs =
      saveDueMs === undefined || watchMs !== undefined ? undefined : Math.max(0, saveDueMs - nowMs);
    const due = [watchMs, this.#indexer.retryMs, saveMs].filter((ms) => ms !== undefined);
    const dueMs = nowMs + Math.min(...due);
    if (dueMs < this.#alarmMs) {
      this.#alarmMs = dueMs;
      this.#home.setAlarm(dueMs);
    }
  }
}
