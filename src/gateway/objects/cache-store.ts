/**
 * What a SessionObject stores of its session's cache: the plan with its sizes, when the cache is to be
 * saved, and the saved snapshot in rows of at most snapshotRowBytesMax. A snapshot is written under
 * a number of its own and replaces the one before in one transaction, so that what is read is always
 * whole; rows of one that was never finished go with the next one. All but snapshots is kept in memory
 * (store-writes.ts).
 */
import { create } from "@bufbuild/protobuf";
import { FingerprintsSchema } from "../../gen/leanedge/worker/v1/worker_pb.js";
import type { Fingerprints } from "../../gen/leanedge/worker/v1/worker_pb.js";
import { blob, bytes, int, text } from "./sql-row.js";
import { KeptRow } from "./kept-row.js";
import type { RowKind } from "./kept-row.js";
import type { StoreWrites } from "./store-writes.js";

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

/** The one row of `cache`. */
interface CacheRecord {
  readonly plan: PlanRecord;
  readonly pages: number;
  readonly saveDueMs: number;
}

const noCache: CacheRecord = {
  plan: { name: "", pagesMax: 0, bytesMax: 0 },
  pages: 0,
  saveDueMs: 0,
};

const cacheKind: RowKind<CacheRecord> = {
  table: "cache",
  read: (row) => ({
    plan: {
      name: text(row, "plan"),
      pagesMax: int(row, "plan_pages_max"),
      bytesMax: int(row, "plan_bytes_max"),
    },
    pages: int(row, "pages"),
    saveDueMs: int(row, "save_due_ms"),
  }),
  columns: {
    plan: ({ plan }) => plan.name,
    plan_pages_max: ({ plan }) => plan.pagesMax,
    plan_bytes_max: ({ plan }) => plan.bytesMax,
    pages: ({ pages }) => pages,
    save_due_ms: ({ saveDueMs }) => saveDueMs,
  },
};

/** See the head of this file. */
export class CacheStore {
  readonly #writes: StoreWrites;
  readonly #row: KeptRow<CacheRecord>;

  /** The tables are session-schema.ts's. */
  constructor(writes: StoreWrites) {
    this.#writes = writes;
    this.#row = new KeptRow(writes, cacheKind);
  }

  /** The plan; undefined before a worker has accepted the first turn. */
  plan(): PlanRecord | undefined {
    const { plan } = this.#record;
    return plan.name === "" ? undefined : plan;
  }

  /** Stores the plan. */
  setPlan(plan: PlanRecord): void {
    const { name, pagesMax, bytesMax } = this.#record.plan;
    if (plan.name !== name || plan.pagesMax !== pagesMax || plan.bytesMax !== bytesMax) {
      this.#change({ plan });
    }
  }

  /** Archive pages that the worker held when it last said so. */
  pages(): number {
    return this.#record.pages;
  }

  /** Stores how many pages the worker holds. */
  setPages(pages: number): void {
    if (pages !== this.#record.pages) {
      this.#change({ pages });
    }
  }

  /** When the cache is to be saved, in milliseconds since 1970; undefined: not at all. */
  saveDueMs(): number | undefined {
    const { saveDueMs } = this.#record;
    return saveDueMs === 0 ? undefined : saveDueMs;
  }

  /**
   * Sets when the cache is to be saved; 0: not at all. A time that only moves on need not be stored: an object that was lost
   * finds an earlier one, and saves no later for it. Nor need its end: nothing comes of a time that is over but another look.
   */
  setSaveDue(dueMs: number): void {
    const beforeMs = this.#record.saveDueMs;
    if (dueMs === 0) {
      if (beforeMs !== 0) {
        this.#row.setIdly({ ...this.#record, saveDueMs: 0 });
      }
    } else if (beforeMs === 0 || dueMs < beforeMs) {
      this.#change({ saveDueMs: dueMs });
    } else if (dueMs > beforeMs) {
      this.#row.keep({ ...this.#record, saveDueMs: dueMs });
    }
  }

  /** The saved snapshot; undefined if there is none. */
  snapshot(): SnapshotRecord | undefined {
    const row = this.#writes.first("snapshot", "SELECT * FROM snapshot WHERE session = ?");
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
      const row = this.#writes.first(
        "snapshot_row",
        "SELECT bytes FROM snapshot_row WHERE session = ? AND number = ? AND position = ?",
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
    const last = this.#writes.first(
      "snapshot_row",
      "SELECT COALESCE(MAX(number), 0) AS n FROM snapshot_row WHERE session = ?",
    );
    this.#writes.delete("snapshot_row", "number <> ?", current);
    return Math.max(current, last === undefined ? 0 : int(last, "n")) + 1;
  }

  /** Writes the next row of a snapshot. */
  appendSnapshotRow(number: number, position: number, data: Uint8Array): void {
    this.#writes.exec(
      "snapshot_row",
      "INSERT INTO snapshot_row (session, number, position, bytes) VALUES (?, ?, ?, ?)",
      number,
      position,
      blob(data),
    );
  }

  /** Puts a snapshot that was written in the place of the one before. */
  finishSnapshot(snapshot: SnapshotRecord): void {
    this.#writes.atomically(() => {
      this.#writes.exec(
        "snapshot",
        `INSERT OR REPLACE INTO snapshot (session, number, tokens, sha256, fingerprint_model, fingerprint_template,
          fingerprint_plan, engine_version, bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
        snapshot.number,
        snapshot.tokens,
        blob(snapshot.sha256),
        snapshot.fingerprints.model,
        snapshot.fingerprints.template,
        snapshot.fingerprints.plan,
        snapshot.engineVersion,
        snapshot.bytes,
      );
      this.#writes.delete("snapshot_row", "number <> ?", snapshot.number);
    });
  }

  /** Gives up a snapshot that was begun. */
  abandonSnapshot(number: number): void {
    this.#writes.delete("snapshot_row", "number = ?", number);
  }

  /** Forgets the saved snapshot. */
  deleteSnapshot(): void {
    this.#writes.atomically(() => {
      this.#writes.delete("snapshot");
      this.#writes.delete("snapshot_row");
    });
  }

  get #record(): CacheRecord {
    return this.#row.record ?? noCache;
  }

  #change(change: Partial<CacheRecord>): void {
    this.#row.set({ ...this.#record, ...change });
  }
}
