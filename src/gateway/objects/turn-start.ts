/**
 * The rule of exactly-once turns: what a Generate call means for the state of its session. Synchronous, so that nothing
 * happens between the look and the deed.
 */
import { clone, create } from "@bufbuild/protobuf";
import { SamplingParamsSchema } from "../../gen/leanedge/v1/sampling_pb.js";
import type { GenerateRequest } from "../../gen/leanedge/v1/session_pb.js";
import { alreadyExists, failedPrecondition, invalidArgument, notFound } from "../errors.js";
import { resourceExhausted } from "../errors.js";
import { turnsMax } from "../limits.js";
import { sha256 } from "../sha256.js";
import { checkMessages, hashMessages, sameBytes, titleFrom } from "./request-rules.js";
import type { SessionRecord, TurnRecord } from "./session-records.js";
import type { SessionStore } from "./session-store.js";
import { writeTicket } from "./turn-ticket.js";
import type { TurnTicket } from "./turn-ticket.js";

/** What a call needs to know beside its request. */
export interface TurnStartContext {
  readonly store: SessionStore;
  readonly tenant: string;
  readonly sessionId: string;
  readonly requestId: string;
  readonly nowMs: number;
  /** Model that the request names, or the default one. Undefined: there is no such model. */
  readonly model: string | undefined;
  /** Answers may be imported in any turn. */
  readonly history: boolean;
  /** Identifies the request among those with the same history and the same new messages (history-match.ts). */
  readonly requestHash: Uint8Array;
  readonly idempotencyKey: string;
  /** What the turn keeps of the caller's key; undefined: no key, or no turn to begin. */
  readonly ticket: TurnTicket | undefined;
}

/** What became of a call. */
export interface TurnStart {
  readonly turn: TurnRecord;
  /** The turn was begun by this call; otherwise it is joined or replayed. */
  readonly begun: boolean;
}

/** Whether a Generate call would begin a turn, as things stand, if it is allowed at all. */
export function beginsTurn(request: GenerateRequest, store: SessionStore): boolean {
  const number = request.turn === 0 ? store.lastTurn() + 1 : request.turn;
  return store.session() === undefined || store.turn(number) === undefined;
}

/**
 * Begins, joins or replays a turn. Throws what leanedge.v1 says of Generate. A turn that begins is stored behind what is shown of
 * it: until then it may be lost, and the same call, with what its client has seen of the answer, begins it anew.
 */
export function startTurn(request: GenerateRequest, context: TurnStartContext): TurnStart {
  const { store } = context;
  return store.later(() => {
    const session = existingSession(request, context);
    const last = store.lastTurn();
    const number = request.turn === 0 ? last + 1 : request.turn;
    const existing = session === undefined ? undefined : store.turn(number);
    if (existing !== undefined) {
      return { turn: join(existing, request, store), begun: false };
    }
    checkNumber(number, last, store);
    checkMessages(request.messages, { first: number === 1, history: context.history });
    insert(request, context, session, number);
    const turn = store.turn(number);
    if (turn === undefined) {
      throw new Error(`turn ${number} was not stored`);
    }
    return { turn, begun: true };
  });
}

function existingSession(
  request: GenerateRequest,
  context: TurnStartContext,
): SessionRecord | undefined {
  const session = context.store.session();
  if (session === undefined) {
    if (request.turn > 1) {
      throw notFound(`there is no session "${context.sessionId}"`);
    }
    if (context.model === undefined) {
      throw notFound(`there is no model "${request.model}"`);
    }
    return undefined;
  }
  if (request.model !== "" && request.model !== session.model) {
    throw failedPrecondition(
      `the session's model is "${session.model}", the request names "${request.model}"`,
    );
  }
  return session;
}

function join(turn: TurnRecord, request: GenerateRequest, store: SessionStore): TurnRecord {
  if (
    request.messages.length > 0 &&
    !sameBytes(turn.messagesHash, hashMessages(request.messages))
  ) {
    throw alreadyExists(`turn ${turn.number} exists with other messages`);
  }
  if (turn.running && request.detach && !turn.detach) {
    store.setDetached();
  }
  if (turn.running && turn.orphanMs !== 0) {
    store.setOrphaned(0);
  }
  return turn;
}

function checkNumber(number: number, last: number, store: SessionStore): void {
  const running = store.runningTurn();
  if (running !== undefined) {
    throw failedPrecondition(`turn ${running.number} is still running`);
  }
  if (number !== last + 1) {
    throw failedPrecondition(`turn ${number} is not the next one, which is ${last + 1}`);
  }
  if (number > turnsMax) {
    throw resourceExhausted(`the session has ${last} turns, at most ${turnsMax} are allowed`);
  }
}

function insert(
  request: GenerateRequest,
  context: TurnStartContext,
  session: SessionRecord | undefined,
  number: number,
): void {
  const { store, nowMs } = context;
  const model = session?.model ?? context.model;
  if (model === undefined) {
    throw invalidArgument("model is unknown");
  }
  if (session === undefined) {
    store.insertSession({
      tenant: context.tenant,
      sessionId: context.sessionId,
      model,
      title: titleFrom(request.messages),
      titleGiven: false,
      implicit: true,
      nowMs,
      keyId: context.ticket?.keyId ?? "",
    });
  } else if (number === 1 && !session.titleGiven) {
    store.setTitle(titleFrom(request.messages));
  }
  const sampling =
    request.sampling === undefined
      ? create(SamplingParamsSchema)
      : clone(SamplingParamsSchema, request.sampling);
  const messagesHash = hashMessages(request.messages);
  sampling.seed ??= seedOf(context, number, messagesHash);
  store.insertTurn({
    number,
    messagesHash,
    requestHash: context.requestHash,
    idempotencyKey: context.idempotencyKey,
    sampling,
    detach: request.detach,
    requestId: context.requestId,
    model,
    allowFallback: request.allowFallback,
    ticket: writeTicket(context.ticket),
    nowMs,
  });
  for (const message of request.messages) {
    store.insertMessage(number, message.role, message.text, false, nowMs);
  }
  store.touch(nowMs);
}

/**
 * The seed of a turn that names none. It follows from what the turn is, not from chance: the same call after its object was lost,
 * nothing of the turn being stored, draws the same answer, so that a client that has seen some of it goes on in it.
 */
function seedOf(
  { tenant, sessionId }: TurnStartContext,
  number: number,
  messagesHash: Uint8Array,
): bigint {
  const hash = sha256(JSON.stringify([tenant, sessionId, number]), messagesHash);
  return new DataView(hash.buffer, hash.byteOffset).getBigUint64(0, true);
}
