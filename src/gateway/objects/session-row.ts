/** The row of the session itself, kept in memory (store-writes.ts). */
import { create } from "@bufbuild/protobuf";
import { FingerprintsSchema } from "../../gen/leanedge/worker/v1/worker_pb.js";
import type { Fingerprints } from "../../gen/leanedge/worker/v1/worker_pb.js";
import { KeptRow } from "./kept-row.js";
import type { RowKind } from "./kept-row.js";
import { sessionRecord } from "./session-records.js";
import type { SessionRecord } from "./session-records.js";
import type { StoreWrites } from "./store-writes.js";

/** What a session begins with. */
export interface NewSession {
  readonly tenant: string;
  readonly sessionId: string;
  readonly model: string;
  readonly title: string;
  readonly titleGiven: boolean;
  readonly implicit: boolean;
  readonly nowMs: number;
  readonly createMs?: number;
  readonly forkedFrom?: string;
  readonly forkedTurn?: number;
  readonly messagesCovered?: number;
  readonly fingerprints?: Fingerprints;
  readonly keyId?: string;
}

/** What of a session changes. */
export type SessionChange = Partial<
  Pick<
    SessionRecord,
    | "title"
    | "updateMs"
    | "messagesCovered"
    | "cacheBytes"
    | "fingerprints"
    | "indexVersion"
    | "indexedVersion"
  >
>;

const sessionKind: RowKind<SessionRecord> = {
  table: "session",
  read: sessionRecord,
  columns: {
    tenant: ({ tenant }) => tenant,
    session_id: ({ sessionId }) => sessionId,
    model: ({ model }) => model,
    title: ({ title }) => title,
    title_given: ({ titleGiven }) => Number(titleGiven),
    implicit: ({ implicit }) => Number(implicit),
    create_ms: ({ createMs }) => createMs,
    update_ms: ({ updateMs }) => updateMs,
    forked_from: ({ forkedFrom }) => forkedFrom,
    forked_turn: ({ forkedTurn }) => forkedTurn,
    messages_covered: ({ messagesCovered }) => messagesCovered,
    cache_bytes: ({ cacheBytes }) => cacheBytes,
    fingerprint_model: ({ fingerprints }) => fingerprints.model,
    fingerprint_template: ({ fingerprints }) => fingerprints.template,
    fingerprint_plan: ({ fingerprints }) => fingerprints.plan,
    index_version: ({ indexVersion }) => indexVersion,
    indexed_version: ({ indexedVersion }) => indexedVersion,
    key_id: ({ keyId }) => keyId,
  },
};

/** See the head of this file. */
export class SessionRow {
  readonly #row: KeptRow<SessionRecord>;

  /** Reads nothing yet. */
  constructor(writes: StoreWrites) {
    this.#row = new KeptRow(writes, sessionKind);
  }

  /** The session; undefined if none was created. */
  get record(): SessionRecord | undefined {
    return this.#row.record;
  }

  /** Creates the session. */
  insert(session: NewSession): void {
    this.#row.set({
      tenant: session.tenant,
      sessionId: session.sessionId,
      model: session.model,
      title: session.title,
      titleGiven: session.titleGiven,
      implicit: session.implicit,
      createMs: session.createMs ?? session.nowMs,
      updateMs: session.nowMs,
      forkedFrom: session.forkedFrom ?? "",
      forkedTurn: session.forkedTurn ?? 0,
      messagesCovered: session.messagesCovered ?? 0,
      cacheBytes: 0,
      fingerprints: session.fingerprints ?? create(FingerprintsSchema),
      indexVersion: 0,
      indexedVersion: 0,
      keyId: session.keyId ?? "",
    });
  }

  /** Changes the session, if there is one. */
  change(change: (record: SessionRecord) => SessionChange): void {
    const { record } = this;
    if (record !== undefined) {
      this.#row.set({ ...record, ...change(record) });
    }
  }

  /** The same for what need not survive: it is stored with the next change that must. */
  changeIdly(change: (record: SessionRecord) => SessionChange): void {
    const { record } = this;
    if (record !== undefined) {
      this.#row.setIdly({ ...record, ...change(record) });
    }
  }
}
