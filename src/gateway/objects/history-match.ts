/**
 * What a request in OpenAI form means to a session. Such a request carries the whole history and no turn number: the same
 * prefix continues the session, the same request again is a retry, and any other history belongs to a fork from the
 * point where the two part.
 */
import { toBinary } from "@bufbuild/protobuf";
import { toHex } from "../../engine/sha256.js";
import { SamplingParamsSchema } from "../../gen/leanedge/v1/sampling_pb.js";
import type { SamplingParams } from "../../gen/leanedge/v1/sampling_pb.js";
import { FinishReason, Role } from "../../gen/leanedge/v1/session_pb.js";
import type { GenerateRequest, Message } from "../../gen/leanedge/v1/session_pb.js";
import { alreadyExists } from "../errors.js";
import { sha256 } from "../sha256.js";
import { hashMessages, sameBytes } from "./request-rules.js";
import type { MessageRecord, TurnRecord } from "./session-records.js";

/** What the match reads of a session. SessionStore has it. */
export interface HistorySource {
  /** Messages from a position on. */
  messages(from: number, limit: number): readonly MessageRecord[];
  /** A turn. */
  turn(number: number): TurnRecord | undefined;
  /** Number of the last turn. */
  lastTurn(): number;
  /** The turn that was started under a key. */
  turnByIdempotencyKey(key: string): TurnRecord | undefined;
}

/** The request is a turn of this session. */
export interface TurnMatch {
  readonly kind: "turn";
  /** Number of the turn: the next one, or that of the retried request. */
  readonly turn: number;
  /** Its new messages. */
  readonly messages: Message[];
  /** Identifies the request among those with the same history. */
  readonly requestHash: Uint8Array;
}

/** The request belongs to a fork of this session. */
export interface ForkMatch {
  readonly kind: "fork";
  /** Last turn that both histories share. */
  readonly turn: number;
  /** Id of the fork; it follows from the history alone, so the next request finds it again. */
  readonly sessionId: string;
}

/** Matches a request against a session. Throws ALREADY_EXISTS if its idempotency key stands for another request. */
export function matchHistory(
  source: HistorySource,
  request: GenerateRequest,
  context: { readonly idempotencyKey: string; readonly sessionId: string },
): TurnMatch | ForkMatch {
  const requestHash = hashRequest(request.messages, request.sampling);
  const transcript = source
    .messages(0, Number.MAX_SAFE_INTEGER)
    // An answer that was cancelled before its first token is in no client's history.
    .filter((message) => message.text !== "");
  const common = commonPrefix(transcript, request.messages);
  const last = source.lastTurn();

  if (context.idempotencyKey !== "") {
    const keyed = source.turnByIdempotencyKey(context.idempotencyKey);
    if (keyed !== undefined) {
      if (!sameBytes(keyed.requestHash, requestHash)) {
        throw alreadyExists(
          `the idempotency key "${context.idempotencyKey}" was used for another request`,
        );
      }
      return { kind: "turn", turn: keyed.number, messages: [], requestHash };
    }
  }

  if (common === transcript.length && common < request.messages.length) {
    const running = last > 0 && source.turn(last)?.running === true;
    if (!running) {
      return {
        kind: "turn",
        turn: last + 1,
        messages: request.messages.slice(common),
        requestHash,
      };
    }
  }
  if (common === request.messages.length) {
    const retried = inputEnd(transcript, common);
    const turn = retried === undefined ? undefined : source.turn(retried);
    if (
      turn !== undefined &&
      asksTheSame(turn, requestHash, request.sampling) &&
      mayReplay(turn, context.idempotencyKey)
    ) {
      return { kind: "turn", turn: turn.number, messages: [], requestHash };
    }
  }
  const shared = sharedTurns(transcript, common);
  const sharedMessages = transcript.filter((message) => message.turn <= shared).length;
  return {
    kind: "fork",
    turn: shared,
    sessionId: forkId(context.sessionId, newInput(request.messages, sharedMessages)),
  };
}

/** Identifies a request: its history and how it wants its answer drawn. */
export function hashRequest(
  messages: readonly Message[],
  sampling: SamplingParams | undefined,
): Uint8Array {
  return sha256(hashMessages(messages), samplingBytes(sampling));
}

/**
 * Identifies a request that numbers its turn among those for that turn: how it wants its answer drawn. The history is the
 * session's.
 */
export function hashSampling(sampling: SamplingParams | undefined): Uint8Array {
  return sha256(samplingBytes(sampling));
}

function samplingBytes(sampling: SamplingParams | undefined): Uint8Array {
  return sampling === undefined ? new Uint8Array(0) : toBinary(SamplingParamsSchema, sampling);
}

/** Messages at the start of both. */
function commonPrefix(transcript: readonly MessageRecord[], messages: readonly Message[]): number {
  let common = 0;
  for (;;) {
    const ours = transcript[common];
    const theirs = messages[common];
    if (ours === undefined || ours.role !== theirs?.role || ours.text !== theirs.text) {
      return common;
    }
    common++;
  }
}

/** The turn whose input ends with message `count - 1`; undefined if none does. */
function inputEnd(transcript: readonly MessageRecord[], count: number): number | undefined {
  const lastInput = transcript[count - 1];
  const next = transcript[count];
  if (lastInput === undefined || lastInput.answer) {
    return undefined;
  }
  return next === undefined || next.turn !== lastInput.turn || next.answer
    ? lastInput.turn
    : undefined;
}

/** Whether a turn with the request's history was begun by the same request, in either form. */
function asksTheSame(
  { requestHash: begun }: TurnRecord,
  requestHash: Uint8Array,
  sampling: SamplingParams | undefined,
): boolean {
  return sameBytes(begun, requestHash) || sameBytes(begun, hashSampling(sampling));
}

/** An answer that was cut off is no answer to a retry, unless the client names the attempt itself. */
function mayReplay(turn: TurnRecord, idempotencyKey: string): boolean {
  if (idempotencyKey !== "" && turn.idempotencyKey !== "") {
    // Two keys are two requests, however alike.
    return false;
  }
  return (
    turn.running ||
    turn.finishReason === FinishReason.STOP ||
    turn.finishReason === FinishReason.LENGTH
  );
}

/** The last turn that lies in the common prefix with its answer. */
function sharedTurns(transcript: readonly MessageRecord[], common: number): number {
  const parted = transcript[common];
  const last = transcript[common - 1];
  if (last === undefined) {
    return 0;
  }
  return last.answer && parted?.turn !== last.turn ? last.turn : last.turn - 1;
}

/** The part of a history that makes a fork: up to the first input after what is shared. */
function newInput(messages: readonly Message[], shared: number): readonly Message[] {
  const next = messages.findIndex(
    (message, index) =>
      index >= shared && message.role === Role.USER && messages[index + 1]?.role !== Role.USER,
  );
  return messages.slice(0, next < 0 ? messages.length : next + 1);
}

function forkId(parent: string, messages: readonly Message[]): string {
  const hash = sha256(`${parent}\n`, hashMessages(messages));
  return `fork-${toHex(hash.subarray(0, 16))}`;
}
