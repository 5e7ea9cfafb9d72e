/** What clients see of a session: records of the store as messages of leanedge.v1. */
import { create } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import {
  FinishReason,
  MessageSchema,
  Role,
  SessionSchema,
  TranscriptMessageSchema,
} from "../../gen/leanedge/v1/session_pb.js";
import type { Session, TranscriptMessage } from "../../gen/leanedge/v1/session_pb.js";
import { messagesPageBytesMax } from "../limits.js";
import { turnUsage } from "./answer-stream.js";
import type { MessageRecord, SessionRecord, TurnRecord } from "./session-records.js";
import type { SessionStore } from "./session-store.js";
import type { IndexEntry } from "./index-entry.js";

/** A session in full. */
export function sessionView(store: SessionStore, session: SessionRecord): Session {
  const binding = store.binding();
  const running = store.runningTurn();
  const plan = store.cache.plan();
  return create(SessionSchema, {
    sessionId: session.sessionId,
    model: session.model,
    title: session.title,
    createTime: timestampFromMs(session.createMs),
    updateTime: timestampFromMs(session.updateMs),
    lastTurn: store.lastTurn(),
    runningTurn: running?.number ?? 0,
    messageCount: store.messageCount() + (running === undefined ? 0 : 1),
    tokenCount: store.tokenCount(),
    cacheBytes: BigInt(session.cacheBytes),
    worker: binding?.worker ?? "",
    bindingGeneration: BigInt(binding?.generation ?? 0),
    forkedFrom: session.forkedFrom,
    plan: plan?.name ?? "",
    planFingerprint: session.fingerprints.plan,
    cachePages: store.cache.pages(),
    cacheBytesLongest: BigInt(plan?.bytesMax ?? 0),
    cachePagesLongest: plan?.pagesMax ?? 0,
  });
}

/** What the tenant's index holds of a session. */
export function indexEntry(store: SessionStore, session: SessionRecord): IndexEntry {
  const running = store.runningTurn();
  return {
    sessionId: session.sessionId,
    version: session.indexVersion,
    model: session.model,
    title: session.title,
    createMs: session.createMs,
    updateMs: session.updateMs,
    lastTurn: store.lastTurn(),
    runningTurn: running?.number ?? 0,
    messageCount: store.messageCount() + (running === undefined ? 0 : 1),
    forkedFrom: session.forkedFrom,
    keyId: session.keyId,
  };
}

/** One page of a transcript. */
export interface MessagesPage {
  readonly messages: TranscriptMessage[];
  /** Position of the first message of the next page; undefined on the last one. */
  readonly next: number | undefined;
}

/** Messages from a position on, the running answer included; fewer than `limit` where they would be too large. */
export function messagesPage(store: SessionStore, from: number, limit: number): MessagesPage {
  const messages: TranscriptMessage[] = [];
  const turns = new Map<number, TurnRecord | undefined>();
  let bytes = 0;
  for (const record of transcript(store, from)) {
    // Three bytes a UTF-16 unit are the most that UTF-8 takes.
    bytes += record.text.length * 3;
    if (messages.length === limit || (messages.length > 0 && bytes > messagesPageBytesMax)) {
      return { messages, next: record.position };
    }
    messages.push(transcriptMessage(store, record, turns));
  }
  return { messages, next: undefined };
}

/** Stored messages, and the running answer after them. */
function* transcript(store: SessionStore, from: number): Generator<MessageRecord, void, undefined> {
  yield* store.eachMessage(from);
  const running = store.runningTurn();
  const position = store.messageCount();
  if (running !== undefined && position >= from) {
    yield runningAnswer(store, running, position);
  }
}

function runningAnswer(store: SessionStore, turn: TurnRecord, position: number): MessageRecord {
  const text = store
    .pieces()
    .map((piece) => piece.text)
    .join("");
  return {
    position,
    turn: turn.number,
    role: Role.ASSISTANT,
    text,
    answer: true,
    createMs: turn.startMs,
  };
}

function transcriptMessage(
  store: SessionStore,
  record: MessageRecord,
  turns: Map<number, TurnRecord | undefined>,
): TranscriptMessage {
  const view = create(TranscriptMessageSchema, {
    turn: record.turn,
    index: record.position,
    message: create(MessageSchema, { role: record.role, text: record.text }),
    createTime: timestampFromMs(record.createMs),
  });
  if (record.answer) {
    if (!turns.has(record.turn)) {
      turns.set(record.turn, store.turn(record.turn));
    }
    const turn = turns.get(record.turn);
    if (turn !== undefined) {
      view.finishReason = turn.running ? FinishReason.UNSPECIFIED : turn.finishReason;
      view.usage = turnUsage(turn);
      view.model = turn.model;
      view.backend = turn.backend;
    }
  }
  return view;
}
