/**
 * One session. Owns its transcript, turns, log of token ids and binding (session-schema.ts), and runs its turns.
 *
 * Survives eviction: everything but the streams that are open and the attempt that is under way. A turn that was running
 * is taken up by the next Generate that names it, or by the alarm if it is detached.
 *
 * The alarm runs while a turn does (turnWatchMs), to take up or end a turn that lost its object, while the tenant's
 * index is behind (indexRetryMs), to bring it up to date, and once a session was idle for a while, to save its cache.
 */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type { DescMessage, MessageShape } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { DurableObject } from "cloudflare:workers";
import {
  CancelTurnRequestSchema,
  CancelTurnResponseSchema,
  CreateSessionRequestSchema,
  CreateSessionResponseSchema,
  DeleteSessionRequestSchema,
  DeleteSessionResponseSchema,
  FinishReason,
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
  ForkSessionRequest,
  ForkSessionResponse,
  GenerateRequest,
  GetSessionResponse,
  ListMessagesRequest,
  ListMessagesResponse,
  Message,
} from "../../gen/leanedge/v1/session_pb.js";
import { errorFields } from "../../log/log-line.js";
import { log } from "../log.js";
import type { GatewayEnv } from "../bindings.js";
import { modelDefaults } from "../catalogue.js";
import { findModel, gatewayConfig } from "../config.js";
import {
  alreadyExists,
  failedPrecondition,
  invalidArgument,
  notFound,
  publicError,
} from "../errors.js";
import {
  messagesPageSizeDefault,
  orphanedTurnMs,
  turnWatchMs,
  workerUnaryTimeoutMs,
} from "../limits.js";
import { keyEnd } from "../keys/key-standing.js";
import { flushSoon } from "../metrics/isolate-meter.js";
import { turnEnded, turnRefused } from "../metrics/turn-end.js";
import { engineDirectory } from "../worker-client/directory.js";
import type { WorkerPlace } from "../worker-client/directory.js";
import { namePrefix } from "../worker-client/segments.js";
import { ChangeBell, checkOffset, shownBytes, streamAnswer } from "./answer-stream.js";
import { AnswerStreams } from "./answer-streams.js";
import { systemClock } from "./clock.js";
import type { Clock } from "./clock.js";
import { matchHistory } from "./history-match.js";
import { KeyGuard } from "./key-guard.js";
import { readPageToken, writePageToken } from "./page-token.js";
import { checkPageSize, checkSampling, checkTitle } from "./request-rules.js";
import { copySession, storeCopy } from "./session-copy.js";
import type { SessionCopy } from "./session-copy.js";
import { releaseLeft, releaseSequence } from "./left-workers.js";
import type { ReleaseOptions } from "./left-workers.js";
import {
  parseSessionUrl,
  sequenceName,
  sessionObjectName,
  workerBeforeHeader,
} from "./session-name.js";
import type { SessionCall } from "./session-name.js";
import type { ChatRedirect } from "./session-client.js";
import { SessionIndexer } from "./session-indexer.js";
import { SessionLimits } from "./session-limits.js";
import { SessionSnapshots } from "./session-snapshots.js";
import { SessionStore } from "./session-store.js";
import type { SessionRecord, TurnRecord } from "./session-records.js";
import { messagesPage, sessionView } from "./session-views.js";
import { encodeErrorFrame, encodeFrame, encodeJsonFrame, frameKind } from "./session-wire.js";
import { TurnRunner } from "./turn-runner.js";
import { beginsTurn, startTurn } from "./turn-start.js";
import type { TurnStart } from "./turn-start.js";
import { readTicket } from "./turn-ticket.js";
import type { TurnTicket } from "./turn-ticket.js";

const messagesList = "messages";

/** The target of a fork. */
export interface ForkTarget {
  /** It is the fork that was asked for. */
  readonly taken: boolean;
  /** leanedge.v1.ForkSessionResponse, as bytes. */
  readonly view: Uint8Array;
  /** Name of its sequence on workers. */
  readonly sequenceId: string;
}

/** What a call of Generate or Chat means, as things stand. */
type CallPlan =
  | { readonly redirect: ChatRedirect }
  | {
      /** Messages of the turn that it begins; undefined if it joins or replays one. */
      readonly begins: readonly Message[] | undefined;
      readonly start: (ticket: TurnTicket | undefined) => StartedCall;
    };

/** A call that has its answer. */
interface StartedCall {
  readonly response: Response;
  /** It began a turn. */
  readonly begun: boolean;
}

