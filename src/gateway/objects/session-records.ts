/** Records of a SessionObject's tables. */
import { create, fromBinary } from "@bufbuild/protobuf";
import { SamplingParamsSchema } from "../../gen/leanedge/v1/sampling_pb.js";
import type { SamplingParams } from "../../gen/leanedge/v1/sampling_pb.js";
import type {
  Backend,
  FinishReason,
  PlacementReason,
  Role,
} from "../../gen/leanedge/v1/session_pb.js";
import { FingerprintsSchema } from "../../gen/leanedge/worker/v1/worker_pb.js";
import type { Fingerprints } from "../../gen/leanedge/worker/v1/worker_pb.js";
import { bytes, flag, int, member, text } from "./sql-row.js";
import type { Row } from "./sql-row.js";

/** The session itself. Times in milliseconds since 1970. */
export interface SessionRecord {
  readonly tenant: string;
  readonly sessionId: string;
  readonly model: string;
  readonly title: string;
  readonly titleGiven: boolean;
  readonly implicit: boolean;
  readonly createMs: number;
  readonly updateMs: number;
  readonly forkedFrom: string;
  readonly forkedTurn: number;
  readonly messagesCovered: number;
  readonly cacheBytes: number;
  readonly fingerprints: Fingerprints;
  readonly indexVersion: number;
  readonly indexedVersion: number;
  /** Id of the key that made it; empty for none. */
  readonly keyId: string;
}

/** A deletion that the index does not know of yet. */
export interface DeletionRecord {
  readonly tenant: string;
  readonly sessionId: string;
  readonly version: number;
}

/** Which worker holds the cache. */
export interface BindingRecord {
  readonly worker: string;
  /** Where it is reached; empty where its name says it. */
  readonly address: string;
  readonly generation: number;
  readonly issued: number;
  readonly expiresMs: number;
}

/** One turn. */
export interface TurnRecord {
  readonly number: number;
  readonly running: boolean;
  readonly messagesHash: Uint8Array;
  readonly requestHash: Uint8Array;
  readonly idempotencyKey: string;
  readonly sampling: SamplingParams;
  readonly detach: boolean;
  readonly requestId: string;
  readonly startMs: number;
  readonly endMs: number;
  readonly orphanMs: number;
  readonly attempts: number;
  readonly accepted: boolean;
  readonly promptTokens: number;
  readonly cachedTokens: number;
  readonly completionTokens: number;
  readonly textBytes: number;
  readonly finishReason: FinishReason;
  readonly errorMessage: string;
  readonly model: string;
  readonly backend: Backend;
  readonly worker: string;
  readonly placement: PlacementReason;
  /** Whether another model may answer; undefined: as the configuration says. */
  readonly allowFallback: boolean | undefined;
  readonly cacheBytes: number;
  /** What it keeps of the key that began it (turn-ticket.ts); empty for none. */
  readonly ticket: string;
}

/** One message of the transcript. */
export interface MessageRecord {
  readonly position: number;
  readonly turn: number;
  readonly role: Role;
  readonly text: string;
  /** Given by a model in this session, not imported. */
  readonly answer: boolean;
  readonly createMs: number;
}

/** A part of the running answer, as it came, or as it was stored. */
export interface PieceRecord {
  readonly byteOffset: number;
  readonly byteLength: number;
  /** Tokens of the answer, this piece included. */
  readonly tokensEnd: number;
  readonly text: string;
  readonly ids: Uint8Array;
}

/** What a turn's end writes. */
export interface TurnEnd {
  readonly finishReason: FinishReason;
  readonly errorMessage: string;
  /** Ids of the answer that belong to the log; those after them are dropped. Undefined: all. */
  readonly generatedTokens: number | undefined;
  readonly cacheBytes: number;
  readonly nowMs: number;
}

/** A row of `session`. */
export function sessionRecord(row: Row): SessionRecord {
  return {
    tenant: text(row, "tenant"),
    sessionId: text(row, "session_id"),
    model: text(row, "model"),
    title: text(row, "title"),
    titleGiven: flag(row, "title_given"),
    implicit: flag(row, "implicit"),
    createMs: int(row, "create_ms"),
    updateMs: int(row, "update_ms"),
    forkedFrom: text(row, "forked_from"),
    forkedTurn: int(row, "forked_turn"),
    messagesCovered: int(row, "messages_covered"),
    cacheBytes: int(row, "cache_bytes"),
    fingerprints: create(FingerprintsSchema, {
      model: text(row, "fingerprint_model"),
      template: text(row, "fingerprint_template"),
      plan: text(row, "fingerprint_plan"),
    }),
    indexVersion: int(row, "index_version"),
    indexedVersion: int(row, "indexed_version"),
    keyId: text(row, "key_id"),
  };
}

/** A row of `turn`. */
export function turnRecord(row: Row): TurnRecord {
  return {
    number: int(row, "number"),
    running: flag(row, "running"),
    messagesHash: bytes(row, "messages_hash"),
    requestHash: bytes(row, "request_hash"),
    idempotencyKey: text(row, "idempotency_key"),
    sampling: fromBinary(SamplingParamsSchema, bytes(row, "sampling")),
    detach: flag(row, "detach"),
    requestId: text(row, "request_id"),
    startMs: int(row, "start_ms"),
    endMs: int(row, "end_ms"),
    orphanMs: int(row, "orphan_ms"),
    attempts: int(row, "attempts"),
    accepted: flag(row, "accepted"),
    promptTokens: int(row, "prompt_tokens"),
    cachedTokens: int(row, "cached_tokens"),
    completionTokens: int(row, "completion_tokens"),
    textBytes: int(row, "text_bytes"),
    finishReason: member<FinishReason>(row, "finish_reason"),
    errorMessage: text(row, "error_message"),
    model: text(row, "model"),
    backend: member<Backend>(row, "backend"),
    worker: text(row, "worker"),
    placement: member<PlacementReason>(row, "placement"),
    allowFallback: [undefined, true, false][int(row, "fallback")],
    cacheBytes: int(row, "cache_bytes"),
    ticket: text(row, "ticket"),
  };
}

/** A row of `message`. */
export function messageRecord(row: Row): MessageRecord {
  return {
    position: int(row, "position"),
    turn: int(row, "turn"),
    role: member<Role>(row, "role"),
    text: text(row, "text"),
    answer: flag(row, "answer"),
    createMs: int(row, "create_ms"),
  };
}

/** A row of `piece`. */
export function pieceRecord(row: Row): PieceRecord {
  return {
    byteOffset: int(row, "byte_offset"),
    byteLength: int(row, "byte_length"),
    tokensEnd: int(row, "tokens_end"),
    text: text(row, "text"),
    ids: bytes(row, "ids"),
  };
}
