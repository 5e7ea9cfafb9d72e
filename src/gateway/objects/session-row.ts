/** The row of the session itself, kept in memory (store-writes.ts). */
import { create } from "@bufbuild/protobuf";
import { FingerprintsSchema } from "../../gen/leanedge/worker/v1/worker_pb.js";
import type { Fingerprints } from "../../gen/leanedge/worker/v1/worker_pb.js";
import type { SqlValue } from "./sql-row.js";
import { sessionRecord } from "./session-records.js";
import type { SessionRecord } from "./session-records.js";
import type { KeptTable, StoreWrites } from "./store-writes.js";

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

/** See the head of this file. */
export class SessionRow implements KeptTable {
  readonly #writes: StoreWrites;
  #kept: { readonly record: SessionRecord | undefined } | undefined;

  /** Reads nothing yet. */
  constructor(writes: StoreWrites) {
    this.#writes = writes;
    writes.register(this);
  }

  /** The session; undefined if none was created. */
  get record(): SessionRecord | undefined {
    if (this.#kept === undefined) {
      const row = this.#writes.first("session", "SELECT * FROM session");
      this.#kept = { record: row === undefined ? undefined : sessionRecord(row) };
    }
    return this.#kept.record;
  }

  /** Creates the session. */
  insert(session: NewSession): void {
    const record: SessionRecord = {
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
    };
    this.#kept = { record };
    this.#writes.changed(this);
  }

  /** Changes the session, if there is one. */
  change(change: (record: SessionRecord) => SessionChange): void {
    if (this.#change(change)) {
      this.#writes.changed(this);
    }
  }

  /** The same for what need not survive: it is stored with the next change that must. */
  changeIdly(change: (record: SessionRecord) => SessionChange): void {
    if (this.#change(change)) {
      this.#writes.changedIdly(this);
    }
  }

  look(): unknown {
    return this.record;
  }

  write(): void {
    const record = this.#kept?.record;
    if (record === undefined) {
      return;
    }
    this.#writes.run("session", storeStatement, ...storedValues(record));
  }

  reset(): void {
    this.#kept = undefined;
  }

  #change(change: (record: SessionRecord) => SessionChange): boolean {
    const { record } = this;
    if (record === undefined) {
      return false;
    }
    this.#kept = { record: { ...record, ...change(record) } };
    return true;
  }
}

const storeStatement = `INSERT OR REPLACE INTO session (one, tenant, session_id, model, title, title_given, implicit, create_ms,
    update_ms, forked_from, forked_turn, messages_covered, cache_bytes, fingerprint_model, fingerprint_template,
    fingerprint_plan, index_version, indexed_version, key_id)
  VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`;

/** What storeStatement takes, in its order. */
function storedValues(record: SessionRecord): SqlValue[] {
  return [
    record.tenant,
    record.sessionId,
    record.model,
    record.title,
    Number(record.titleGiven),
    Number(record.implicit),
    record.createMs,
    record.updateMs,
    record.forkedFrom,
    record.forkedTurn,
    record.messagesCovered,
    record.cacheBytes,
    record.fingerprints.model,
    record.fingerprints.template,
    record.fingerprints.plan,
    record.indexVersion,
    record.indexedVersion,
    record.keyId,
  ];
}