/** What it takes to start a call. */
interface StartOptions {
  readonly call: SessionCall;
  readonly request: GenerateRequest;
  readonly signal: AbortSignal;
  /** Headers of the answer. */
  readonly head: Headers;
  /** What the turn keeps of the caller's key. */
  readonly ticket: TurnTicket | undefined;
  readonly form: { readonly history: boolean; readonly requestHash: Uint8Array };
}

/** See the head of this file. */
export class SessionObject extends DurableObject<GatewayEnv> {
  readonly #store: SessionStore;
  readonly #bell = new ChangeBell();
  readonly #clock: Clock = systemClock;
  readonly #streams = new AnswerStreams((turn) => this.#lastLeft(turn));
  readonly #indexer: SessionIndexer;
  readonly #snapshots: SessionSnapshots;
  readonly #keys: KeyGuard;
  readonly #limits: SessionLimits;
  #runner: TurnRunner | undefined;

  constructor(ctx: DurableObjectState, env: GatewayEnv) {
    super(ctx, env);
    this.#store = new SessionStore(ctx.storage);
    this.#indexer = new SessionIndexer(this.#store, env.TENANT);
    this.#snapshots = new SessionSnapshots({
      store: this.#store,
      directory: () => engineDirectory(env),
      sequenceId: () => this.sequenceId(),
    });
    this.#keys = new KeyGuard({
      keyEnd: (keyId) => keyEnd(keyId, env),
      clock: this.#clock,
      background: (work) => ctx.waitUntil(work),
    });
    this.#limits = new SessionLimits(env, this.#clock);
  }

  /** One call, as session-wire.ts describes; the client is session-client.ts. */
  override async fetch(request: Request): Promise<Response> {
    const call = parseSessionUrl(request.url);
    const head = new Headers();
    try {
      const body = new Uint8Array(await request.arrayBuffer());
      return await this.#dispatch(call, body, request.signal, head);
    } catch (error) {
      if (!(error instanceof ConnectError)) {
        log("error", "call.failed", {
          request_id: call.requestId,
          method: call.method,
          ...errorFields(error, "stack"),
        });
      }
      flushSoon(this.env, this.ctx);
      return new Response(encodeErrorFrame(publicError(error)), { headers: head });
    }
  }

  /** What this session is to a fork of another one; undefined if it does not exist yet. */
  forkedFrom(sessionId: string, turn: number): ForkTarget | undefined {
    const existing = this.#store.session();
    return existing === undefined
      ? undefined
      : {
          taken: existing.forkedFrom === sessionId && existing.forkedTurn === turn,
          view: toBinary(ForkSessionResponseSchema, this.#forkView(existing)),
          sequenceId: this.sequenceId(),
        };
  }

  /** Takes a copy of another session of the same tenant, as the target of a fork. */
  async importCopy(copy: SessionCopy): Promise<ForkTarget> {
    const existing = this.forkedFrom(copy.forkedFrom, copy.forkedTurn);
    if (existing !== undefined) {
      return existing;
    }
    storeCopy(this.#store, copy, this.#clock.nowMs());
    await this.#store.sync();
    await this.#changed();
    return {
      taken: true,
      view: toBinary(ForkSessionResponseSchema, this.#forkView(this.#session(copy.sessionId))),
      sequenceId: this.sequenceId(),
    };
  }

  /** Name of this session's sequence on workers; another one for each life of a session id. */
  sequenceId(): string {
    return sequenceName(this.ctx.id.toString(), this.#store.session()?.createMs ?? 0);
  }

  /** Saves the cache, which a worker must drop for others. */
  async saveCache(sequenceId: string): Promise<void> {
    if (sequenceId === this.sequenceId()) {
      await this.#snapshots.save();
    }
  }

  override async alarm(): Promise<void> {
    const turn = this.#store.runningTurn();
    if (turn !== undefined && this.#runner === undefined) {
      await this.#takeUp(turn);
    }
    const saveDueMs = this.#store.cache.saveDueMs();
    if (saveDueMs !== undefined && saveDueMs <= this.#clock.nowMs()) {
      await this.#snapshots.save();
    }
    await this.#pushIndex();
    await this.#setAlarm();
  }

  /** @param head headers of the answer, also of one that is an error */
  async #dispatch(
    call: SessionCall,
    body: Uint8Array,
    signal: AbortSignal,
    head: Headers,
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
          this.#forkSession(call, fromBinary(ForkSessionRequestSchema, body)),
        );
      case "DeleteSession":
        fromBinary(DeleteSessionRequestSchema, body);
        return this.#unary(DeleteSessionResponseSchema, async () => {
          await this.#deleteSession();
          return create(DeleteSessionResponseSchema);
        });
      case "Generate":
        return this.#generate(call, fromBinary(GenerateRequestSchema, body), signal, head);
      case "Chat":
        return this.#chat(call, fromBinary(GenerateRequestSchema, body), signal, head);
      default:
        throw new Error(`there is no call ${call.method}`);
    }
  }

  async #unary<Desc extends DescMessage>(
    schema: Desc,
    handler: () => MessageShape<Desc> | Promise<MessageShape<Desc>>,
  ): Promise<Response> {
    const message = encodeFrame(frameKind.message, toBinary(schema, await handler()));
    const end = encodeFrame(frameKind.end, new Uint8Array(0));
    return new Response(new Blob([message, end]));
  }

  #session(sessionId: string): SessionRecord {
    const session = this.#store.session();
    if (session === undefined) {
      throw notFound(`there is no session "${sessionId}"`);
    }
    return session;
  }

  async #createSession(
    call: SessionCall,
    request: CreateSessionRequest,
  ): Promise<CreateSessionResponse> {
    checkTitle(request.title);
    const model = findModel(gatewayConfig(this.env), request.model)?.model;
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
      await this.#changed();
    } else {
      const title = existing.titleGiven ? existing.title : "";
      if (existing.model !== model || title !== request.title || existing.forkedFrom !== "") {
        throw alreadyExists(`session "${call.sessionId}" exists with other fields`);
      }
    }
    return create(CreateSessionResponseSchema, {
      session: sessionView(this.#store, this.#session(call.sessionId)),
    });
  }

  #getSession(call: SessionCall): GetSessionResponse {
    return create(GetSessionResponseSchema, {
      session: sessionView(this.#store, this.#session(call.sessionId)),
    });
  }

  #listMessages(call: SessionCall, request: ListMessagesRequest): ListMessagesResponse {
    this.#session(call.sessionId);
    const limit = checkPageSize(request.pageSize, messagesPageSizeDefault);
    let from = 0;
    if (request.pageToken !== "") {
      const [position] = readPageToken(messagesList, request.pageToken);
      if (typeof position !== "number") {
        throw invalidArgument("page_token was not given out by this list");
      }
      from = position;
    }
    const page = messagesPage(this.#store, from, limit, this.#runner);
    return create(ListMessagesResponseSchema, {
      messages: page.messages,
      nextPageToken: page.next === undefined ? "" : writePageToken(messagesList, [page.next]),
    });
  }

  async #cancelTurn(call: SessionCall, request: CancelTurnRequest): Promise<CancelTurnResponse> {
    this.#session(call.sessionId);
    const running = this.#store.runningTurn();
    if (request.turn === 0 ? running === undefined : running?.number !== request.turn) {
      if (request.turn !== 0 && this.#store.turn(request.turn) === undefined) {
        throw notFound(`session "${call.sessionId}" has no turn ${request.turn}`);
      }
      return create(CancelTurnResponseSchema, { cancelled: false });
    }
    return create(CancelTurnResponseSchema, { cancelled: await this.#stopRunningTurn() });
  }

  /** Ends the running turn as cancelled. False if it ended in another way first. */
  async #stopRunningTurn(): Promise<boolean> {
    const turn = this.#store.runningTurn();
    if (turn === undefined) {
      return false;
    }
    if (this.#runner === undefined) {
      this.#endOrphan(turn);
      await this.#store.sync();
      await this.#changed();
      return true;
    }
    const runner = this.#runner;
    runner.cancel();
    await runner.done;
    return this.#store.turn(turn.number)?.finishReason === FinishReason.CANCELLED;
  }

  #endOrphan(turn: TurnRecord): void {
    const nowMs = this.#clock.nowMs();
    this.#store.atomically(() => {
      this.#store.endTurn(turn.number, {
        finishReason: FinishReason.CANCELLED,
        errorMessage: "",
        generatedTokens: undefined,
        cacheBytes: this.#store.session()?.cacheBytes ?? 0,
        nowMs,
      });
      this.#store.touch(nowMs);
    });
    this.#settle(turn.number, readTicket(turn.ticket));
    this.#bell.ring();
  }

  async #forkSession(call: SessionCall, request: ForkSessionRequest): Promise<ForkSessionResponse> {
    const session = this.#session(call.sessionId);
    if (request.newSessionId === call.sessionId) {
      throw alreadyExists(`session "${call.sessionId}" cannot be forked into itself`);
    }
    const running = this.#store.runningTurn();
    const last = this.#store.lastTurn();
    if (request.turn > last) {
      throw failedPrecondition(`turn ${request.turn} does not exist, the last turn is ${last}`);
    }
    if (running !== undefined && running.number === request.turn) {
      throw failedPrecondition(`turn ${request.turn} has not ended`);
    }
    const stub = this.env.SESSION.getByName(sessionObjectName(call.tenant, request.newSessionId));
    let result = await stub.forkedFrom(call.sessionId, request.turn);
    if (result === undefined) {
      await this.#limits.reserveSession(call.key, call.tenant, request.newSessionId);
      const copy = copySession(
        this.#store,
        session,
        request.turn,
        request.newSessionId,
        call.key?.keyId ?? "",
      );
      result = await stub.importCopy(copy);
      if (result.taken) {
        await this.#forkCache(session, request.turn, copy, result.sequenceId);
      }
    }
    if (!result.taken) {
      throw alreadyExists(
        `session "${request.newSessionId}" exists and is no fork of turn ${request.turn}`,
      );
    }
    return fromBinary(ForkSessionResponseSchema, result.view);
  }

  /**
   * Lets the worker share the cache with the fork. Where it has lost it, the fork begins with the saved one; otherwise the
   * fork's first turn replays the log.
   */
  async #forkCache(
    session: SessionRecord,
    turn: number,
    { worker, address }: WorkerPlace,
    newSequenceId: string,
  ): Promise<void> {
    const segments = this.#store.segmentsUpTo(turn);
    const client = worker === "" ? undefined : engineDirectory(this.env).open(worker, address);
    if (client === undefined || segments.length === 0) {
      return;
    }
    const prefix = namePrefix(segments, session.fingerprints);
    let shared = 0;
    try {
      const { cachedTokens } = await client.fork(
        { sequenceId: this.sequenceId(), prefix, newSequenceId },
        { timeoutMs: workerUnaryTimeoutMs },
      );
      shared = cachedTokens;
    } catch (error) {
      log("info", "fork.not_shared", { turn, ...errorFields(error) });
      if (!(error instanceof ConnectError) || error.code !== Code.NotFound) {
        return;
      }
    }
    const saved = this.#snapshots.usableTokens();
    if (saved > shared && saved <= prefix.tokens) {
      // Under the fork's own name, and older than its first turn, which may come meanwhile.
      await this.#snapshots.restore(client, 0, new AbortController().signal, newSequenceId);
    }
  }

  #forkView(session: SessionRecord): ForkSessionResponse {
    return create(ForkSessionResponseSchema, { session: sessionView(this.#store, session) });
  }

  async #deleteSession(): Promise<void> {
    const session = this.#store.session();
    if (session === undefined) {
      return;
    }
    await this.#stopRunningTurn();
    this.ctx.waitUntil(releaseSequence(this.#releaseOptions()));
    const nowMs = this.#clock.nowMs();
    this.#store.atomically(() => this.#store.deleteSession(nowMs));
    await this.#store.sync();
    this.#bell.ring();
    await this.#pushIndex();
    await this.#setAlarm();
  }

  /** What it takes to tell workers to forget the sequence. */
  #releaseOptions(): ReleaseOptions {
    return {
      store: this.#store,
      sequenceId: this.sequenceId(),
      directory: engineDirectory(this.env),
    };
  }

  async #generate(
    call: SessionCall,
    request: GenerateRequest,
    signal: AbortSignal,
    head: Headers,
  ): Promise<Response> {
    if (request.sampling !== undefined) {
      checkSampling(request.sampling);
    }
    const form = { history: false, requestHash: new Uint8Array(0) };
    return this.#limited(call, request, head, () => ({
      begins: beginsTurn(request, this.#store) ? request.messages : undefined,
      start: (ticket) => this.#start({ call, request, signal, head, ticket, form }),
    }));
  }

  /** A request in OpenAI form: its whole history says which turn it means, or that it belongs to a fork. */
  async #chat(
    call: SessionCall,
    request: GenerateRequest,
    signal: AbortSignal,
    head: Headers,
  ): Promise<Response> {
    if (request.sampling !== undefined) {
      checkSampling(request.sampling);
    }
    const plan = (): CallPlan => {
      const match = matchHistory(this.#store, request, {
        idempotencyKey: call.idempotencyKey,
        sessionId: call.sessionId,
      });
      if (match.kind === "fork") {
        return { redirect: { turn: match.turn, sessionId: match.sessionId } };
      }
      const turnRequest = create(GenerateRequestSchema, {
        ...request,
        turn: match.turn,
        messages: match.messages,
      });
      const form = { history: true, requestHash: match.requestHash };
      return {
        begins: beginsTurn(turnRequest, this.#store) ? match.messages : undefined,
        start: (ticket) => this.#start({ call, request: turnRequest, signal, head, ticket, form }),
      };
    };
    return this.#limited(call, request, head, plan);
  }

  /** Starts what a call means once its key's limits allow it; what it means is asked again whenever time has passed. */
  async #limited(
    call: SessionCall,
    request: GenerateRequest,
    head: Headers,
    plan: () => CallPlan,
  ): Promise<Response> {
    const first = plan();
    if ("redirect" in first) {
      return redirectResponse(first.redirect);
    }
    if (this.#store.session() === undefined && request.turn <= 1) {
      await this.#limits.reserveSession(call.key, call.tenant, call.sessionId);
    }
    const { key, again = false } = call;
    const { maxTokens } = request.sampling ?? {};
    const started = await this.#limits.admitted({ key, maxTokens, again }, head, () => {
      const now = plan();
      return "redirect" in now
        ? {
            messages: undefined,
            begin: () => ({ response: redirectResponse(now.redirect), begun: false }),
          }
        : { messages: now.begins, begin: now.start };
    });
    if (started.begun) {
      this.ctx.waitUntil(this.#changed());
      // The client hears of the turn only once it is durable.
      await this.#store.sync();
    }
    return started.response;
  }

  #start({ call, request, signal, head, ticket, form }: StartOptions): StartedCall {
    const offset = Number(request.resumeOffset);
    const start = startTurn(request, {
      store: this.#store,
      tenant: call.tenant,
      sessionId: call.sessionId,
      requestId: call.requestId,
      nowMs: this.#clock.nowMs(),
      model: findModel(gatewayConfig(this.env), request.model)?.model,
      history: form.history,
      requestHash: form.requestHash,
      idempotencyKey: call.idempotencyKey,
      ticket,
      drawSeed: () => crypto.getRandomValues(new BigUint64Array(1))[0] ?? 0n,
    });
    const { turn } = start;
    if (turn.running && this.#runner === undefined) {
      this.#run(turn, start.begun);
    }
    checkOffset(this.#store, turn, offset, shownBytes(turn, this.#runnerOf(turn.number)));
    return { response: this.#answer(call, start, offset, signal, head), begun: start.begun };
  }

  #runnerOf(turn: number): TurnRunner | undefined {
    return this.#runner?.turn === turn ? this.#runner : undefined;
  }

  #run({ number, requestId, ticket: ticketText }: TurnRecord, fresh: boolean): void {
    const ticket = readTicket(ticketText);
    const directory = engineDirectory(this.env);
    // Beside the turn: a bound session waits for no pool.
    this.ctx.waitUntil(directory.refresh());
    const runner = new TurnRunner({
      store: this.#store,
      turn: number,
      fresh,
      directory,
      background: (work) => this.ctx.waitUntil(work),
      sequenceId: this.sequenceId(),
      samplingDefaults: async (model) => ({
        ...(await modelDefaults(this.env, model, this.#store.binding())),
        outputTokensMax: ticket?.outputTokens,
      }),
      contextTokensMax: ticket?.contextTokens,
      fallback: (model) => findModel(gatewayConfig(this.env), model)?.fallback,
      snapshots: this.#snapshots,
      clock: this.#clock,
      onChange: () => this.#bell.ring(),
    });
    this.#runner = runner;
    const over = new AbortController();
    const release = this.#keys.hold(ticket?.keyId ?? "", () => runner.cancel());
    this.ctx.waitUntil(this.#limits.keep(ticket, over.signal));
    this.ctx.waitUntil(
      runner.done.then(() => {
        over.abort();
        release();
        // Before anything else: a deletion of the session waits for the same end, and takes the turn with it.
        this.#settle(number, ticket);
        this.#noteEnd(runner, requestId);
        return this.#ran(runner);
      }),
    );
  }

  /** Leaves what a turn came to in metrics and log; a turn that was withdrawn is not stored any more. */
  #noteEnd({ attemptsMade, refusal, turn: number }: TurnRunner, requestId: string): void {
    const turn = this.#store.turn(number);
    if (turn !== undefined && !turn.running) {
      turnEnded(turn, attemptsMade);
    } else if (refusal !== undefined) {
      turnRefused(requestId, number, refusal);
    }
    flushSoon(this.env, this.ctx);
  }

  /** Tells the key that began a turn what it took; a turn that was withdrawn took nothing. */
  #settle(number: number, ticket: TurnTicket | undefined): void {
    const turn = this.#store.turn(number);
    if (turn?.running !== true) {
      const tokens =
        turn === undefined ? 0 : turn.promptTokens - turn.cachedTokens + turn.completionTokens;
      this.ctx.waitUntil(this.#limits.settle(ticket, tokens));
    }
  }

  /** After a turn: what it leaves to do. */
  async #ran(runner: TurnRunner): Promise<void> {
    if (this.#runner === runner) {
      this.#runner = undefined;
    }
    const session = this.#store.session();
    if (
      runner.refusal !== undefined &&
      session?.implicit === true &&
      this.#store.lastTurn() === 0
    ) {
      // The session existed for this turn only.
      this.ctx.waitUntil(releaseSequence(this.#releaseOptions()));
      this.#store.atomically(() => this.#store.deleteSession(this.#clock.nowMs()));
    } else if (session !== undefined) {
      const { snapshotIdleMs } = gatewayConfig(this.env);
      this.#store.cache.setSaveDue(this.#clock.nowMs() + snapshotIdleMs);
      this.ctx.waitUntil(releaseLeft(this.#releaseOptions()));
    }
    this.#bell.ring();
    await this.#changed();
  }

  #answer(
    call: SessionCall,
    start: TurnStart,
    offset: number,
    signal: AbortSignal,
    head: Headers,
  ): Response {
    const { number } = start.turn;
    const runner = this.#runnerOf(number);
    const body = this.#streams.open(
      number,
      signal,
      (left) =>
        streamAnswer({
          store: this.#store,
          sessionId: call.sessionId,
          turn: number,
          offset,
          resumed: !start.begun,
          runner,
          live: () => runner !== undefined && this.#runner === runner,
          bell: this.#bell,
          clock: this.#clock,
          signal: left,
        }),
      (end) => this.#keys.hold(call.key?.keyId ?? "", end),
    );
    const before = this.#store.turn(number - 1)?.worker ?? "";
    head.set(workerBeforeHeader, encodeURIComponent(before));
    return new Response(body, { headers: head });
  }

  /** The last client of a turn left: that stops it, unless it is detached. */
  #lastLeft(turn: number): void {
    if (this.#store.turn(turn)?.detach === false) {
      this.#runnerOf(turn)?.cancel();
    }
  }

  /** A running turn without a runner: the object lost its memory. */
  async #takeUp(turn: TurnRecord): Promise<void> {
    if (turn.detach) {
      this.#run(turn, false);
      return;
    }
    const nowMs = this.#clock.nowMs();
    if (turn.orphanMs === 0) {
      this.#store.setOrphaned(turn.number, nowMs);
    } else if (nowMs - turn.orphanMs >= orphanedTurnMs) {
      this.#endOrphan(turn);
      await this.#store.sync();
    }
  }

  /** Something changed that the index should know; it follows in its own time. */
  async #changed(): Promise<void> {
    await this.#setAlarm();
    this.ctx.waitUntil(this.#pushIndex());
  }

  async #pushIndex(): Promise<void> {
    if (!(await this.#indexer.push())) {
      await this.#setAlarm();
    }
  }

  /** Sets the one alarm to the next thing that is due, or clears it. */
  async #setAlarm(): Promise<void> {
    const watchMs = this.#store.runningTurn() === undefined ? undefined : turnWatchMs;
    const saveDueMs = this.#store.cache.saveDueMs();
    const saveMs =
      saveDueMs === undefined || watchMs !== undefined
        ? undefined
        : Math.max(0, saveDueMs - this.#clock.nowMs());
    const due = [watchMs, this.#indexer.retryMs, saveMs].filter((ms) => ms !== undefined);
    if (due.length === 0) {
      await this.ctx.storage.deleteAlarm();
    } else {
      await this.ctx.storage.setAlarm(this.#clock.nowMs() + Math.min(...due));
    }
  }
}

function redirectResponse(redirect: ChatRedirect): Response {
  return new Response(encodeJsonFrame(frameKind.redirect, redirect));
}
