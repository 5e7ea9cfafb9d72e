/**
 * What a PoolObject stores: processes that registered, and wishes of people, so that an eviction of the object loses
 * neither. Heartbeats are not stored. All SQL of the pool is here.
 */
import { newEntry } from "../pool/pool-entry.js";
import type { PoolEntry, WorkerModel } from "../pool/pool-entry.js";
import { entered } from "../pool/worker-state.js";
import type { WorkerFacts } from "../pool/worker-state.js";
import { flag, int, text } from "./sql-row.js";
import type { Row } from "./sql-row.js";

/** See the head of this file. */
export class PoolStore {
  readonly #sql: SqlStorage;

  /** Makes the table where it is missing. */
  constructor(storage: DurableObjectStorage) {
    this.#sql = storage.sql;
    this.#sql.exec(
      `CREATE TABLE IF NOT EXISTS worker (
        worker TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        -- 1: it registered; 0: the configuration has it, and only wishes of people are stored.
        registered INTEGER NOT NULL,
        address TEXT NOT NULL,
        incarnation TEXT NOT NULL,
        start_ms INTEGER NOT NULL,
        -- JSON of WorkerModel[].
        models TEXT NOT NULL,
        answered INTEGER NOT NULL,
        drain_wanted INTEGER NOT NULL,
        evicted_ms INTEGER NOT NULL
      )`,
    );
  }

  /** Processes that registered. They count as heard now: nobody could hear them meanwhile. */
  registered(nowMs: number): PoolEntry[] {
    return this.#sql
      .exec("SELECT * FROM worker WHERE registered = 1")
      .toArray()
      .map((row) =>
        newEntry(
          { worker: text(row, "worker"), name: text(row, "name"), origin: "registered" },
          nowMs,
          {
            address: text(row, "address"),
            incarnation: text(row, "incarnation"),
            startMs: int(row, "start_ms"),
            models: JSON.parse(text(row, "models")) as WorkerModel[],
            facts: factsOf(row, true, nowMs),
          },
        ),
      );
  }

  /** Facts of a worker of the configuration, with the wishes of people. */
  configuredFacts(worker: string, nowMs: number): WorkerFacts {
    const [row] = this.#sql
      .exec("SELECT * FROM worker WHERE worker = ? AND registered = 0", worker)
      .toArray();
    return row === undefined ? entered(nowMs, { reports: false }) : factsOf(row, false, nowMs);
  }

  /** Stores an entry as it is. */
  put(entry: PoolEntry): void {
    this.#sql.exec(
      `INSERT OR REPLACE INTO worker (worker, name, registered, address, incarnation, start_ms, models, answered,
        drain_wanted, evicted_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
      entry.worker,
      entry.name,
      Number(entry.origin === "registered"),
      entry.address,
      entry.incarnation,
      entry.startMs,
      JSON.stringify(entry.models),
      Number(entry.facts.answered),
      Number(entry.facts.drainWanted),
      entry.facts.evictedMs,
    );
  }

  /** Forgets an entry. */
  remove(worker: string): void {
    this.#sql.exec("DELETE FROM worker WHERE worker = ?", worker);
  }
}

function factsOf(row: Row, reports: boolean, nowMs: number): WorkerFacts {
  return {
    ...entered(nowMs, { reports, drainWanted: flag(row, "drain_wanted") }),
    answered: reports && flag(row, "answered"),
    evictedMs: int(row, "evicted_ms"),
  };
}
