/** A session up to a turn, as it travels from one SessionObject to another. */
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { SamplingParamsSchema } from "../../gen/leanedge/v1/sampling_pb.js";
import type { Role } from "../../gen/leanedge/v1/session_pb.js";
import { SegmentKind } from "../../gen/leanedge/worker/v1/worker_pb.js";
import { bindingTtlMs } from "../limits.js";
import type { PlanRecord } from "./cache-store.js";
import type { SessionRecord, TurnRecord } from "./session-records.js";
import type { SessionStore } from "./session-store.js";

/** See the head of this file. Plain values only: it crosses objects by structured clone. */
export interface SessionCopy {
  readonly tenant: string;
  /** Id of the new session. */
  readonly sessionId: string;
  readonly model: string;
  readonly title: string;
  readonly titleGiven: boolean;
  readonly forkedFrom: string;
  readonly forkedTurn: number;
  /** Id of the key that makes it; empty for none. */
  readonly keyId: string;
  readonly fingerprintModel: string;
  readonly fingerprintTemplate: string;
  readonly fingerprintPlan: string;
  readonly plan: PlanRecord | undefined;
  /** Worker that holds the cache of what is copied; empty if none does. */
  readonly worker: string;
  /** Where it is reached; empty where its name says it. */
  readonly address: string;
  /** Messages that the copied segments cover. */
  readonly messagesCovered: number;
  readonly turns: readonly CopiedTurn[];
  readonly messages: readonly CopiedMessage[];
  readonly segments: readonly CopiedSegment[];
}

/** A turn; its sampling as protobuf bytes. */
export interface CopiedTurn extends Omit<TurnRecord, "sampling"> {
  readonly sampling: Uint8Array;
}

/** A message. */
export interface CopiedMessage {
  readonly turn: number;
  readonly role: Role;
  readonly text: string;
  readonly answer: boolean;
  readonly createMs: number;
}

/** A segment of the log. */
export interface CopiedSegment {
  readonly turn: number;
  readonly kind: SegmentKind;
  readonly ids: Uint8Array;
}

/** Reads a session up to and including a turn that has ended. */
export function copySession(
  store: SessionStore,
  session: SessionRecord,
  turn: number,
  newSessionId: string,
  keyId: string,
): SessionCopy {
  const messages = store
    .messages(0, Number.MAX_SAFE_INTEGER)
    .filter((message) => message.turn <= turn);
  const segments = store.segmentsUpTo(turn);
  // Later turns may have replaced the log, or brought messages of a turn into it that no worker had accepted.
  const logged = segments.at(-1)?.turn ?? 0;
  const covered = messages.filter((message) => message.turn <= logged).length;
  return {
    tenant: session.tenant,
    sessionId: newSessionId,
    model: session.model,
    title: session.title,
    titleGiven: session.titleGiven,
    forkedFrom: session.sessionId,
    forkedTurn: turn,
    keyId,
    fingerprintModel: session.fingerprints.model,
    fingerprintTemplate: session.fingerprints.template,
    fingerprintPlan: session.fingerprints.plan,
    plan: store.cache.plan(),
    worker: store.binding()?.worker ?? "",
    address: store.binding()?.address ?? "",
    messagesCovered: Math.min(session.messagesCovered, covered),
    turns: store.turnsUpTo(turn).map((record) => ({
      ...record,
      sampling: toBinary(SamplingParamsSchema, record.sampling),
    })),
    messages: messages.map((message) => ({
      turn: message.turn,
      role: message.role,
      text: message.text,
      answer: message.answer,
      createMs: message.createMs,
    })),
    segments,
  };
}

/** Stores a copy in the tables of the new session. */
export function storeCopy(store: SessionStore, copy: SessionCopy, nowMs: number): void {
  store.atomically(() => {
    store.insertSession({
      tenant: copy.tenant,
      sessionId: copy.sessionId,
      model: copy.model,
      title: copy.title,
      titleGiven: copy.titleGiven,
      implicit: false,
      nowMs,
      forkedFrom: copy.forkedFrom,
      forkedTurn: copy.forkedTurn,
      keyId: copy.keyId,
      messagesCovered: copy.messagesCovered,
      fingerprints: {
        $typeName: "leanedge.worker.v1.Fingerprints",
        model: copy.fingerprintModel,
        template: copy.fingerprintTemplate,
        plan: copy.fingerprintPlan,
      },
    });
    for (const turn of copy.turns) {
      store.importTurn({ ...turn, sampling: fromBinary(SamplingParamsSchema, turn.sampling) });
    }
    for (const message of copy.messages) {
      store.insertMessage(
        message.turn,
        message.role,
        message.text,
        message.answer,
        message.createMs,
      );
    }
    for (const segment of copy.segments) {
      store.importSegment(segment.turn, {
        kind: segment.kind === SegmentKind.PROMPT ? SegmentKind.PROMPT : SegmentKind.GENERATED,
        ids: segment.ids,
      });
    }
    if (copy.plan !== undefined) {
      store.cache.setPlan(copy.plan);
    }
    if (copy.worker !== "") {
      store.bind(copy, store.issueGeneration(), nowMs + bindingTtlMs);
    }
    store.touch(nowMs);
  });
}
