/** The row of the binding, kept in memory (kept-row.ts). */
import { bindingSlackMs } from "../limits.js";
import { KeptRow } from "./kept-row.js";
import type { RowKind } from "./kept-row.js";
import type { BindingRecord } from "./session-records.js";
import { int, text } from "./sql-row.js";
import type { StoreWrites } from "./store-writes.js";

/** A binding, and its expiry as it is stored. */
interface Kept {
  readonly record: BindingRecord;
  readonly storedMs: number;
}

const bindingKind: RowKind<Kept> = {
  table: "binding",
  read: (row) => ({
    record: {
      worker: text(row, "worker"),
      address: text(row, "address"),
      generation: int(row, "generation"),
      issued: int(row, "issued"),
      expiresMs: int(row, "expires_ms"),
    },
    storedMs: int(row, "expires_ms"),
  }),
  columns: {
    worker: ({ record }) => record.worker,
    address: ({ record }) => record.address,
    generation: ({ record }) => record.generation,
    issued: ({ record }) => record.issued,
    expires_ms: ({ record }) => record.expiresMs,
  },
};

const unbound: BindingRecord = { worker: "", address: "", generation: 0, issued: 0, expiresMs: 0 };

/** See the head of this file. */
export class BindingRow {
  readonly #row: KeptRow<Kept>;

  /** Reads nothing yet. */
  constructor(writes: StoreWrites) {
    this.#row = new KeptRow(writes, bindingKind);
  }

  /** The binding; undefined before the first attempt. */
  get record(): BindingRecord | undefined {
    return this.#row.record?.record;
  }

  /** Changes it, or makes it. An expiry that alone moves on by less than bindingSlackMs is not stored. */
  change(change: Partial<BindingRecord>): void {
    const { record: before, storedMs = 0 } = this.#row.record ?? {};
    const record = { ...unbound, ...before, ...change };
    const same =
      before?.worker === record.worker &&
      before.address === record.address &&
      before.generation === record.generation &&
      before.issued === record.issued;
    const movedMs = record.expiresMs - storedMs;
    if (same && movedMs >= 0 && movedMs < bindingSlackMs) {
      this.#row.keep({ record, storedMs });
    } else {
      this.#row.set({ record, storedMs: record.expiresMs });
    }
  }
}
