/**
 * What a SessionObject stores of its session's cache: the plan with its sizes, when the cache is to be
 * saved, and the saved snapshot in rows of at most snapshotRowBytesMax. A snapshot is written under
 * a number of its own and replaces the one before in one transaction, so that what is read is always
 * whole; rows of one that was never finished go with the next one.
 */
import { create } from "@bufbuild/protobuf";
import { FingerprintsSchema } from "../../gen/leanedge/worker/v1/worker_pb.js";
import type { Fingerprints } from "../../gen/leanedge/worker/v1/worker_pb.js";
import { blob, bytes, int, text } from "./sql-row.js";
import type { Row, SqlValue } from "./sql-row.js";

/** The session's cache plan and what the session takes under it at the model's longest context. */
export interface PlanRecord {
  readonly name: string;
  readonly pagesMax: number;
  readonly bytesMax: number;
}

/** A saved snapshot. */
export interface SnapshotRecord {
  /** Names its rows. */
  readonly number: number;
  /** Tokens of the log that it holds, and the SHA-256 over their ids. */
  readonly tokens: number;
  readonly sha256: Uint8Array;
  readonly fingerprints: Fingerprints;
  /** Version of the engine that made it. */
  readonly engineVersion: string;
  /** Bytes in all. */
  readonly bytes: number;
}

/** See the head of this file. */
export class CacheStore {
  readonly #storage: DurableObjectStorage;
  readonly #sql: SqlStorage;

  /** The tables are session-schema.ts's. */
  constructor(storage: DurableObjectStorage) {
    this.#storage = storage;
    this.#sql = storage.sql;
  }

  /** The plan; undefined before a worker has accepted the first turn. */
  plan(): PlanRecord | undefined {
    const row = this.#first("SELECT * FROM cache WHERE plan <> ''");
    return row === undefined
      ? undefined
      : {
          name: text(row, "plan"),
          pagesMax: int(row, "plan_pages_max"),
          bytesMax: int(row, "plan_bytes_max"),
        };
  }

  /** Stores the plan. */
  setPlan(plan: PlanRecord): void {
    this.#sql.exec(
      `INSERT INTO cache (one, plan, plan_pages_max, plan_bytes_max) VALUES (1, ?, ?, ?)
       ON CONFLICT (one) DO UPDATE SET plan = excluded.plan, plan_pages_max = excluded.plan_pages_max,
         plan_bytes_max = excluded.plan_bytes_max`,
      plan.name,
      plan.pagesMax,
      plan.bytesMax,
    );
  }

  /** Archive pages that the worker held when it last said so. */
  pages(): number {
    const row = this.#first("SELECT pages FROM cache");
    return row === undefined ? 0 : int(row, "pages");
  }

  /** Stores how many pages the worker holds. */
  setPages(pages: number): void {
    this.#sql.exec(
      "INSERT INTO cache (one, pages) VALUES (1, ?) ON CONFLICT (one) DO UPDATE SET pages = excluded.pages",
      pages,
    );
  }

  /** When the cache is to be saved, in milliseconds since 1970; undefined: not at all. */
  saveDueMs(): number | undefined {
    const row = this.#first("SELECT save_due_ms FROM cache WHERE save_due_ms > 0");
    return row === undefined ? undefined : int(row, "save_due_ms");
  }

  /** Sets when the cache is to be saved; 0: not at all. */
  setSaveDue(dueMs: number): void {
    this.#sql.exec(
      `INSERT INTO cache (one, save_due_ms) VALUES (1, ?)
       ON CONFLICT (one) DO UPDATE SET save_due_ms = excluded.save_due_ms`,
      dueMs,
    );
  }

  /** The saved snapshot; undefined if there is none. */
  snapshot(): SnapshotRecord | undefined {
    const row = this.#first("SELECT * FROM snapshot");
    return row === undefined
      ? undefined
      : {
          number: int(row, "number"),
          tokens: int(row, "tokens"),
          sha256: bytes(row, "sha256"),
          fingerprints: create(FingerprintsSchema, {
            model: text(row, "fingerprint_model"),
            template: text(row, "fingerprint_template"),
            plan: text(row, "fingerprint_plan"),
          }),
          engineVersion: text(row, "engine_version"),
          bytes: int(row, "bytes"),
        };
  }

  /** The rows of the saved snapshot in order, one at a time; ends early if it is replaced meanwhile. */
  *snapshotRows(number: number): Generator<Uint8Array, void, undefined> {
    for (let position = 0; ; position++) {
      const row = this.#first(
        "SELECT bytes FROM snapshot_row WHERE number = ? AND position = ?",
        number,
        position,
      );
      if (row === undefined) {
        return;
      }
      yield bytes(row, "bytes");
    }
  }

  /** Begins to write a snapshot; its number. What earlier ones left unfinished goes. */
  beginSnapshot(): number {
    const current = this.snapshot()?.number ?? 0;
    const last = this.#first("SELECT COALESCE(MAX(number), 0) AS n FROM snapshot_row");
    this.#sql.exec("DELETE FROM snapshot_row WHERE number <> ?", current);
    return Math.max(current, last === undefined ? 0 : int(last, "n")) + 1;
  }

  /** Writes the next row of a snapshot. */
  appendSnapshotRow(number: number, position: number, data: Uint8Array): void {
    this.#sql.exec(
      "INSERT INTO snapshot_row (number, position, bytes) VALUES (?, ?, ?)",
      number,
      position,
      blob(data),
    );
  }

  /** Puts a snapshot that was written in the place of the one before. */
  finishSnapshot(snapshot: SnapshotRecord): void {
    this.#storage.transactionSync(() => {
      this.#sql.exec(
        `INSERT OR REPLACE INTO snapshot (one, number, tokens, sha256, fingerprint_model, fingerprint_template,
          fingerprint_plan, engine_version, bytes) VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?)`,
        snapshot.number,
        snapshot.tokens,
        blob(snapshot.sha256),
        snapshot.fingerprints.model,
        snapshot.fingerprints.template,
        snapshot.fingerprints.plan,
        snapshot.engineVersion,
        snapshot.bytes,
      );
      this.#sql.exec("DELETE FROM snapshot_row WHERE number <> ?", snapshot.number);
    });
  }

  /** Gives up a snapshot that was begun. */
  abandonSnapshot(number: number): void {
    this.#sql.exec("DELETE FROM snapshot_row WHERE number = ?", number);
  }

  /** Forgets the saved snapshot. */
  deleteSnapshot(): void {
    this.#storage.transactionSync(() => {
      this.#sql.exec("DELETE FROM snapshot");
      this.#sql.exec("DELETE FROM snapshot_row");
    });
  }

  #first(query: string, ...values: SqlValue[]): Row | undefined {
    return this.#sql.exec(query, ...values).toArray()[0];
  }
}
